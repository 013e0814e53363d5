"""One preparation of a dataset folder from raw files."""

from __future__ import annotations

from collections.abc import Sequence

from p5jax.data import prepare as preparing
from p5jax.data.dataset import Dataset
from p5jax.jobs.start import PathName


def prepare(
    format: str,
    out: PathName,
    *,
    reviews: Sequence[PathName] = (),
    metadata: Sequence[PathName] = (),
    feature_words: PathName | None = None,
    folder: PathName = "",
    sequences: PathName = "",
    datamaps: PathName | None = None,
    items: PathName | None = None,
    k_core: int = 5,
    item_ids: str = "sequential",
    seed: int = 0,
    skip_bad_lines: bool = False,
) -> Dataset:
    """Write the dataset folder `out` from raw files, replacing a dataset there, and open it.

    format: "amazon" takes reviews, metadata and feature_words; "recbole" a folder; "sequences"
    sequences, datamaps and items; "synthetic" nothing. k_core: interactions that every user and
    item keeps at least. item_ids: a scheme of data.item_ids. UserError naming file and line of
    what is malformed, unless `skip_bad_lines` counts it.
    """
    raw = preparing.read_raw(
        format,
        reviews=[str(path) for path in reviews],
        metadata=[str(path) for path in metadata],
        feature_words=feature_words,
        folder=folder,
        sequences=sequences,
        datamaps=datamaps,
        items=items,
        seed=seed,
        skip_bad_lines=skip_bad_lines,
    )
    preparing.prepare(raw, out, k_core=k_core, scheme=item_ids, seed=seed)
    return Dataset.load(out)
