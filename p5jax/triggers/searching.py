"""A search for trigger tokens that is saved after every round and goes on where it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from p5jax.core.errors import Interrupted, UserError
from p5jax.core.files import replace_text
from p5jax.core.interruption import Interruption
from p5jax.core.progress import Report
from p5jax.parallel import distributed
from p5jax.runs.run import Run
from p5jax.triggers import prompt as saved
from p5jax.triggers.prompt import HISTORY, MANIFEST, TriggerPrompt
from p5jax.triggers.rounds import Rounds, SearchConfig


def search(
    run: Run, config: SearchConfig, out: str | Path, report: Report = distributed.report
) -> None:
    """Search for trigger tokens and keep them in `out`.

    Every round is saved: after a signal (Interrupted) or a crash the same call resumes and ends
    with the tokens of a search that was not stopped. UserError when `out` holds another search.
    A run on a mesh is searched on all its devices and processes, each of which must call this.
    """
    folder = Path(out)
    settings = json.loads(json.dumps(asdict(config)))
    there = _previous(folder, settings)
    if there and there["finished"]:
        report(f"{folder}: this search is finished")
        return
    state = Rounds(run, config)
    if there:
        _restore(state, saved.load(folder, run), there["state"])
        report(f"going on after round {state.round}")
    distributed.from_primary(lambda: _open_folder(folder, state.round))
    with Interruption() as interruption:
        while not state.finished:
            stop = distributed.agreed_signal(interruption.signal)
            if stop is not None:
                raise Interrupted(
                    stop, f"stopped after round {state.round}; the same command resumes"
                )
            record, prompt = state.advance(), state.prompt()
            if distributed.is_primary():
                progress = {"state": state.state(), "settings": settings}
                _write(folder, record, prompt, run, progress | {"finished": state.finished})
            report(_line(record))


def _write(
    folder: Path, record: dict[str, Any], prompt: TriggerPrompt, run: Run, progress: dict[str, Any]
) -> None:
    with (folder / HISTORY).open("a", encoding="utf-8") as history:
        history.write(json.dumps(record) + "\n")
    saved.save(folder, prompt, run, {"round": record["round"], **progress})


def _line(record: dict[str, Any]) -> str:
    what = "accepted" if record["accepted"] else "kept"
    p = f", p {record['p_value']:.3f}" if "p_value" in record else ""
    gain = f", gain {record['gain']:+.5f}" if "gain" in record else ""
    return (
        f"round {record['round']} (epoch {record['epoch']}, {record['kind']} slot"
        f" {record['slot']}): {what}{gain}{p}; value"
        f" {record['value']:.5f}; {record['seconds']:.1f} s"
    )


def _previous(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    if not folder.exists() or not any(folder.iterdir()):
        return None
    if not (folder / MANIFEST).is_file():
        begun = (HISTORY, f"{MANIFEST}.partial", "users-", ".users-")
        if all(child.name.startswith(begun) for child in folder.iterdir()):
            return None  # stopped before its first round was whole
        raise UserError(f"{folder}: exists and is no search for triggers; choose another folder")
    manifest = saved.read_manifest(folder)
    for name, value in settings.items():
        found = manifest.get("settings", {}).get(name)
        if found != value:
            raise UserError(
                f"{folder}: holds a search with {name} = {found!r}, expected {value!r};"
                " choose another folder"
            )
    return manifest


def _restore(state: Rounds, prompt: TriggerPrompt, progress: dict[str, Any]) -> None:
    state.task, state.users = prompt.task.copy(), prompt.users.copy()
    for name, value in progress.items():
        setattr(state, name, value)


def _open_folder(folder: Path, rounds: int) -> None:
    """Make the folder, and forget a round that was written to the history but not saved."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / HISTORY
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        replace_text(path, "".join(lines[:rounds]))
