"""A prompted model with a linear head on the user vector, trained to predict an attribute.

Letters: B batch, S history length, M attributes, U users, G classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from p5jax.core.errors import UserError
from p5jax.core.folder import OutputFolder, as_json
from p5jax.core.lock import released
from p5jax.core.settings import COUNT, PROPER_SHARE, SIZE, check
from p5jax.models.initial import Params, fresh_params, logical_axes
from p5jax.models.layers import Dense
from p5jax.parallel import distributed
from p5jax.parallel.partitioning import MeshConfig, make_mesh, process_share
from p5jax.parallel.placing import place_rows, to_host
from p5jax.pipeline.batching import Batch, process_slice
from p5jax.pipeline.epochs import EpochIterator
from p5jax.ppr.backbone.model import STDDEV, backbone_axes
from p5jax.ppr.backbone.run import PprRun, backbone_entry
from p5jax.ppr.cold.protocol import ColdStart
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.model import BACKBONE, PromptedModel
from p5jax.ppr.prediction.task import PredictionTask
from p5jax.ppr.tuning import MODES, validation_users
from p5jax.training.checkpoints import params_fingerprint, restore_params
from p5jax.training.objective import DeviceBatch, Objective
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.trainer import CHECKPOINT_FOLDER, TrainConfig, train

PREDICTION = OutputFolder("profile prediction", "prediction.json", 2, "p5jax ppr predict")
PROMPTED = "prompted"  # the prompted model's parameters within the classifier's


@dataclass(frozen=True)
class PredictionConfig:
    """How the classifier is trained: what a mode of MODES trains, and the head.

    steps of Adam with a constant `learning_rate` (0: the mode's own). Every `validate_every` steps
    the loss on `validation_share` of the training users is measured; the best step is kept.
    """

    mode: str = "light"
    steps: int = 500
    validate_every: int = 25
    learning_rate: float = 0.0
    seed: int = 0
    batch_size: int = 64
    validation_share: float = 0.2

    def __post_init__(self) -> None:
        check(
            self,
            mode=MODES,
            steps=SIZE,
            validate_every=COUNT,
            learning_rate=COUNT,
            batch_size=SIZE,
            validation_share=PROPER_SHARE,
        )


class ProfileClassifier(nn.Module):
    """Class scores [B, G] of profiles [B, M] and histories [B, S]."""

    prompted_model: PromptedModel
    classes: int

    def setup(self) -> None:
        self.prompted = self.prompted_model.clone()
        self.head = Dense(self.classes, ("embed", "mlp"), STDDEV, bias=True)

    def __call__(
        self, profiles: jax.Array, items_BxS: jax.Array, deterministic: bool = True
    ) -> jax.Array:
        """The linear head on u_p."""
        vector, _ = self.prompted(profiles, items_BxS, deterministic)
        return self.head(vector)


class UserIterator(EpochIterator):
    """An endless iterator of a process's rows of batches of users, each once in an epoch.

    A batch is {"profiles": int32 [B, M], "items": int32 [B, S], "labels": int32 [B], "weights":
    float32 [B]}; rows that fill an epoch's last batch have weight 0.
    """

    def __init__(
        self,
        task: PredictionTask,
        users: np.ndarray,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        super().__init__(batch_size, process_index, process_count)
        self._task, self._users, self._seed = task, users, seed

    def epoch(self, number: int) -> Sequence[Batch]:
        """Return the batches of an epoch, in order."""
        order = np.random.default_rng([self._seed, number]).permutation(self._users)
        return list(batches_of(self._task, order, self.rows))


def batch_of(task: PredictionTask, users: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Return one batch of `users`, filled up to `size` rows with weight 0."""
    filled = np.resize(users, size)
    return {
        "profiles": task.others.codes_UxM[filled],
        "items": task.items_UxS[filled],
        "labels": task.labels[filled],
        "weights": (np.arange(size) < len(users)).astype(np.float32),
    }


def batches_of(
    task: PredictionTask, users: np.ndarray, size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches of all `users` in order."""
    for start in range(0, len(users), size):
        yield batch_of(task, users[start : start + size], size)


def classification_objective(model: ProfileClassifier) -> Objective:
    """Softmax cross-entropy of the labels, averaged over the rows that count."""

    def objective(
        params: Params, batch: DeviceBatch, rng: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        rngs = None if rng is None else {"dropout": rng}
        made = model.apply(
            {"params": params}, batch["profiles"], batch["items"], rng is None, rngs=rngs
        )
        logits = cast(jax.Array, made)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        weights = batch["weights"]
        hits = (logits.argmax(axis=-1) == batch["labels"]) * weights
        sums = {"loss_sum": (each * weights).sum(), "hits": hits.sum()}
        sums |= dict.fromkeys(("weight", "examples", "scored"), weights.sum())
        return sums["loss_sum"], sums

    return objective


@released()
def predict_attribute(
    run: PprRun,
    split: ColdStart,
    task: PredictionTask,
    out: str | os.PathLike[str],
    config: PredictionConfig,
    prompt: PromptConfig,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Train, or resume, a classifier in the folder `out`.

    Returns the predicted classes of the task's test users, int32 [test users], by the step with the
    least loss on held-out training users. Interrupted by a signal. UserError when the backbone was
    pre-trained on cold users, and when `out` holds something else.
    """
    if not run.trained_on(split.warm):
        raise UserError(
            f"{run.path}: pre-trained on other users than the warm ones of this protocol"
        )
    recent = task.items_UxS[:, -run.model.config.max_history :]
    task, mode = replace(task, items_UxS=recent), MODES[config.mode]
    model = ProfileClassifier(
        PromptedModel(run.model.config, prompt, task.others.sizes, mode.prompted),
        task.classes,
    )
    mesh = mesh or run.mesh or make_mesh(MeshConfig())
    users, held_out = validation_users(task.train, config.validation_share)
    folder = Path(out).absolute()
    manifest = _manifest(run, split, task, config, prompt, folder)
    distributed.from_primary(lambda: _claim(folder, manifest))
    result = train(
        classification_objective(model),
        *_start(run, model, task, config.seed),
        UserIterator(task, users, config.batch_size, config.seed, *process_share(mesh)),
        OptimizerConfig(
            learning_rate=config.learning_rate or mode.learning_rate,
            schedule="constant",
            warmup_fraction=0.0,
            weight_decay=0.0,
        ),
        mesh,
        TrainConfig(
            steps=config.steps,
            seed=config.seed,
            log_every=min(100, config.steps),
            validate_every=config.validate_every,
            checkpoint_every=config.steps,
        ),
        folder,
        fingerprint={name: manifest[name] for name in ("prediction", "prompt", "protocol", "task")},
        validation_batches=[
            process_slice(batch, *process_share(mesh))
            for batch in batches_of(task, held_out, config.batch_size)
        ],
        trainable=(*(f"{PROMPTED}/{pattern}" for pattern in mode.trainable), "head/*"),
    )
    params = restore_params(folder / CHECKPOINT_FOLDER, result.params)
    return classify(model, params, task, config.batch_size)


def _manifest(
    run: PprRun,
    split: ColdStart,
    task: PredictionTask,
    config: PredictionConfig,
    prompt: PromptConfig,
    folder: Path,
) -> dict[str, Any]:
    known = {"others": task.others.codes_UxM, "labels": task.labels}
    manifest: dict[str, Any] = as_json(
        {
            "attribute": task.attribute,
            "backbone": backbone_entry(run, folder),
            "dataset": run.dataset.fingerprint,
            "protocol": asdict(split.config),
            "prediction": asdict(config),
            "prompt": asdict(prompt),
            "task": params_fingerprint({**known, "train": task.train, "test": task.test}),
        }
    )
    return manifest


def _claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Make the folder, or see that it is this prediction's."""
    if PREDICTION.claim(folder, manifest) is None:
        PREDICTION.write(folder, manifest)


def _start(
    run: PprRun, model: ProfileClassifier, task: PredictionTask, seed: int
) -> tuple[Params, dict[str, Any]]:
    """Parameters to start from, the backbone's and fresh ones, and their logical axes."""
    example = task.others.codes_UxM[:1], task.items_UxS[:1]
    params = fresh_params(model, jax.random.key(seed), *example)
    axes = logical_axes(model, *example)
    params[PROMPTED] = {**params[PROMPTED], BACKBONE: run.params}
    axes[PROMPTED] = {**axes[PROMPTED], BACKBONE: backbone_axes(run.model)}
    return params, axes


def classify(
    model: ProfileClassifier, params: Params, task: PredictionTask, batch_size: int
) -> np.ndarray:
    """Return the most probable class of each test user, int32 [test users]."""
    apply = jax.jit(model.apply)
    classes = []
    for batch in batches_of(task, task.test, batch_size):
        profiles, items = (place_rows(params, batch[name]) for name in ("profiles", "items"))
        logits: np.ndarray = to_host(apply({"params": params}, profiles, items))
        classes.append(logits.argmax(axis=-1)[: int(batch["weights"].sum())])
    return np.concatenate(classes).astype(np.int32)
