"""The memory of a run, as validation users chose it: RUN/memory.json."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypedDict

from p5jax.core.errors import UserError
from p5jax.core.folder import OutputFolder
from p5jax.core.kinds import Checksum, Count, built
from p5jax.data.dataset import Dataset
from p5jax.memory.memory import Memory
from p5jax.memory.settings import MemorySettings
from p5jax.memory.stored_pairs import stored_pairs
from p5jax.parallel import distributed
from p5jax.training.checkpoints import params_fingerprint


class Chosen(TypedDict):
    """On whom the settings were chosen, and the NDCG@10 there without and with the memory."""

    prompt: str
    users: Count
    model: float
    mixed: float


class _Stored(TypedDict):
    params: Checksum
    settings: MemorySettings
    chosen: Chosen


STORED_MEMORY = OutputFolder(
    "run with a memory", "memory.json", 1, "p5jax memory", contents=_Stored
)


class OfDataset(Protocol):
    """What a memory belongs to: a run."""

    @property
    def path(self) -> Path: ...
    @property
    def dataset(self) -> Dataset: ...
    @property
    def params(self) -> Any: ...


def store_memory(run: OfDataset, settings: MemorySettings, chosen: Chosen) -> None:
    """Write RUN/memory.json; the memory itself is made of the dataset whenever it is used."""
    params = params_fingerprint(run.params)
    entry = {"params": params, "settings": asdict(settings), "chosen": dict(chosen)}
    distributed.from_primary(lambda: STORED_MEMORY.write(run.path, entry))


def stored_memory(run: OfDataset) -> Memory | None:
    """Return the memory that was chosen for a run, None where none was.

    UserError for a damaged file, and where the run has other parameters by now.
    """
    entry = stored_entry(run)
    if entry is None:
        return None
    settings = built(run.path / STORED_MEMORY.manifest, MemorySettings, entry["settings"])
    return Memory.of(run.dataset, settings, stored_pairs(run.dataset))


def stored_entry(run: OfDataset) -> dict[str, Any] | None:
    """Return what is stored of the memory that was chosen for a run; UserError as stored_memory."""
    if not STORED_MEMORY.is_at(run.path):
        return None
    entry = STORED_MEMORY.read(run.path)
    if entry["params"] != params_fingerprint(run.params):
        raise UserError(
            f"{run.path / STORED_MEMORY.manifest}: chosen for other parameters than those of this"
            " checkpoint; choose it again with p5jax memory, or leave it out with --no-memory"
        )
    return entry
