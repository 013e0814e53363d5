"""The one resumable iterator of training batches: a walk through numbered epochs.

Everything a batch holds is a function of its epoch's number and its position there, so the state of
an iterator is two numbers, exact under any number of threads, worker processes or hosts.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

from p5jax.core.errors import UserError
from p5jax.pipeline.batching import Batch, process_slice


class LazyBatches(Sequence[Batch]):
    """The batches of an epoch, each made when it is asked for."""

    def __init__(self, count: int, make: Callable[[int], Batch]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, position: int) -> Batch: ...
    @overload
    def __getitem__(self, position: slice) -> list[Batch]: ...
    def __getitem__(self, position: int | slice) -> Batch | list[Batch]:
        if isinstance(position, slice):
            return [self._make(each) for each in range(self._count)[position]]
        return self._make(range(self._count)[position])


class EpochIterator(ABC):
    """An endless iterator of a process's rows of the batches of epoch 0, 1, 2 …

    rows: of a batch over all processes. UserError when they do not divide over the processes.
    """

    def __init__(self, rows: int, process_index: int = 0, process_count: int = 1) -> None:
        if rows % process_count:
            raise UserError(
                f"batch_size: found {rows} rows, expected a multiple of the {process_count}"
                " processes"
            )
        self.rows = rows
        self._process = process_index, process_count
        self._epoch = self._position = 0
        self._batches: Sequence[Batch] | None = None
        self._coming: Iterator[Sequence[Batch]] | None = None

    @abstractmethod
    def epoch(self, number: int) -> Sequence[Batch]:
        """Return the global batches of an epoch, in order."""

    def identity(self) -> dict[str, Any]:
        """Return, JSON-able, what decides the batches: a state is only good for the same."""
        return {}

    def epochs(self, first: int) -> Iterator[Sequence[Batch]]:
        """Yield the epochs from `first` on; may work ahead, until it is closed."""
        return (self.epoch(number) for number in itertools.count(first))

    def __iter__(self) -> EpochIterator:
        return self

    def __next__(self) -> Batch:
        if self._coming is None:
            self._coming = self.epochs(self._epoch)
        if self._batches is None:
            self._batches = next(self._coming)
        while self._position >= len(self._batches):
            self._epoch, self._position = self._epoch + 1, 0
            self._batches = next(self._coming)
        batch = self._batches[self._position]
        self._position += 1
        return process_slice(batch, *self._process)

    def get_state(self) -> dict[str, Any]:
        """Return the position of the next batch, JSON-able and the same on every process."""
        return {"epoch": self._epoch, "position": self._position, "identity": self.identity()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go to a position that get_state returned; UserError when it is of other batches."""
        # Names of earlier versions, which are in their checkpoints.
        theirs = state.get("identity", state.get("pipeline", state.get("sequences", {})))
        for name, ours in self.identity().items():
            if ours != theirs.get(name):
                raise UserError(
                    f"pipeline state: found {name} = {theirs.get(name)}, expected {ours}"
                )
        self.close()
        self._epoch = int(state.get("epoch", state.get("window", 0)))
        self._position = int(state["position"])

    def close(self) -> None:
        """Stop what works ahead."""
        if self._coming is not None:
            self._coming.close()  # type: ignore[attr-defined]  # a generator, or Grain's iterator
        self._coming = self._batches = None
