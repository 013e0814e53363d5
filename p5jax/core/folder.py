"""The output folder: claimed by what it is made from, resumed by the same, refused to others.

Every command that makes a folder over a long time follows one protocol. The folder's manifest, a
JSON file, says what the folder is made from. The first call claims the folder by writing it; a
later call from the same things resumes; a call from other things is refused with the first
difference. Files are written beside and renamed, so a folder never holds half a file. A folder that
is claimed is locked: a second command on it is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p5jax.core.documents import read_json
from p5jax.core.errors import UserError, shown
from p5jax.core.files import remove_left_overs, replace_text
from p5jax.core.kinds import refuse_other
from p5jax.core.lock import LOCK, hold

_WHERE = ("path", "relative")  # keys that tell where a thing lies, not which it is


@dataclass(frozen=True)
class OutputFolder:
    """One kind of output folder.

    kind: what messages call it, "run". manifest: its file's name. version: of the format, under
    the key `version_key`, "" for a manifest without one. command: what makes such folders.
    begun: beginnings of the names of files that are written before the manifest: a folder with
    only these, hidden or not, is one whose making was cut short, and may be claimed.
    contents: the kind of the manifest (see core.kinds), without its version. steps: the key of the
    number of training steps, "" for none, in which a folder may differ: training.plan decides.
    """

    kind: str
    manifest: str
    version: int
    command: str
    version_key: str = "format_version"
    begun: tuple[str, ...] = ()
    contents: Any = dict[str, Any]
    steps: str = ""

    def is_at(self, path: str | os.PathLike[str]) -> bool:
        """Return whether a folder has a manifest of this kind's name."""
        return (Path(path) / self.manifest).is_file()

    def read(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Return a folder's manifest; UserError when absent, damaged or of another version."""
        file = Path(path) / self.manifest
        if not file.is_file():
            raise UserError(f"{path}: not a {self.kind} (no {self.manifest}); see {self.command}")
        manifest = read_json(file, Any, f"what {self.command} writes")
        versions = {self.version_key: self.version} if self.version_key else {}
        if not isinstance(manifest, dict) or not versions.keys() <= manifest.keys():
            found = "no " + self.version_key if isinstance(manifest, dict) else shown(manifest)
            raise UserError(f"{file}: found {found}, expected what {self.command} writes")
        for key, version in versions.items():
            if manifest[key] != version or type(manifest[key]) is not int:
                raise UserError(
                    f"{file}: found {key} {shown(manifest[key])}, expected {version};"
                    f" {self.command} makes it new"
                )
        contents = {key: value for key, value in manifest.items() if key not in versions}
        refuse_other(file, contents, self.contents)
        return manifest

    def claim(
        self, path: str | os.PathLike[str], wanted: Mapping[str, Any], *, started: bool = True
    ) -> dict[str, Any] | None:
        """Return the manifest of a folder that is made from what is `wanted`, None of a new one.

        The folder of a new one is made; its manifest is left to `write`. If nothing was kept yet
        (`started` is False), the old manifest is replaced. The folder stays locked (see core.lock),
        and is rid of what a killed process was writing.
        UserError when the folder is made from other things, naming the first difference, or is
        something else, before anything in it is touched; and when another process works on it.
        """
        self.look(path, wanted, started=started)
        hold(path)
        remove_left_overs(Path(path))
        return self.look(path, wanted, started=started)

    def look(
        self, path: str | os.PathLike[str], wanted: Mapping[str, Any], *, started: bool = True
    ) -> dict[str, Any] | None:
        """Return what `claim` returns, or refuse what it refuses, and change nothing."""
        path = Path(path)
        if (path / self.manifest).is_file():
            there = self.read(path)
            if started:
                refuse_difference(path / self.manifest, there, wanted, self.steps)
            return there
        starts = (*self.begun, f"{self.manifest}.partial", LOCK)
        allowed = (*starts, *(f".{start}" for start in starts))  # files are written hidden
        if path.is_file() or any(not child.name.startswith(allowed) for child in path.glob("*")):
            raise UserError(f"{path}: exists and is not a {self.kind}; choose another folder")
        return None

    def write(self, path: str | os.PathLike[str], manifest: Mapping[str, Any]) -> None:
        """Write the manifest beside, then rename it."""
        written = {self.version_key: self.version} if self.version_key else {}
        text = json.dumps(written | dict(manifest), indent=1, ensure_ascii=False)
        replace_text(Path(path) / self.manifest, text + "\n")


def as_json(value: Any) -> Any:
    """Return a value as JSON would give it back: tuples are lists, keys are text."""
    return json.loads(json.dumps(value))


def differences(
    there: Mapping[str, Any], wanted: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, value there, value wanted) of each value in which what is there differs.

    Both are JSON-able; keys of nested mappings are joined by points. What is there beside all that
    is wanted (a list of files, say) is no difference, nor is where a thing lies ("path",
    "relative"); what a nested mapping has beside is one.
    """
    for key, value in as_json(dict(wanted)).items():
        old = there.get(key)
        if key in _WHERE:
            continue
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            missing = {name: None for name in old if name not in value}
            for name, *values in differences(old, {**value, **missing}):
                yield f"{key}.{name}", *values
        elif old != value:
            yield key, old, value


def refuse_difference(
    where: str | os.PathLike[str],
    there: Mapping[str, Any],
    wanted: Mapping[str, Any],
    but: str = "",
) -> None:
    """Raise UserError when what is there is not what is wanted, naming the first difference.

    The key `but` may differ.
    """
    found = [each for each in differences(there, wanted) if each[0] != but]
    if found:
        key, old, new = found[0]
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(
            f"{where}: found {key} = {shown(old)}, expected {shown(new)}{more};"
            " choose another folder"
        )
