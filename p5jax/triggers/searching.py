"""A search for trigger tokens that is saved after every round and can be resumed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from p5jax.core.errors import Interrupted
from p5jax.core.files import replace_text
from p5jax.core.folder import as_json
from p5jax.core.interruption import Interruption
from p5jax.core.lock import released
from p5jax.core.progress import Report
from p5jax.parallel import distributed
from p5jax.runs.run import Run
from p5jax.triggers.prompt import (
    HISTORY,
    TRIGGER_FOLDER,
    load_triggers,
    run_fingerprints,
    save_triggers,
)
from p5jax.triggers.rounds import Rounds
from p5jax.triggers.settings import SearchConfig
from p5jax.triggers.state import SearchState


@released()
def search(
    run: Run, config: SearchConfig, out: str | Path, report: Report = distributed.report
) -> None:
    """Search for trigger tokens and keep them in `out` (PAP-REC, arXiv 2402.00284).

    Every round is saved: after a signal (Interrupted) or a crash the same call resumes, and ends
    with the tokens of an uninterrupted search. UserError when `out` holds another search. For a
    run on a mesh all its devices work, and each of its processes must call this.
    """
    folder, settings = Path(out), as_json(asdict(config))
    wanted = {"settings": settings, "identity": run_fingerprints(run)}
    there = distributed.from_primary(lambda: TRIGGER_FOLDER.claim(folder, wanted))
    if there and there["finished"]:
        report(f"{folder}: this search is finished")
        return
    saved = SearchState.from_json(there["state"], load_triggers(folder, run)) if there else None
    rounds = Rounds(run, config, saved)
    distributed.from_primary(lambda: _forget_unsaved(folder / HISTORY, rounds.state.round))
    if saved:
        report(f"resuming after round {saved.round}")
    with Interruption() as interruption:
        while True:
            stop, done = distributed.agreed_signal(interruption.signal), rounds.state.round
            if stop is not None and rounds.finished:  # what follows the search is not begun
                text = f"finished round {done}, then stopped"
                raise Interrupted(stop, f"{text}; the same command resumes what follows")
            if stop is not None:
                raise Interrupted(stop, f"stopped after round {done}; the same command resumes")
            if rounds.finished:
                return
            record = rounds.advance()
            if distributed.is_primary():
                _append(folder / HISTORY, record)
                progress = {
                    "round": rounds.state.round,
                    "state": rounds.state.to_json(),
                    "settings": settings,
                    "finished": rounds.finished,
                }
                save_triggers(folder, rounds.state.prompt, run, progress)
            report(_line(record))


def _append(history: Path, record: dict[str, Any]) -> None:
    with history.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _forget_unsaved(history: Path, rounds: int) -> None:
    """Drop a round that is in the history but whose tokens were not saved."""
    if history.is_file():
        lines = history.read_text(encoding="utf-8").splitlines(keepends=True)
        replace_text(history, "".join(lines[:rounds]))


def _line(record: dict[str, Any]) -> str:
    what = "accepted" if record["accepted"] else "kept"
    p = f", p {record['p_value']:.3f}" if "p_value" in record else ""
    gain = f", gain {record['gain']:+.5f}" if "gain" in record else ""
    return (
        f"round {record['round']} (epoch {record['epoch']}, {record['kind']} slot"
        f" {record['slot']}): {what}{gain}{p}; value"
        f" {record['value']:.5f}; {record['seconds']:.1f} s"
    )
