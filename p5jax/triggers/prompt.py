"""A prompt of trigger tokens, and the folder that keeps it with its users' table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import pyarrow as pa

from p5jax.core.errors import UserError
from p5jax.core.folder import OutputFolder
from p5jax.core.kinds import Checksum, Count, FileName, built
from p5jax.core.tables import read_parquet, write_parquet
from p5jax.data.dataset import Dataset
from p5jax.models.initial import Params
from p5jax.prompts.families import Family, make_families
from p5jax.prompts.template import PromptTemplate
from p5jax.runs.run import Run
from p5jax.text.vocabulary import Vocabulary
from p5jax.training.checkpoints import params_fingerprint
from p5jax.triggers.layout import PROMPT_ID, TRIGGER_FAMILIES, Layout
from p5jax.triggers.settings import SearchConfig
from p5jax.triggers.templates import trigger_template

HISTORY = "history.jsonl"  # a line for each round
_USERS = pa.schema(
    [
        pa.field("user", pa.string(), nullable=False),
        pa.field("tokens", pa.list_(pa.field("element", pa.int32())), nullable=False),
    ]
)


class Identity(TypedDict):
    """Fingerprints of what trigger tokens, and soft prompts, depend on."""

    params: Checksum
    vocabulary: Checksum
    dataset: Checksum


class Progress(TypedDict):
    """How far a search is, between two rounds; see triggers.state.SearchState."""

    round: Count
    epoch: Count
    left: Count
    idle: Count
    changed: bool
    tried: list[Count]


class _Manifest(TypedDict):
    family: Literal[TRIGGER_FAMILIES]  # type: ignore[valid-type]
    layout: Layout
    task_tokens: list[Count]
    default_user_tokens: list[Count]
    prompt: str
    users: FileName
    identity: Identity
    fingerprint: NotRequired[Checksum]  # of the tokens; earlier versions wrote none
    round: Count
    state: Progress
    settings: SearchConfig
    finished: bool


TRIGGER_FOLDER = OutputFolder(
    "trigger search",
    "triggers.json",
    1,
    "p5jax triggers search",
    begun=(HISTORY, "users-"),
    contents=_Manifest,
)


@dataclass(frozen=True)
class TriggerPrompt:
    """Trigger tokens of one family against one model.

    task [l] and default [u] are token ids (an unknown user has the default); users [U, u] are every
    dataset user's own. fingerprints: of what they were found with, see `run_fingerprints`.
    """

    family: str
    layout: Layout
    task: np.ndarray
    default: np.ndarray
    users: np.ndarray
    fingerprints: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all its tokens."""
        tokens = (self.task, self.default, self.users)
        parts = (np.asarray(part, np.int32).tobytes() for part in tokens)
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def slots(self, users: np.ndarray) -> np.ndarray:
        """The trigger tokens of users [n]: [n, P]."""
        task = np.broadcast_to(self.task, (len(users), len(self.task)))
        return np.concatenate([task, self.users[users]], axis=1)

    def words(self, vocabulary: Vocabulary) -> list[str]:
        """The task tokens as the words of a prompt."""
        return [word(vocabulary, token) for token in self.task.tolist()]

    def user_words(self, vocabulary: Vocabulary) -> list[str]:
        """Every user's own tokens as words, then an unknown user's; empty for a prompt without
        any."""
        if not self.layout.user_tokens:
            return []
        rows = [*self.users.tolist(), self.default.tolist()]
        return [" ".join(word(vocabulary, token) for token in row) for row in rows]

    def template(self, vocabulary: Vocabulary) -> PromptTemplate:
        """The prompt as text, with {trigger} where the user's words go."""
        return trigger_template(self.family, self.layout, self.words(vocabulary))

    def around(self, text: str, vocabulary: Vocabulary) -> str:
        """Any text with the trigger words of an unknown user around it."""
        words = self.words(vocabulary)
        words += [word(vocabulary, token) for token in self.default.tolist()]
        before, after = self.layout.sides
        return " ".join([*(words[slot] for slot in before), text, *(words[slot] for slot in after)])


def word(vocabulary: Vocabulary, token: int) -> str:
    """The word that an allowed trigger token stands for."""
    return vocabulary.decode([token])


def run_fingerprints(run: Run) -> dict[str, str]:
    """The fingerprints of what trigger tokens depend on: parameters, vocabulary and dataset."""
    return {
        "params": params_fingerprint(run.params),
        "vocabulary": run.vocabulary.fingerprint,
        "dataset": run.dataset.fingerprint,
    }


def save_triggers(
    folder: Path, prompt: TriggerPrompt, run: Run, progress: Mapping[str, Any]
) -> None:
    """Write a prompt and its search's `progress`, which has its "round", into a claimed folder.

    The prompt saved before stays whole until this one is.
    """
    vocabulary, dataset = run.vocabulary, run.dataset
    table = f"users-{progress['round']}.parquet"
    _write_users(folder / table, prompt, dataset, vocabulary)
    template = prompt.template(vocabulary)
    manifest = {
        "family": prompt.family,
        "layout": asdict(prompt.layout),
        "task_tokens": prompt.task.tolist(),
        "default_user_tokens": prompt.default.tolist(),
        "prompt": template.inputs,
        "users": table,
        "identity": dict(prompt.fingerprints),
        "fingerprint": prompt.fingerprint,
        **progress,
    }
    TRIGGER_FOLDER.write(folder, manifest)
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
    write_parquet(path, table)


def load_triggers(folder: str | os.PathLike[str], run: Run) -> TriggerPrompt:
    """Read a prompt for a run; UserError when it was found with another model or is damaged."""
    manifest = TRIGGER_FOLDER.read(folder)
    file = Path(folder) / TRIGGER_FOLDER.manifest
    layout = built(file, Layout, manifest["layout"])
    tokens = [np.array(manifest[key], np.int64) for key in ("task_tokens", "default_user_tokens")]
    lengths = tuple(map(len, tokens))
    if lengths != (layout.task_tokens, layout.user_tokens):
        raise UserError(f"{file}: found {lengths} tokens, expected those of its layout")
    found = manifest["identity"]
    for name, expected in run_fingerprints(run).items():
        if found[name] != expected:
            was = found[name][:12]
            raise UserError(
                f"{folder}: its tokens were found with {name} {was}, this run has {expected[:12]}"
            )
    _check_tokens(file, np.concatenate(tokens), run.vocabulary)
    task, default = (part.astype(np.int32) for part in tokens)
    users = _read_users(Path(folder) / manifest["users"], default, run)
    prompt = TriggerPrompt(manifest["family"], layout, task, default, users, found)
    if manifest.get("fingerprint", prompt.fingerprint) != prompt.fingerprint:
        raise UserError(f"{folder}: its tokens differ from those that were saved; search again")
    return prompt


def _read_users(path: Path, default: np.ndarray, run: Run) -> np.ndarray:
    users = np.tile(default, (run.dataset.num_users, 1))
    table = read_parquet(path, _USERS, "the users' table of triggers")
    keys, rows = table["user"].to_pylist(), table["tokens"].to_pylist()
    for number, (key, row) in enumerate(zip(keys, rows, strict=True)):
        if len(row) != len(default) or None in row:
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
    """A run with the trigger prompt among the prompts of its family, for evaluators.

    path: the prompt's own folder, where the evaluation's results go.
    """

    def __init__(self, run: Run, prompt: TriggerPrompt, path: Path):
        self.run, self.prompt = run, prompt
        self.path, self.model = path, run.model
        self.dataset, self.vocabulary = run.dataset, run.vocabulary

    @property
    def params(self) -> Params:
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
    """A run with the prompt of a folder; UserError as `load_triggers`."""
    return TriggeredRun(run, load_triggers(folder, run), Path(folder))
