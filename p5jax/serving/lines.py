"""Many questions from a file, one JSON object a line, and their answers in the same order."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from p5jax.core.documents import json_value, read_json_lines, read_lines
from p5jax.core.errors import Interrupted, UserError
from p5jax.core.files import checksum, replace_text, replaced
from p5jax.core.folder import OutputFolder
from p5jax.core.interruption import Interruption
from p5jax.core.lock import release, released
from p5jax.core.progress import Progress, Report
from p5jax.parallel import distributed
from p5jax.serving.bulk import PART_BATCHES, made_from
from p5jax.serving.question import Case, Question
from p5jax.serving.recommender import Recommender
from p5jax.serving.settings import BULK_DEFAULTS, BulkConfig

ANSWERS_FOLDER = OutputFolder(
    kind="folder of unfinished answers",
    manifest="answers.json",
    version=1,
    command="p5jax recommend --input",
)


@released()
def answer_lines(
    recommender: Recommender,
    questions: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: BulkConfig = BULK_DEFAULTS,
    report: Report = distributed.report,
) -> None:
    """Answer each line of a file of questions, as serving.question.Question has them, in `out`.

    An answer's line has the question's own fields, then `items`, best first, and `exact`. Until
    all are there they are in the folder `out`.parts, from which the same call resumes after an
    interruption. UserError, before anything is computed, for a line that is no question or names
    what is unknown, and where `out` exists.
    """
    out = Path(out).absolute()
    if out.exists():
        raise UserError(f"{out}: exists; choose another file, or delete it")
    cases, asked = _read(recommender, Path(questions))
    config = replace(config, prompts=recommender.next_item_prompts(config.prompts))
    recommender.check_k(config.k)
    folder = out.with_name(f"{out.name}.parts")
    manifest = {"questions": checksum(Path(questions)), **made_from(recommender, config)}
    if ANSWERS_FOLDER.claim(folder, manifest) is None:
        ANSWERS_FOLDER.write(folder, manifest)
    size = config.batch_size * PART_BATCHES
    firsts = range(0, len(cases), size)
    done = sum(
        len(cases[first : first + size]) for first in firsts if _part(folder, first).exists()
    )
    progress = Progress("answering", "questions", len(cases), report, done)
    with Interruption() as interruption:
        for first in firsts:
            if _part(folder, first).exists():
                continue
            lines = []
            for start in range(first, min(first + size, len(cases)), config.batch_size):
                if interruption.signal is not None:
                    text = f"stopped; the same command resumes after {first} lines"
                    raise Interrupted(interruption.signal, text)
                rows = slice(start, min(start + config.batch_size, first + size))
                answers = recommender.answers(cases[rows], config)
                for given, answer in zip(asked[rows], answers, strict=True):
                    lines.append(json.dumps(given | asdict(answer), ensure_ascii=False) + "\n")
                progress.add(len(answers))
            replace_text(_part(folder, first), "".join(lines))
    for first in firsts:
        part, expected = _part(folder, first), len(cases[first : first + size])
        found = len(read_json_lines(part, object, "answers; delete it to make it again"))
        if found != expected:
            raise UserError(f"{part}: found {found} lines, expected {expected}; delete it")
    with replaced(out) as beside, beside.open("wb") as file:
        for first in firsts:
            file.write(_part(folder, first).read_bytes())
    release(folder)
    shutil.rmtree(folder)


def _part(folder: Path, first: int) -> Path:
    return folder / f"part-{first:09d}.jsonl"


def _read(recommender: Recommender, file: Path) -> tuple[list[Case], list[dict[str, object]]]:
    """Each line's case and its own fields; blank lines are passed over."""
    cases, asked = [], []
    for number, line in enumerate(read_lines(file, "a file of questions"), 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        value = json_value(where, line, Question, "a question")
        try:
            cases += recommender.cases([Question(**value)])
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        asked.append(value)
    if not cases:
        raise UserError(f"{file}: found no question, expected one or more")
    return cases, asked
