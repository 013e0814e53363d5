"""One training run, wired together: dataset -> families -> pipeline -> model -> trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from p5jax.core import config
from p5jax.core.errors import UserError
from p5jax.core.folder import as_json
from p5jax.core.lock import released
from p5jax.core.settings import COUNT, check
from p5jax.data.dataset import Dataset
from p5jax.data.families import FAMILIES
from p5jax.data.item_vectors import item_texts, item_vectors
from p5jax.evaluation.evaluators import validation_metrics, validation_ranking
from p5jax.evaluation.recipe import RecipeConfig
from p5jax.jobs.start import Bindings, PathName, configure, keep_config, refuse_leaks
from p5jax.models.checkpoints.hugging_face import import_hugging_face
from p5jax.models.checkpoints.t5x import check_t5x, import_t5x, is_t5x
from p5jax.models.checkpoints.tokenizer import PIECES, refuse_other_pieces, refuse_other_tokenizer
from p5jax.models.initial import Params
from p5jax.models.starts import StartConfig, with_item_vectors, with_word_vectors
from p5jax.models.t5 import T5Config, init_params, param_axes
from p5jax.parallel import distributed
from p5jax.parallel.partitioning import MeshConfig, make_mesh, process_share
from p5jax.pipeline.batching import process_slice
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.iterator import supervised_batches, train_iterator
from p5jax.prompts.families import Example, Family, FamilyConfig, example_rng
from p5jax.runs.run import Run, RunConfig
from p5jax.text.vocabulary import Vocabulary
from p5jax.text.word_vectors import word_vectors
from p5jax.training import trainer
from p5jax.training.checkpoints import reading
from p5jax.training.checksums import PROGRESS, compared
from p5jax.training.objective import ObjectiveConfig, batch_sums
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.plan import check_metric
from p5jax.training.trainer import TrainConfig
from p5jax.training.utilisation import t5_work


@dataclass(frozen=True)
class ValidationConfig:
    """What is measured during training, always on the validation split.

    examples: per family, for validation/loss. rank_users: users of the sequential family ranked
    over the whole catalogue with `rank_prompt`, for validation/HR@10 and NDCG@10 (0: none).
    """

    examples: int = 256
    rank_users: int = 0
    rank_prompt: str = "2-3"

    def __post_init__(self) -> None:
        check(self, examples=COUNT, rank_users=COUNT)


CONFIGS = (
    *(RunConfig, FamilyConfig, T5Config, PipelineConfig),
    *(OptimizerConfig, ObjectiveConfig, MeshConfig, TrainConfig, ValidationConfig),
    *(StartConfig, RecipeConfig),
)


@released()
def train(*gin_files: PathName, bindings: Bindings | None = None, **macros: object) -> Run:
    """Train, or resume, the run that gin files and the values given describe; return it.

    gin_files: by path, or by name below gin/. macros: values of the files' macros, DATASET and
    RUN_DIR among them; bindings: values by their full names, {"T5Config.dtype": "bfloat16"}.
    UserError for settings that nothing uses or that differ from those of a run that is there, and
    for a dataset that leaks. Interrupted after an orderly stop by a signal.
    """
    configure(CONFIGS, gin_files, bindings, macros)
    validation, pipeline = config.build(ValidationConfig), config.build(PipelineConfig)
    optimizer, training = config.build(OptimizerConfig), config.build(TrainConfig)
    start, objective = config.build(StartConfig), config.build(ObjectiveConfig)
    check_metric(training.best_metric, _metrics(validation, config.build(RunConfig).dataset))
    mesh_config = config.build(MeshConfig)
    mesh = make_mesh(mesh_config)
    share = process_share(mesh)
    run = configured_run(mesh)
    trainer.train(
        partial(batch_sums, run.model, children=run.children, config=objective),
        _initial_params(run, start, training.seed),
        param_axes(run.model),
        train_iterator(run.families, run.vocabulary, pipeline, *share),
        optimizer,
        mesh,
        training,
        run.path,
        fingerprint=_fingerprint(run, pipeline, optimizer, objective, training, start),
        validate=_rank_validator(run, validation) if validation.rank_users else None,
        validation_batches=[
            process_slice(batch, *share)
            for batch in supervised_batches(
                _validation_examples(run.families, validation), run.vocabulary, pipeline
            )
        ],
        fsdp=mesh_config.fsdp,
        begun=partial(_keep, run),
        work=partial(t5_work, run.model.config),
    )
    return run


def _metrics(validation: ValidationConfig, dataset: str) -> list[str]:
    """The names of what is measured during training on a dataset."""
    measured = ["validation/loss", "validation/accuracy"] if validation.examples else []
    if validation.rank_users:
        measured += validation_metrics(Dataset.load(dataset).num_items)
    return measured


def _keep(run: Run) -> None:
    run.write()
    keep_config(run.path)


def configured_run(mesh: Mesh | None = None) -> Run:
    """Make, or open, the run that is bound, on a mesh; UserError when its data leak."""
    run_config = config.build(RunConfig)
    families, model = config.build(FamilyConfig), _model_config(run_config)
    run = Run.create(run_config, families, model, mesh)
    if refuse_leaks(run.dataset).leaky:
        distributed.report("note: item ids are `released`: leaky, as in the published P5")
    for name, kind in FAMILIES.items():
        if kind.needs and not run_config.families and name not in run.dataset.families:
            distributed.report(f"note: the dataset has no {kind.needs.words}, so no {name} family")
    return run


def _model_config(run_config: RunConfig) -> T5Config:
    """Return the model's sizes: gin's, or an initial checkpoint's with gin's dropout and dtype.

    A t5x checkpoint carries no sizes: gin's must be its own.
    """
    # The run knows its vocabulary, and sets the size.
    wanted = config.build(T5Config, vocab_size=0)
    if not run_config.initial_checkpoint:
        return wanted
    if is_t5x(run_config.initial_checkpoint):
        check_t5x(run_config.initial_checkpoint, wanted)
        return wanted
    sizes, _ = import_hugging_face(run_config.initial_checkpoint)
    return replace(
        sizes,
        dropout_rate=wanted.dropout_rate,
        decoder_dropout_rate=wanted.decoder_dropout_rate,
        item_dropout_rate=wanted.item_dropout_rate,
        output_dropout_rate=wanted.output_dropout_rate,
        dtype=wanted.dtype,
        likelihood=wanted.likelihood,
        whole_words=wanted.whole_words or sizes.whole_words,
    )


def _initial_params(run: Run, start: StartConfig, seed: int) -> Params:
    """Return a run's first parameters: a checkpoint's or random ones, and vectors if asked."""
    params, dataset = _without_vectors(run, seed), run.dataset
    if start.word_vectors:
        if run.manifest["initial_checkpoint"]:
            raise UserError(
                "StartConfig.word_vectors: found an initial checkpoint, which has learned its words"
            )
        width = run.model.config.emb_dim
        params = with_word_vectors(params, word_vectors(run.vocabulary, dataset, width), seed)
    if not start.item_vectors:
        return params
    texts = item_texts(dataset.items)
    vectors = item_vectors(dataset.training_sequences, texts, dataset.given_vectors)
    return with_item_vectors(params, run.vocabulary, dataset.item_ids, vectors, seed)


def _without_vectors(run: Run, seed: int) -> Params:
    source, model = run.manifest["initial_checkpoint"], run.model.config
    if not source:
        return init_params(run.model, jax.random.key(seed))
    _refuse_other_vocabulary(run, source)
    if is_t5x(source):
        path = Path(source)
        with reading(path), compared(path / PROGRESS):
            return import_t5x(source, model)
    starts = model.word_starts if model.whole_words else b""
    sizes = {"vocab_size": model.vocab_size, "pieces": run.vocabulary.num_pieces}
    return import_hugging_face(source, word_starts=starts, **sizes)[1]


def _refuse_other_vocabulary(run: Run, source: str) -> None:
    """Raise UserError when the weights of `source` were trained with another vocabulary.

    A Hugging Face folder has the vocabulary with it, a run's checkpoint above it. Where there is
    none, one that was trained on this run's text cannot be it, but for t5x's, whose runs have it.
    """
    path = Path(source)
    beside, above = path if path.is_dir() else path.parent, path.parent.parent / "vocabulary"
    if (beside / PIECES).is_file():
        refuse_other_tokenizer(source, beside, run.vocabulary)
    elif is_t5x(source) and above.is_dir():
        refuse_other_pieces(source, Vocabulary.load(above), run.vocabulary)
    elif is_t5x(source):
        distributed.report(f"note: {source} does not say which vocabulary it was trained with")
    elif run.manifest["vocabulary_source"].endswith(" pieces"):
        raise UserError(
            f"{source}: has no {PIECES}, and the run's vocabulary is trained on its own text; set"
            " RunConfig.vocabulary to the SentencePiece model of these weights"
        )


def _fingerprint(
    run: Run,
    pipeline: PipelineConfig,
    optimizer: OptimizerConfig,
    objective: ObjectiveConfig,
    training: TrainConfig,
    start: StartConfig,
) -> dict[str, Any]:
    """What a run depends on, JSON-able: a resumed run must have the same."""
    parts: dict[str, Any] = {
        "PipelineConfig": asdict(pipeline),
        "OptimizerConfig": asdict(optimizer),
        "ObjectiveConfig": asdict(objective),
        "TrainConfig": training.identity(),
        "StartConfig": asdict(start),
    }
    for irrelevant in ("shards", "threads", "workers"):  # the pipeline's state knows shards
        del parts["PipelineConfig"][irrelevant]
    keys = ("dataset", "vocabulary", "templates", "families", "family_config", "model")
    parts |= {key: run.manifest[key] for key in keys}
    parts["dataset"] = run.dataset.fingerprint
    found: dict[str, Any] = as_json(parts)
    return found


def _validation_examples(
    families: dict[str, Family], validation: ValidationConfig
) -> Iterator[Example]:
    """Yield the first examples of each family's validation split, each under one seen prompt."""
    for name, family in families.items():
        prompts = [t.id for t in family.templates.values() if t.seen]
        for prompt in prompts:
            count = min(family.size("validation", prompt), -(-validation.examples // len(prompts)))
            for index in range(count):
                rng = example_rng(0, 0, name, index)
                yield family.example("validation", index, rng, prompt)


def _rank_validator(
    run: Run, validation: ValidationConfig
) -> Callable[[Params, int], dict[str, float]]:
    """Return a function (params, step) -> whole-catalogue metrics of some validation users."""

    def validate(params: Params, step: int) -> dict[str, float]:
        trained = run.with_params(params)
        return validation_ranking(trained, validation.rank_prompt, validation.rank_users)

    return validate
