"""Checkpoints: Orbax step folders with the training state and, beside it, the run's progress."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers

from p5jax.core.errors import UserError, in_words
from p5jax.parallel.partitioning import param_shardings, path_name
from p5jax.parallel.placing import to_host
from p5jax.training.checksums import (
    PROGRESS,
    STATE,
    ChecksummedJson,
    ChecksummedJsonSave,
    compared,
    refuse_changed_json,
)
from p5jax.training.quiet import quiet_background

PREFIX = "checkpoint"


class _LatestAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the last `keep` checkpoints and the one named best."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.best: int | None = None

    def should_preserve(
        self,
        checkpoints: Sequence[Any],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        first_kept = len(checkpoints) - self.keep
        return [i >= first_kept or c.step == self.best for i, c in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints of one run: FOLDER/checkpoint_STEP/{state, progress}.

    `state` is t5x's tree {target: params, state: {step, param_states}}. `progress` is JSON: the
    pipeline's state and whatever else the trainer needs to resume, among it
    "best": {"step", "value"} as known when the checkpoint was written; with it are checksums of
    all files. Saving is asynchronous; a step's folder appears, whole, when its last byte is on
    disk.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2, prefix: str = PREFIX) -> None:
        if keep < 1:
            raise UserError(f"keep: found {keep} checkpoints, expected at least 1")
        self.folder = Path(folder).absolute()
        self.prefix = prefix
        self._policy = _LatestAndBest(keep)
        options = ocp.CheckpointManagerOptions(
            step_prefix=prefix,
            preservation_policy=self._policy,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        handlers = {STATE: ocp.StandardCheckpointHandler(), PROGRESS: ChecksummedJson()}
        quiet_background()
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(*((UserError,) if error else ())):  # the first error says more
            self.close()

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """Start writing a checkpoint; older ones that are neither recent nor best are removed.

        Arrays and progress are copied before this returns, so the caller may go on changing them.
        A step that is already saved is left as it is.
        """
        if step in self._manager.all_steps():
            return
        # Written in the background: a copy, since the caller goes on changing its own.
        progress = json.loads(json.dumps(progress))
        best = progress.get("best")
        self._policy.best = best["step"] if best else None
        saved = ocp.args.Composite(
            **{STATE: ocp.args.StandardSave(state), PROGRESS: ChecksummedJsonSave(progress)}
        )
        with self._writing():
            self._manager.save(step, args=saved, force=True)

    def progress(self, step: int) -> dict[str, Any]:
        """The progress saved with a step; UserError when it cannot be read."""
        return read_progress(step_folder(self.folder, step, self.prefix))

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of a step, laid out as `abstract_state` (with shardings) says.

        Damaged when it cannot be read, UserError when it was written for other parameters or
        another optimizer.
        """
        path = step_folder(self.folder, step, self.prefix)
        check_tree(path, saved_metadata(path), abstract_state)
        with reading(path), compared(path / PROGRESS):
            return self._manager.restore(
                step, args=ocp.args.Composite(**{STATE: ocp.args.StandardRestore(abstract_state)})
            )[STATE]

    def set_aside(self, step: int) -> Path:
        """Rename a damaged checkpoint, so that its step can be saved again; return where it is."""
        path = step_folder(self.folder, step, self.prefix)
        aside = path.with_name(f"damaged_{path.name}")
        number = 1
        while aside.exists():
            number += 1
            aside = path.with_name(f"damaged_{path.name}_{number}")
        path.rename(aside)
        self._manager.reload()
        return aside

    def wait(self) -> None:
        """Block until what is being saved is on disk; UserError when it cannot be written."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for pending writes and release the folder; UserError as `wait`."""
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:
            steps = available_steps(self.folder, self.prefix)
            kept = f"the checkpoint of step {steps[-1]} is kept" if steps else "nothing is saved"
            why = in_words(error)[:160]
            raise UserError(
                f"{self.folder}: a checkpoint could not be written ({why}); {kept}"
            ) from error


def step_folder(folder: Path, step: int, prefix: str = PREFIX) -> Path:
    """Where a step's checkpoint lies."""
    return folder / f"{prefix}_{step}"


class Damaged(UserError):
    """A checkpoint that is not as it was written, or cannot be read.

    others: the steps of the checkpoints beside it.
    """

    def __init__(self, path: Path, error: Exception) -> None:
        cause = " ".join(str(error).split())[:160] or type(error).__name__
        steps = available_steps(path.parent) if path.name[-1:].isdecimal() else []
        self.others = [step for step in steps if not path.name.endswith(f"_{step}")]
        kept = ", ".join(map(str, self.others))
        there = f"; steps {kept} are there too" if kept else ""
        super().__init__(
            f"{path}: found a damaged checkpoint ({cause}), expected one written by p5jax{there}"
        )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Within it, what Orbax raises for a checkpoint that it cannot read becomes Damaged."""
    try:
        yield
    except (UserError, jax.errors.JaxRuntimeError):  # the second: memory, or a lost process
        raise
    except Exception as error:  # whatever its parsers of JSON, protobufs and zarr raise
        raise Damaged(path, error) from error


def available_steps(folder: str | os.PathLike[str], prefix: str = PREFIX) -> list[int]:
    """Steps of the complete checkpoints in a folder, ascending; nothing is written or locked."""
    head = f"{prefix}_"
    names = [p.name for p in Path(folder).glob(f"{head}*") if p.is_dir()]
    return sorted(int(n[len(head) :]) for n in names if n[len(head) :].isdecimal())


def find_step(
    folder: str | os.PathLike[str], which: int | str = "best", prefix: str = PREFIX
) -> int:
    """The step meant by "latest", "best" or a number; UserError when there is none.

    Best is what the newest checkpoint knows as best; a run without validation has no best, and
    its latest is taken.
    """
    folder = Path(folder)
    steps = available_steps(folder, prefix)
    if not steps:
        raise UserError(f"{folder}: found no checkpoint, expected folders named {prefix}_STEP")
    if which == "latest":
        return steps[-1]
    if which == "best":
        best = read_progress(step_folder(folder, steps[-1], prefix)).get("best")
        return best["step"] if best and best["step"] in steps else steps[-1]
    if not isinstance(which, int):
        raise UserError(f"checkpoint: found {which!r}, expected latest, best or a step number")
    if which not in steps:
        raise UserError(f"{folder}: found no step {which}, expected one of {steps}")
    return which


def read_progress(path: Path) -> dict[str, Any]:
    """The progress JSON of a step's folder; empty for a checkpoint written by t5x."""
    if not (path / STATE).is_dir():
        raise Damaged(path, FileNotFoundError(f"no {STATE} folder"))
    if not (path / PROGRESS).is_dir():
        return {}
    with reading(path):
        refuse_changed_json(path / PROGRESS)
        # A metric may be NaN, which the reader of documents refuses.
        progress: dict[str, Any] = json.loads((path / PROGRESS / "metadata").read_bytes())
        if not isinstance(progress, dict):
            raise ValueError("progress that is no object")
        best = progress.get("best")
        if best is not None and type(best["step"]) is not int:
            raise ValueError("a best step that is no number")
        return progress


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape")


def saved_metadata(path: Path) -> dict[str, Any]:
    """The tree of a step's `state`, with a shape and dtype at each leaf."""
    with reading(path):
        tree = dict(ocp.PyTreeCheckpointHandler().metadata(epath.Path(path / STATE)).tree)
        if "target" not in tree:
            raise ValueError("no target tree")
        return tree


def check_tree(path: Path, saved_tree: Any, expected_tree: Any) -> None:
    """UserError naming the first array that differs between a checkpoint and what is wanted."""
    saved, expected = (
        {
            path_name(key): tuple(leaf.shape)
            for key, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_array)
        }
        for tree in (saved_tree, expected_tree)
    )
    for name, shape in expected.items():
        if name not in saved:
            raise UserError(f"{path}: found no array {name}, expected one of shape {shape}")
        if saved[name] != shape:
            raise UserError(f"{path}: {name}: found shape {saved[name]}, expected {shape}")
    extra = sorted(set(saved) - set(expected))
    if extra:
        raise UserError(f"{path}: found an array {extra[0]} that the model has no place for")


def restore_params(
    folder: str | os.PathLike[str],
    abstract_params: Any = None,
    which: int | str = "best",
    prefix: str = PREFIX,
) -> Any:
    """Only the parameters of a checkpoint, without optimizer state.

    `abstract_params` is a tree of ShapeDtypeStructs or arrays, None for nested dicts as saved.
    Where a leaf has a sharding the result is laid out on it, otherwise it goes whole to the first
    device. UserError as `Checkpoints.restore`.
    """
    folder = Path(folder).absolute()
    path = step_folder(folder, find_step(folder, which, prefix), prefix)
    metadata = saved_metadata(path)["target"]
    if abstract_params is None:
        abstract_params = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), metadata, is_leaf=_is_array
        )
    check_tree(path, {"target": metadata}, {"target": abstract_params})
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def on_device(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(leaf, "sharding", None) or default
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    item = {"target": jax.tree.map(on_device, abstract_params)}
    with reading(path), compared(path / PROGRESS):
        return ocp.PyTreeCheckpointHandler().restore(
            epath.Path(path / STATE),
            args=ocp.args.PyTreeRestore(
                item=item,
                restore_args=ocp.checkpoint_utils.construct_restore_args(item),
                partial_restore=True,
            ),
        )["target"]


def restore_on_mesh(
    folder: str | os.PathLike[str],
    abstract_params: Any,
    axes: Any,
    mesh: Mesh | None,
    which: int | str = "best",
) -> Any:
    """Only a checkpoint's parameters, on a mesh by their logical `axes` if there is one."""
    if mesh is not None:
        abstract_params = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            abstract_params,
            param_shardings(mesh, axes, abstract_params),
        )
    return restore_params(folder, abstract_params, which)


def params_fingerprint(params: Any) -> str:
    """SHA-256 of the parameters' names and bytes: which model something was made with.

    Parameters on a mesh are gathered: every process must call it.
    """
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        found.update(jax.tree_util.keystr(path).encode())
        found.update(to_host(leaf).tobytes())
    return found.hexdigest()
