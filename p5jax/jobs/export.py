"""One export of a run's model to the format of Hugging Face's T5."""

from __future__ import annotations

import os

from p5jax.jobs.start import PathName
from p5jax.models.checkpoints.hugging_face import export_hugging_face
from p5jax.runs.run import Run


def export(run: Run | PathName, out: PathName, *, drop_whole_words: bool = False) -> None:
    """Write a run's weights, sizes and tokenizer to the folder `out`, for transformers' T5.

    drop_whole_words: leave out the whole-word table, which Hugging Face's T5 lacks; the answers
    change. UserError when the model has one and it may not be left out, and when `out` holds
    anything but an export.
    """
    opened = run if isinstance(run, Run) else Run.load(run)
    export_hugging_face(
        opened.params,
        opened.model.config,
        os.fspath(out),
        drop_whole_words=drop_whole_words,
        vocabulary=opened.vocabulary,
    )
