"""The training loop: steps, records, validation, checkpoints, interruption and resuming."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import jax
from jax.sharding import Mesh

from p5jax.core.errors import Interrupted, UserError
from p5jax.core.interruption import Interruption
from p5jax.core.settings import COUNT, SIZE, check
from p5jax.parallel import distributed
from p5jax.parallel.partitioning import describe_mesh, shard_batch
from p5jax.pipeline.batching import Batch
from p5jax.pipeline.epochs import EpochIterator
from p5jax.training.checkpoints import Checkpoints
from p5jax.training.freezing import EVERYTHING
from p5jax.training.objective import DeviceBatch, Objective
from p5jax.training.optimizer import OptimizerConfig, make_optimizer
from p5jax.training.plan import planned
from p5jax.training.resuming import newest_whole
from p5jax.training.step import Steps
from p5jax.training.utilisation import utilisation
from p5jax.training.writers import RunWriters

CHECKPOINT_FOLDER = "checkpoints"
_PROGRESS = ("step", "window", "best", "validated", "metrics")  # what a checkpoint keeps of a loop
Validate = Callable[[Any, int], Mapping[str, float]]
Work = Callable[[DeviceBatch], Mapping[str, float]]


@dataclass(frozen=True)
class TrainConfig:
    """Length and rhythm of a run, in optimizer steps.

    Validation and a checkpoint also come at the end; 0 means only there. A validation that
    improves `best_metric` (`best_mode` "min" or "max") saves a checkpoint too, which is kept
    beside the last `keep`.
    """

    steps: int = 1000
    seed: int = 0
    log_every: int = 20
    validate_every: int = 0
    checkpoint_every: int = 1000
    keep: int = 2
    best_metric: str = "validation/loss"
    best_mode: str = "min"

    def __post_init__(self) -> None:
        check(
            self,
            **dict.fromkeys(("steps", "log_every", "keep"), SIZE),
            **dict.fromkeys(("validate_every", "checkpoint_every"), COUNT),
            best_mode=("min", "max"),
        )

    def identity(self) -> dict[str, Any]:
        """Return, JSON-able, what a run's result depends on."""
        irrelevant = ("log_every", "keep", "checkpoint_every")
        return {name: value for name, value in asdict(self).items() if name not in irrelevant}


@dataclass(frozen=True)
class TrainResult:
    """What a finished run ends with.

    `params` are the last step's, on the mesh; `metrics` the last training and validation records;
    `best` is {"step", "value"} or None.
    """

    step: int
    params: Any
    metrics: dict[str, float]
    best: dict[str, Any] | None


def train(
    objective: Objective,
    params: Any,
    axes: Any,
    iterator: EpochIterator,
    optimizer: OptimizerConfig,
    mesh: Mesh,
    config: TrainConfig,
    run_dir: str | os.PathLike[str],
    *,
    fingerprint: Mapping[str, Any] | None = None,
    validate: Validate | None = None,
    validation_batches: Sequence[Batch] = (),
    fsdp: bool = False,
    trainable: Sequence[str] = EVERYTHING,
    begun: Callable[[], object] | None = None,
    work: Work = lambda batch: {},
    stream: TextIO | None = None,
) -> TrainResult:
    """Train `params` (with logical `axes`) for `config.steps` steps, or resume in `run_dir`.

    `objective` says what is minimised (see training.objective). Only the parameters whose paths
    `trainable` matches change (see training.freezing), the others keep every bit. Writes
    run_dir/{checkpoints, metrics.jsonl, tensorboard}. A run with checkpoints resumes from the
    latest that is whole, bit for bit as if it had not stopped; its `fingerprint` (JSON-able: what
    the run depends on) must be the one it was started with, but for more steps (training.plan).
    `validation_batches` (this process's rows) give validation/loss and, where the objective
    scores, validation/accuracy, and `validate(params, step)` others. `fsdp`: MeshConfig. `work`
    says how many `positions` and `flops` a batch takes (training.utilisation). `begun` is called
    once nothing more can refuse the run, before anything of it is written. Interrupted after
    SIGINT or SIGTERM, with a checkpoint saved. UserError when the loss is not finite, naming the
    step; the last good checkpoint stays.
    """
    folder = Path(run_dir) / CHECKPOINT_FOLDER
    made_from, length = planned(folder, fingerprint or {}, optimizer, config.steps)
    tx, schedule = make_optimizer(optimizer, length)
    steps = Steps(
        *(objective, tx, mesh, axes, params),
        seed=config.seed,
        accumulate=optimizer.accumulate,
        fsdp=fsdp,
        trainable=trainable,
    )
    with (
        Interruption() as interruption,
        Checkpoints(folder, config.keep) as c,
        distributed.together(),  # innermost: closing checkpoints would wait for a lost process
    ):
        parts = (config, steps, schedule, iterator, c, made_from, validate, validation_batches)
        loop = _Loop(*parts, work)
        loop.begin(params, begun or (lambda: None))
        del params
        primary = distributed.is_primary()
        with RunWriters(
            run_dir, config.steps, resumed_step=loop.step, primary=primary, stream=stream
        ) as loop.writers:
            loop.writers.message(describe_mesh(mesh, fsdp))
            return loop.run(interruption)


@dataclass
class _Loop:
    """A run between two steps: what it is made of, then what changes from step to step."""

    config: TrainConfig
    steps: Steps
    schedule: Callable[[int], Any]
    iterator: EpochIterator
    checkpoints: Checkpoints
    fingerprint: Mapping[str, Any]
    validate: Validate | None
    validation_batches: Sequence[Batch]
    work: Work
    writers: RunWriters = field(init=False)
    state: Any = None
    step: int = 0
    # Sums since the last record: in the checkpoint, so that a resumed run's records are the
    # uninterrupted run's.
    window: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    validated: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    _pending: tuple[int, dict[str, Any]] | None = None
    _shapes: set[Any] = field(default_factory=set)

    def begin(self, params: Any, begun: Callable[[], object]) -> None:
        """Take up the last checkpoint, or start from `params`; then nothing refuses the run."""
        if self.checkpoints.steps():
            abstract = self.steps.abstract_state
            progress, self.state = newest_whole(self.checkpoints, abstract, self.fingerprint)
            self.iterator.set_state(progress["pipeline"])
            for name in _PROGRESS:
                setattr(self, name, progress.get(name, getattr(self, name)))
        else:
            self.state = self.steps.init(params)
        distributed.reached(f"after step {self.step}")
        begun()

    def run(self, interruption: Interruption) -> TrainResult:
        """Go on to the last step; Interrupted by a signal."""
        config = self.config
        if self.step:
            self.writers.message(f"resuming after step {self.step}")
        if self._due(config.validate_every) and self.validated != self.step:
            self._validate()  # the interrupted run left this out
        while self.step < config.steps:
            self._advance()
            if self.step % config.log_every == 0 or self.step == config.steps:
                self._record()
            stop = self._agreed(interruption)
            if stop is not None and self.step < config.steps:
                self._save()
                self.checkpoints.wait()
                self.writers.message(f"interrupted after step {self.step}; checkpoint saved")
                raise Interrupted(stop, f"stopped at step {self.step}; the same command resumes it")
            improved = self._due(config.validate_every) and self._validate()
            if improved or self._due(config.checkpoint_every):
                self._save()
        self.checkpoints.wait()
        stop = distributed.agreed_signal(interruption.signal)
        if stop is not None:  # in the last step or validation: what follows the run is not begun
            text = f"finished step {self.step}, then stopped"
            raise Interrupted(stop, f"{text}; the same command resumes what follows")
        return TrainResult(self.step, self.state["target"], dict(self.metrics), self.best)

    def _due(self, every: int) -> bool:
        return self.step == self.config.steps or bool(every and self.step % every == 0)

    def _advance(self) -> None:
        """One optimizer step; waits for the one before, so that at most one is in flight."""
        started = time.monotonic()
        batches = [shard_batch(self.steps.mesh, self._next()) for _ in range(self.steps.accumulate)]
        # The first batch and those added to it are two functions.
        names = ["step" if i == 0 else "accumulation" for i in range(len(batches))]
        compiling = [self._announce(n, b) for n, b in zip(names, batches, strict=True)]
        called = time.monotonic()
        self.state, sums = self.steps.update(self.state, batches, self.step)
        if any(compiling):
            seconds = time.monotonic() - called
            started += seconds  # compiling is no training time
            self.writers.message(f"compiled in {seconds:.1f} s")
        self.step += 1
        distributed.reached(f"after step {self.step}")
        self._absorb()
        self._pending = self.step, sums
        for batch in batches:
            self._add(self.work(batch))
        self._add({"seconds": time.monotonic() - started})

    def _next(self) -> Batch:
        try:
            return next(self.iterator)
        except StopIteration:
            raise UserError(
                f"step {self.step + 1}: the pipeline ended, expected batches for "
                f"{self.config.steps} steps"
            ) from None

    def _announce(self, function: str, batch: Mapping[str, jax.Array]) -> bool:
        """Say so when a function meets a shape for the first time, and will be compiled."""
        key = (function, *((name, value.shape) for name, value in sorted(batch.items())))
        if key in self._shapes:
            return False
        self._shapes.add(key)
        shapes = dict.fromkeys(" x ".join(map(str, value.shape)) for value in batch.values())
        self.writers.message(f"compiling {function}, shapes {', '.join(shapes)} ...")
        return True

    def _absorb(self) -> None:
        """Fetch the pending step's sums, refuse what is not finite, add the rest to the window."""
        if self._pending is None:
            return
        (step, pending), self._pending = self._pending, None
        sums = {name: float(value) for name, value in jax.device_get(pending).items()}
        for name, label in (("loss_sum", "loss"), ("gradient_norm", "gradient norm")):
            if not math.isfinite(sums[name]):
                saved = self.checkpoints.steps()
                kept = f"the checkpoint of step {saved[-1]} is kept" if saved else "nothing saved"
                raise UserError(
                    f"step {step}: the {label} is {sums[name]}, expected a finite number; "
                    f"try a lower learning rate than {float(self.schedule(step - 1)):.3g} ({kept})"
                )
        self._add({**sums, "steps": 1.0})

    def _add(self, sums: Mapping[str, float]) -> None:
        for name, value in sums.items():
            self.window[name] = self.window.get(name, 0.0) + value

    def _record(self) -> None:
        """Write the window's means and rates, and begin a new window."""
        started = time.monotonic()
        self._absorb()
        self._add({"seconds": time.monotonic() - started})
        w, self.window = self.window, {}
        seconds = max(w["seconds"], 1e-9)
        record = {
            "train/loss": w["loss_sum"] / max(w["weight"], 1e-9),
            "train/learning_rate": float(self.schedule(self.step - 1)),
            "train/gradient_norm": w["gradient_norm"] / w["steps"],
        }
        if "scored" in w:
            record["train/accuracy"] = w["hits"] / max(w["scored"], 1.0)
        for name in ("examples", "tokens", "positions"):
            if name in w:
                record[f"train/{name}_per_step"] = w[name] / w["steps"]
                record[f"train/{name}_per_second"] = w[name] / seconds
        record |= utilisation(w, seconds, self.steps.mesh.size)
        self.metrics.update(record)
        self.writers.record(self.step, record)
        left = (self.config.steps - self.step) * seconds / w["steps"]
        self.writers.progress(self.step, record, left)

    def _validate(self) -> bool:
        """Measure, record, and say whether this is the best so far."""
        self._absorb()
        self.validated = self.step
        params, record = self.state["target"], {}
        if self.validation_batches:
            total: dict[str, float] = {}
            for host_batch in self.validation_batches:
                batch = shard_batch(self.steps.mesh, host_batch)
                self._announce("validation", batch)
                sums = jax.device_get(self.steps.evaluate(params, batch))
                total = {name: total.get(name, 0.0) + float(sums[name]) for name in sums}
            record["validation/loss"] = total["loss_sum"] / max(total["weight"], 1e-9)
            if "scored" in total:
                record["validation/accuracy"] = total["hits"] / max(total["scored"], 1.0)
        if self.validate is not None:
            record.update({k: float(v) for k, v in self.validate(params, self.step).items()})
        if not record:
            return False
        name = self.config.best_metric
        if name not in record:
            raise UserError(f"best_metric: found {name!r}, expected one of {sorted(record)}")
        self.metrics.update(record)
        self.writers.record(self.step, record)
        value = record[name]
        self.writers.message(f"step {self.step}: {name} {value:.4f}")
        sign = 1.0 if self.config.best_mode == "min" else -1.0
        improved = math.isfinite(value) and (
            self.best is None or sign * value < sign * self.best["value"]
        )
        if improved:
            self.best = {"step": self.step, "value": value}
        return improved

    def _save(self) -> None:
        self._absorb()  # nothing that is not finite is ever saved
        progress = {name: getattr(self, name) for name in _PROGRESS}
        progress |= {"pipeline": self.iterator.get_state(), "fingerprint": self.fingerprint}
        self.checkpoints.save(self.step, self.state, progress)

    def _agreed(self, interruption: Interruption) -> int | None:
        """The signal to stop for; processes agree at recorded steps, as each may get its own."""
        if jax.process_count() > 1 and self.step % self.config.log_every:
            return None
        return distributed.agreed_signal(interruption.signal)
