"""A run of `p5jax train` and its sizes, for what is held against t5x."""

from __future__ import annotations

from p5jax.cli.main import main
from p5jax.runs.run import Run

SIZES = {
    "emb_dim": 16,
    "num_heads": 2,
    "head_dim": 8,
    "mlp_dim": 32,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
}
LENGTHS = {"inputs": 192, "targets": 16}


def flags(values):
    return [f"--gin.{name}={value}" for name, value in values.items()]


def p5jax_train(world, run, **more):
    values = {
        "DATASET": world.path,
        "RUN_DIR": run,
        "STEPS": 3,
        "BATCH_SIZE": 8,
        "RunConfig.vocabulary_size": 400,
        "RunConfig.families": "('rating', 'sequential')",
        "FamilyConfig.max_source": LENGTHS["inputs"],
        "PipelineConfig.source_lengths": f"({LENGTHS['inputs']},)",
        "ValidationConfig.examples": 4,
    }
    values |= {f"T5Config.{name}": size for name, size in SIZES.items()}
    assert main(["train", "--gin_file=runs/p5.gin", *flags(values | more)]) == 0
    return Run.load(run)
