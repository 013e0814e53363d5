"""Lists of items from exported programs, with jax, flatbuffers and numpy and nothing else.

    python load.py USER [USER ...]

prints the next items of users of the dataset. In Python:

    from load import Programs

    programs = Programs("FOLDER")
    keys, logp, guaranteed = programs.recommend(["A1B2C3"], k=10)
    items, logp, guaranteed = programs.rank(tokens, exclude, k=10)

Letters: B users, S tokens of a prompt, E excluded items, N tokens that an answer begins with.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

MANIFEST, FORMAT_VERSION = "programs.json", 1


class Programs:
    """A folder of exported programs; ValueError, in one line, for what is wrong with it."""

    def __init__(self, folder: str | Path = Path(__file__).parent):
        self.folder = Path(folder)
        self.manifest = self._manifest()
        low = export.minimum_supported_calling_convention_version
        high = export.maximum_supported_calling_convention_version
        if not low <= self.manifest["calling_convention"] <= high:
            raise ValueError(
                f"{self.folder}: found programs of jax {self.manifest['jax']}, which jax"
                f" {jax.__version__} does not read; export the run again, or install that jax"
            )
        self.weights = jax.device_put(self._arrays("weights.npz"))
        self.trie = jax.device_put(self._arrays("trie.npz"))
        self.prompts = self._arrays("prompts.npz")
        names = json.loads(self._bytes("names.json"))
        self.item_keys: list[str] = names["items"]
        self.titles: list[str | None] = names["titles"]
        self.users = {key: user for user, key in enumerate(names["users"])}
        self._called: dict[str, Any] = {}

    def recommend(
        self, users: list[str], k: int = 10
    ) -> tuple[list[list[str]], np.ndarray, np.ndarray]:
        """The keys of the k best next items of users of the dataset, without those they have.

        Returns also what `rank` returns: log-probabilities [B, k] and guarantees [B].
        """
        for user in users:
            if user not in self.users:
                raise ValueError(f"user {user!r}: found no such user among the exported ones")
        rows = [self.users[user] for user in users]
        tokens, exclude = (
            _padded([self._ragged(name, row) for row in rows], fill)
            for name, fill in (("tokens", 0), ("history", -1))
        )
        items, logp, guaranteed = self.rank(tokens, exclude, k, self.prompts["begun"][rows])
        keys = [[self.item_keys[item] for item in row if item >= 0] for row in items.tolist()]
        return keys, logp, guaranteed

    def rank(
        self,
        tokens: np.ndarray,
        exclude: np.ndarray | None = None,
        k: int = 10,
        begun: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The k best items for prompts of int32 tokens [B, S], padded with 0, best first.

        exclude [B, E]: items not to list, padded with -1. begun [B, N]: what the decoder reads
        before an item, 0 and then what the answer is to begin with, padded with -1 in front;
        without it, 0 alone. Returns items [B, k], rows of the catalogue, -1 where none is left;
        their log-probabilities [B, k]; and whether each list is guaranteed to be the best [B].
        """
        tokens = np.asarray(tokens)
        users = len(tokens)
        begun = np.zeros((users, 1)) if begun is None else np.asarray(begun)
        exclude = np.full((users, 1), -1) if exclude is None else np.asarray(exclude)
        made = self.manifest
        most = min(made["beam"], len(self.item_keys))
        if not 1 <= k <= most:
            raise ValueError(f"k: found {k}, expected 1 to {most}")
        if exclude.size and not -1 <= exclude.min() <= exclude.max() < len(self.item_keys):
            raise ValueError(
                f"exclude: found items {exclude.min()} to {exclude.max()}, expected -1 to"
                f" {len(self.item_keys) - 1}"
            )
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < made["words"]:
            raise ValueError(
                f"tokens: found {tokens.min()} to {tokens.max()}, expected 0 to {made['words'] - 1}"
            )
        length = _fitting("tokens", tokens, users, made["lengths"])
        _fitting("exclude", exclude, users, [made["excluded"]])
        _fitting("begun", begun, users, [made["begun"]])
        tokens = _widened(tokens, length, 0, in_front=False)
        exclude = _widened(exclude, made["excluded"], -1, in_front=False)
        begun = _widened(begun, made["begun"], -1, in_front=True)
        parts = []
        for first in range(0, users, made["rows"][-1]):
            rows = slice(first, first + made["rows"][-1])
            parts.append(self._run(length, tokens[rows], begun[rows], exclude[rows]))
        if not parts:
            return np.zeros((0, k), np.int32), np.zeros((0, k), np.float32), np.zeros(0, bool)
        items, logp, guaranteed = (np.concatenate(each) for each in zip(*parts, strict=True))
        if np.isnan(logp).any():
            raise ValueError(
                "found log-probabilities that are not numbers, expected finite weights"
            )
        return items[:, :k], logp[:, :k], guaranteed[:, k - 1]

    def _run(self, length: int, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """The whole lists of some users, computed by the smallest program that has room."""
        users = len(arrays[0])
        rows = next(rows for rows in self.manifest["rows"] if rows >= users)
        program = self._program(program_name(rows, length))
        filled = [np.resize(array, (rows, array.shape[1])) for array in arrays]
        return tuple(np.asarray(out)[:users] for out in program(self.weights, self.trie, *filled))

    def _program(self, name: str) -> Any:
        if name not in self._called:
            data = bytearray(self._bytes(name))
            try:
                read = export.deserialize(data)
                read.mlir_module()  # reads the program itself, too
            except ImportError as error:
                raise ValueError(f"{error}; pip install flatbuffers") from error
            except Exception as error:
                raise ValueError(
                    f"{self.folder / name}: found a program of jax {self.manifest['jax']}, which"
                    f" jax {jax.__version__} does not read ({type(error).__name__}); export the"
                    " run again, or install that jax"
                ) from error
            self._called[name] = jax.jit(read.call)
        return self._called[name]

    def _ragged(self, name: str, row: int) -> np.ndarray:
        start, stop = self.prompts[f"{name}_start"][row : row + 2]
        return self.prompts[name][start:stop]

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        self._bytes(name)
        with np.load(self.folder / name, allow_pickle=False) as arrays:
            return dict(arrays)

    def _manifest(self) -> dict[str, Any]:
        try:
            read = json.loads((self.folder / MANIFEST).read_bytes())
        except (OSError, ValueError):
            read = {}
        version = read.get("format_version") if isinstance(read, dict) else None
        if version != FORMAT_VERSION:
            found = f"no {MANIFEST}" if version is None else f"programs of format {version}"
            raise ValueError(
                f"{self.folder}: found {found}, expected programs of format {FORMAT_VERSION}, as"
                " p5jax export --format jax writes them"
            )
        return dict(read)

    def _bytes(self, name: str) -> bytes:
        """A file's bytes; ValueError when they are not those that were written."""
        try:
            data = (self.folder / name).read_bytes()
        except OSError:
            raise ValueError(f"{self.folder / name}: found no such file; copy it again") from None
        if hashlib.sha256(data).hexdigest() != self.manifest["files"][name]:
            raise ValueError(f"{self.folder / name}: is not as it was exported; copy it again")
        return data


def program_name(rows: int, length: int) -> str:
    """The file of the program for so many rows of prompts of so many tokens."""
    return f"rows{rows}_length{length}.bin"


def _fitting(name: str, array: np.ndarray, users: int, widths: list[int]) -> int:
    """The smallest of ascending widths that holds an array [B, width]."""
    if array.ndim != 2 or len(array) != users or array.shape[1] > widths[-1]:
        raise ValueError(
            f"{name}: found the shape {array.shape}, expected ({users}, {widths[-1]} at most)"
        )
    return next(width for width in widths if width >= array.shape[1])


def _widened(array: np.ndarray, width: int, fill: int, in_front: bool) -> np.ndarray:
    missing = width - array.shape[1]
    sides = (missing, 0) if in_front else (0, missing)
    return np.pad(array.astype(np.int32), ((0, 0), sides), constant_values=fill)


def _padded(rows: list[np.ndarray], fill: int) -> np.ndarray:
    array = np.full((len(rows), max([1, *map(len, rows)])), fill, np.int32)
    for at, row in enumerate(rows):
        array[at, : len(row)] = row
    return array


def _main(users: list[str]) -> int:
    try:
        programs = Programs()
        keys, logp, guaranteed = programs.recommend(users, min(10, len(programs.item_keys)))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    titles = dict(zip(programs.item_keys, programs.titles, strict=True))
    for user, own, scores, certain in zip(users, keys, logp, guaranteed, strict=True):
        print(f"{user}{'' if certain else '  (not guaranteed)'}")
        for key, score in zip(own, scores.tolist(), strict=False):
            print(f"  {score:8.3f}  {key}  {titles[key] or ''}")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
