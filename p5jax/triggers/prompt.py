"""A found prompt as a thing: a folder with its tokens, its users' table and how it came about."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p5jax.core.errors import UserError
from p5jax.core.files import replace_text
from p5jax.data.dataset import Dataset
from p5jax.prompts.families import Family, make_families
from p5jax.prompts.template import PromptTemplate
from p5jax.runs.run import Run
from p5jax.text.vocabulary import Vocabulary
from p5jax.training.checkpoints import params_fingerprint
from p5jax.triggers.layout import PROMPT_ID, Layout, trigger_template

FORMAT_VERSION = 1
MANIFEST, HISTORY = "triggers.json", "history.jsonl"


@dataclass(frozen=True)
class TriggerPrompt:
    """Trigger tokens of one family against one model.

    task [l] and default [u] are token ids (a user who is not in the table has the default);
    users [U, u] are every dataset user's own; `identity` names the model they were found with.
    """

    family: str
    layout: Layout
    task: np.ndarray
    default: np.ndarray
    users: np.ndarray
    identity: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """A hash of all its tokens."""
        tokens = (self.task, self.default, self.users)
        return hashlib.sha256(b"".join(part.tobytes() for part in tokens)).hexdigest()

    def words(self, vocabulary: Vocabulary) -> list[str]:
        """The task tokens as the words of a prompt."""
        return [word(vocabulary, token) for token in self.task.tolist()]

    def user_words(self, vocabulary: Vocabulary) -> list[str]:
        """Every user's own tokens as words; empty for a prompt without any."""
        if not self.layout.user_tokens:
            return []
        rows = self.users.tolist()
        return [" ".join(word(vocabulary, token) for token in row) for row in rows]

    def template(self, vocabulary: Vocabulary) -> PromptTemplate:
        """The prompt as text, with {trigger} where the user's words go."""
        return trigger_template(self.family, self.layout, self.words(vocabulary))

    def around(self, text: str, vocabulary: Vocabulary) -> str:
        """A text of one's own with the trigger words of an unknown user around it."""
        words = self.words(vocabulary)
        words += [word(vocabulary, token) for token in self.default.tolist()]
        before, after = self.layout.sides
        return " ".join([*(words[slot] for slot in before), text, *(words[slot] for slot in after)])


def word(vocabulary: Vocabulary, token: int) -> str:
    """The word that an allowed trigger token stands for."""
    return vocabulary.decode([token])


def identity(run: Run) -> dict[str, str]:
    """What trigger tokens depend on: the model, its vocabulary and the dataset, as hashes."""
    return {
        "params": params_fingerprint(run.params),
        "vocabulary": run.vocabulary.fingerprint,
        "dataset": run.dataset.fingerprint,
    }


def save(folder: Path, prompt: TriggerPrompt, run: Run, progress: Mapping[str, Any]) -> None:
    """Write a prompt and what else is to be kept; what was there stays whole until it is done."""
    vocabulary, dataset = run.vocabulary, run.dataset
    table = f"users-{progress['round']}.parquet"
    _write_users(folder / table, prompt, dataset, vocabulary)
    template = prompt.template(vocabulary)
    manifest = {
        "format_version": FORMAT_VERSION,
        "family": prompt.family,
        "layout": asdict(prompt.layout),
        "task_tokens": prompt.task.tolist(),
        "default_user_tokens": prompt.default.tolist(),
        "prompt": template.inputs,
        "users": table,
        "identity": dict(prompt.identity),
        **progress,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    replace_text(folder / MANIFEST, text)
    for old in folder.glob("users-*.parquet"):
        if old.name != table:
            old.unlink()


def _write_users(
    path: Path, prompt: TriggerPrompt, dataset: Dataset, vocabulary: Vocabulary
) -> None:
    changed = np.flatnonzero((prompt.users != prompt.default).any(axis=1))
    words = prompt.user_words(vocabulary)
    table = pa.table(
        {
            "user": pa.array([dataset.user_keys[user] for user in changed], pa.string()),
            "tokens": pa.array(prompt.users[changed].tolist(), pa.list_(pa.int32())),
            "words": pa.array([words[user] for user in changed], pa.string()),
        }
    )
    beside = path.with_name(f".{path.name}.partial")
    pq.write_table(table, beside, compression="zstd")
    beside.rename(path)


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What `save` wrote beside the users' table; UserError when it is absent or no such file."""
    file = Path(folder) / MANIFEST
    if not file.is_file():
        raise UserError(
            f"{folder}: found no {MANIFEST}, expected what p5jax triggers search writes"
        )
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: found {error!r}, expected a prompt of trigger tokens") from error
    if version != FORMAT_VERSION:
        raise UserError(f"{file}: found format version {version}, expected {FORMAT_VERSION}")
    return manifest


def load(folder: str | os.PathLike[str], run: Run) -> TriggerPrompt:
    """Read a prompt for a run; UserError when it was found with another model or is damaged."""
    manifest = read_manifest(folder)
    file = Path(folder) / MANIFEST
    try:
        layout = Layout(**manifest["layout"])
        task, default = (
            np.array(manifest[name], np.int32) for name in ("task_tokens", "default_user_tokens")
        )
        family, found, table = manifest["family"], manifest["identity"], manifest["users"]
        shapes = (task.shape, default.shape)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: found {error!r}, expected a prompt of trigger tokens") from error
    if shapes != ((layout.task_tokens,), (layout.user_tokens,)):
        raise UserError(f"{file}: found tokens of shapes {shapes}, expected those of its layout")
    for name, expected in identity(run).items():
        if found.get(name) != expected:
            was = str(found.get(name))[:12]
            raise UserError(
                f"{folder}: its tokens were found with {name} {was}, this run has {expected[:12]}"
            )
    _check_tokens(file, np.concatenate([task, default]), run.vocabulary)
    users = _read_users(Path(folder) / table, default, run)
    return TriggerPrompt(family, layout, task, default, users, found)


def _read_users(path: Path, default: np.ndarray, run: Run) -> np.ndarray:
    users = np.tile(default, (run.dataset.num_users, 1))
    try:
        table = pq.read_table(path)
        keys, rows = table["user"].to_pylist(), table["tokens"].to_pylist()
    except (OSError, KeyError, pa.ArrowException) as error:
        cause = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: found {cause}; expected the users' table of triggers") from error
    for number, (key, row) in enumerate(zip(keys, rows, strict=True)):
        if row is None or len(row) != len(default):
            raise UserError(f"{path}: row {number}: found {row}, expected {len(default)} tokens")
        users[run.dataset.user_index(key)] = row
    _check_tokens(path, users.ravel(), run.vocabulary)
    return users


def _check_tokens(path: Path, tokens: np.ndarray, vocabulary: Vocabulary) -> None:
    allowed = vocabulary.trigger_tokens
    for token in np.unique(tokens).tolist():
        if not 0 <= token < len(allowed) or not allowed[token]:
            raise UserError(f"{path}: found token {token}, expected one that is a whole word")


class TriggeredRun:
    """A run whose one family has the trigger prompt among its prompts, for evaluators.

    path: where the evaluation's results go, the prompt's own folder.
    """

    def __init__(self, run: Run, prompt: TriggerPrompt, path: Path):
        self.run, self.prompt = run, prompt
        self.path, self.model = path, run.model
        self.dataset, self.vocabulary = run.dataset, run.vocabulary

    @property
    def params(self) -> Any:
        """The frozen model's parameters."""
        return self.run.params

    @cached_property
    def families(self) -> dict[str, Family]:
        """The prompt's family, with the run's own prompts beside it."""
        run, prompt = self.run, self.prompt
        templates = run.templates | {PROMPT_ID: prompt.template(run.vocabulary)}
        words: Sequence[str] = prompt.user_words(run.vocabulary)
        return make_families(
            run.dataset, templates, run.vocabulary, run.family_config, (prompt.family,), words
        )


def triggered(run: Run, folder: str | os.PathLike[str]) -> TriggeredRun:
    """A run with the prompt of a folder; UserError as `load`."""
    return TriggeredRun(run, load(folder, run), Path(folder))
