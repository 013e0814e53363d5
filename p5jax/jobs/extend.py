"""A run that knows new users, items and interactions, without training."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.files import replaced_folder
from p5jax.core.lock import released
from p5jax.data.dataset import Dataset
from p5jax.data.extending import Extension
from p5jax.data.formats import NewRowsOptions
from p5jax.data.item_ids import id_tokens
from p5jax.data.new_ids import new_ids
from p5jax.data.new_items import NewItems
from p5jax.data.readers.table import read_new
from p5jax.jobs.start import PathName
from p5jax.models.initial import Params
from p5jax.models.token_rows import token_rows, with_token_rows
from p5jax.runs.manifest import dataset_entry
from p5jax.runs.run import RUN_FOLDER, Run
from p5jax.runs.stored_memory import STORED_MEMORY, stored_entry
from p5jax.text.vocabulary import Vocabulary
from p5jax.training.checkpoints import Checkpoints, find_step, params_fingerprint
from p5jax.training.trainer import CHECKPOINT_FOLDER

DATASET = "dataset"  # the folder, within the new run, of its dataset


def extend(run: Run | PathName, out: PathName, options: NewRowsOptions) -> Run:
    """Write the run folder `out`, which is a run with new rows in its dataset; return it.

    New interactions count as history at once. New items get ids by the dataset's scheme and are
    recommended like all others: a token that the model does not have starts between where its
    items' texts say and the items that they occur with in the new interactions. No parameter that
    the run has changes. The dataset is OUT/dataset, of which nothing is held out:
    the new run answers, and what is measured is measured on the run that it was made from. A memory
    that was chosen for the run holds all interactions from then on.
    options: the tables of what is new. UserError when `out` is there, the tables are malformed,
    hold nothing new or do not fit the dataset, or its item ids are those of a source.
    """
    out = Path(out).absolute()
    if out.is_file() or any(out.glob("*")):
        raise UserError(f"{out}: exists, expected a new folder")
    run = run if isinstance(run, Run) else Run.load(run)
    extension = Extension.of(run.dataset, read_new(options), options.skip_bad_lines)
    write_extended(run, extension, out)
    return Run.load(out)


@released()
def write_extended(run: Run, extension: Extension, out: Path) -> None:
    """Write the run folder of an extended dataset; one that is there is replaced, at once."""
    ids = new_ids(extension.new_items)
    vocabulary, params = grown(run, extension.new_items, ids)
    with replaced_folder(out) as partial:
        extension.write(partial / DATASET, ids)
        vocabulary.save(partial / "vocabulary")
        shutil.copyfile(run.path / "templates.toml", partial / "templates.toml")
        step = find_step(run.path / CHECKPOINT_FOLDER, "best" if run.step is None else run.step)
        state = {"target": params, "state": {"step": np.int32(step)}}
        with Checkpoints(partial / CHECKPOINT_FOLDER) as checkpoints:
            checkpoints.save(step, state, {"step": step})
        entry = stored_entry(run)
        if entry is not None:
            STORED_MEMORY.write(partial, {**entry, "params": params_fingerprint(params)})
        RUN_FOLDER.write(partial, _manifest(run, vocabulary, partial, out))
        Run.load(partial).families  # noqa: B018  (refuses what prompts cannot be made of)


def grown(run: Run, items: NewItems, ids: Sequence[str]) -> tuple[Vocabulary, Params]:
    """Return a run's vocabulary and parameters with the tokens that the ids of new items have more.

    Such a token is the last of an id. It gets the mean of what its items get, each from the last
    tokens of the known items; see NewItems.placed.
    """
    known = run.vocabulary
    there = set(known.id_tokens)
    tokens = [token for token in id_tokens(ids) if token not in there]
    vocabulary = Vocabulary(known.model, (*known.id_tokens, *tokens))
    if not tokens:
        return vocabulary, run.params
    rows = token_rows(run.params)
    last = [known.encode(text)[-1] for text in run.dataset.item_ids]
    placed = items.placed(rows[last])
    own = np.array([vocabulary.encode(text)[-1] for text in ids])
    new = [placed[own == known.size + number].mean(axis=0) for number in range(len(tokens))]
    return vocabulary, with_token_rows(run.params, known, vocabulary, np.array(new))


def _manifest(run: Run, vocabulary: Vocabulary, partial: Path, out: Path) -> dict[str, Any]:
    entry = dataset_entry(Dataset.load(partial / DATASET), partial)
    return {
        **run.manifest,
        "dataset": {**entry, "path": str(out.resolve() / DATASET)},
        "vocabulary": vocabulary.fingerprint,
        "model": {**run.manifest["model"], "vocab_size": vocabulary.padded_size},
    }
