"""One export of a run: its weights for Hugging Face's T5, or programs that rank without p5jax."""

from __future__ import annotations

import os
from dataclasses import asdict

from p5jax.core.errors import UserError
from p5jax.jobs.start import PathName
from p5jax.models.checkpoints.hugging_face import export_hugging_face
from p5jax.runs.run import Run
from p5jax.serving.exported import export_programs
from p5jax.serving.ranker import Ranker
from p5jax.serving.settings import EXPORT_FORMATS, PROGRAM_DEFAULTS, ProgramsConfig


def export(
    run: Run | PathName,
    out: PathName,
    *,
    file_format: str = EXPORT_FORMATS[0],
    drop_whole_words: bool = False,
    programs: ProgramsConfig = PROGRAM_DEFAULTS,
) -> None:
    """Write a run to the folder `out`, replacing an earlier export of the same format.

    file_format: "huggingface" is weights, sizes and tokenizer for transformers' T5; "jax" is what
    serving.exported writes, with the settings `programs`. drop_whole_words: leave out the
    whole-word table, which Hugging Face's T5 lacks; the answers change. UserError when the model
    has one and it may not be left out, for settings of the other format, and when `out` holds
    anything but such an export.
    """
    if file_format not in EXPORT_FORMATS:
        expected = " or ".join(EXPORT_FORMATS)
        raise UserError(f"file_format: found {file_format!r}, expected {expected}")
    if file_format == "jax" and drop_whole_words:
        raise UserError("drop_whole_words: found it with format jax, expected format huggingface")
    for name, value in asdict(programs).items():
        if file_format == "huggingface" and value != getattr(PROGRAM_DEFAULTS, name):
            raise UserError(f"{name}: found {value!r} with format huggingface, expected format jax")
    opened = run if isinstance(run, Run) else Run.load(run)
    if file_format == "jax":
        export_programs(Ranker(opened), out, programs)
        return
    export_hugging_face(
        opened.params,
        opened.model.config,
        os.fspath(out),
        drop_whole_words=drop_whole_words,
        vocabulary=opened.vocabulary,
    )
