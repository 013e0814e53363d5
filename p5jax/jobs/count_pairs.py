"""One count of which items stand near which (see memory.stored_pairs)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from p5jax.core.folder import refuse_difference
from p5jax.data.dataset import Dataset
from p5jax.jobs.start import PathName, beam_writer
from p5jax.memory import stored_pairs


def count_pairs(dataset: Dataset | PathName, beam_options: Sequence[str] = ()) -> Path:
    """Count the pairs of training items of a dataset, or the one in a folder, for all memories.

    beam_options: of a Beam pipeline that counts, none for this process; the files are the same.
    Returns the folder that was written, DATASET/pairs; an interrupted call resumes when it is given
    again.
    """
    found = dataset if isinstance(dataset, Dataset) else Dataset.load(dataset)
    opened = partial(_opened, found.path.absolute(), found.fingerprint)
    return stored_pairs.count_pairs(found, beam_writer(opened, beam_options))


def _opened(folder: Path, fingerprint: str) -> Callable[[Path, range], None]:
    """Open the dataset in a worker, and return what writes a file; UserError for another one."""
    dataset = Dataset.load(folder)
    refuse_difference(folder, {"dataset": dataset.fingerprint}, {"dataset": fingerprint})
    return partial(stored_pairs.write_rows, dataset)
