"""Training of tiny models for the tests of the loop; as a script it trains one in a process."""

from __future__ import annotations

import io
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from p5jax.core.errors import Interrupted
from p5jax.parallel.partitioning import MeshConfig, make_mesh
from p5jax.training.objective import batch_sums
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.trainer import TrainConfig, train
from p5jax.training.writers import read_metrics

VOCABULARY = 64
STEPS = 20


class Toy(nn.Module):
    """A stand-in with the Transformer's call: quick to compile, and with dropout."""

    @nn.compact
    def __call__(
        self,
        encoder_input_tokens,
        decoder_input_tokens,
        decoder_target_tokens,
        encoder_segment_ids=None,
        decoder_segment_ids=None,
        *,
        enable_dropout=True,
    ):
        table = self.param("embedding", nn.initializers.normal(1.0), (VOCABULARY, 16))
        real = (encoder_input_tokens > 0)[..., None]
        source = (table[encoder_input_tokens] * real).sum(axis=1, keepdims=True)
        x = table[decoder_input_tokens] + source
        x = nn.Dropout(0.1)(jnp.tanh(x), deterministic=not enable_dropout)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (16, VOCABULARY))
        return x @ kernel


TOY_AXES = {"embedding": ("vocab", "embed"), "kernel": ("embed", "vocab")}


def toy_params():
    tokens = jnp.ones((1, 2), jnp.int32)
    return Toy().init(jax.random.key(0), tokens, tokens, tokens, enable_dropout=False)["params"]


class Batches:
    """Random batches of skewed tokens, a function of (seed, position) alone.

    `at` maps a position to what is done when the batch there is asked for.
    """

    def __init__(self, seed=0, lengths=(8, 16), at=None):
        self.seed, self.lengths, self.position = seed, lengths, 0
        self.at = at or {}

    def __next__(self):
        if self.position in self.at:
            self.at[self.position]()
        rng = np.random.default_rng([self.seed, self.position])
        length = self.lengths[int(rng.integers(len(self.lengths)))]
        self.position += 1
        source = (3 + (VOCABULARY - 3) * rng.random((8, length)) ** 4).astype(np.int32)
        target = source[:, :4].copy()
        target[:, 3] = np.where(rng.random(8) < 0.5, 0, target[:, 3])
        real = target > 0
        return {
            "encoder_input_tokens": source,
            "decoder_input_tokens": np.pad(target[:, :-1], ((0, 0), (1, 0))),
            "decoder_target_tokens": target,
            "decoder_loss_weights": (real / real.sum(1, keepdims=True)).astype(np.float32),
        }

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


CONFIG = TrainConfig(steps=STEPS, log_every=4, checkpoint_every=5, validate_every=10)
# Adam divides by the gradient's size: a larger eps keeps rounding from growing to a step.
OPTIMIZER = OptimizerConfig(learning_rate=0.03, warmup_fraction=0.1, eps=1e-3)


def train_toy(run_dir, batches=None, config=CONFIG, optimizer=OPTIMIZER, params=None, **keywords):
    mesh = make_mesh(MeshConfig(1, 1) if jax.device_count() == 1 else MeshConfig())
    params = toy_params() if params is None else params
    keywords.setdefault("validation_batches", [next(Batches(9))])
    keywords.setdefault("stream", io.StringIO())
    return train(
        partial(batch_sums, Toy()),
        params,
        TOY_AXES,
        batches or Batches(),
        optimizer,
        mesh,
        config,
        run_dir,
        **keywords,
    )


def assert_same_bits(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), a, b)


def train_records(run_dir):
    """Records without the clock's values."""
    records = read_metrics(run_dir / "metrics.jsonl")
    return [{k: v for k, v in r.items() if k != "time" and "second" not in k} for r in records]


def _in_process(run_dir: Path, stop_at: int, port: str, process: str) -> Any:
    """One of two processes with a device each; the second gets a signal at a batch."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
    rows = slice(int(process) * 4, int(process) * 4 + 4)

    class Half(Batches):
        def __next__(self):
            return {name: value[rows] for name, value in super().__next__().items()}

    at = {stop_at: lambda: os.kill(os.getpid(), signal.SIGTERM)} if process == "1" else {}
    return train_toy(run_dir, Half(at=at), validation_batches=[next(Half(9))])


def _main(task: str, run_dir: str, *arguments: str) -> None:
    if task == "toy":
        die_at = int(arguments[0])
        batches = Batches(at={die_at: lambda: os.kill(os.getpid(), signal.SIGKILL)})
        result = train_toy(Path(run_dir), batches)
    elif task == "process":
        try:
            result = _in_process(Path(run_dir), int(arguments[0]), arguments[1], arguments[2])
        except Interrupted as stop:
            print(stop)
            return
    else:
        from p5jax.models.t5 import T5Config, Transformer, init_params, param_axes

        model = Transformer(
            T5Config(
                vocab_size=VOCABULARY,
                emb_dim=16,
                num_heads=4,
                num_encoder_layers=1,
                num_decoder_layers=1,
                head_dim=8,
                mlp_dim=32,
                word_starts=np.packbits(np.arange(VOCABULARY) % 3 == 0).tobytes(),
            )
        )
        data, size = map(int, arguments[:2])
        result = train(
            partial(batch_sums, model),
            init_params(model, jax.random.key(0)),
            param_axes(model),
            Batches(lengths=(12,)),
            OPTIMIZER,
            make_mesh(MeshConfig(data, size)),
            CONFIG,
            run_dir,
            fsdp="fsdp" in arguments,
            stream=sys.stdout,
        )
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(result.params)
    }
    if jax.process_index() == 0:
        np.savez(Path(run_dir) / "final.npz", **leaves)
    print(f"step {result.step}")


if __name__ == "__main__":
    _main(*sys.argv[1:])
