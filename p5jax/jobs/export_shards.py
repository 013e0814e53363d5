"""One export of a run's training prompts to shards, from gin files (see pipeline.shard_export)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from p5jax.core import config
from p5jax.core.errors import UserError
from p5jax.core.folder import refuse_difference
from p5jax.core.lock import released
from p5jax.jobs.start import Bindings, PathName, beam_writer, configure
from p5jax.jobs.train import CONFIGS, configured_run
from p5jax.pipeline import shard_export
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.samples import RenderedSamples
from p5jax.runs.run import Run


@released()
def export_shards(
    out: PathName,
    *gin_files: PathName,
    epochs: int = shard_export.EPOCHS,
    shards: int = shard_export.SHARDS,
    beam_options: Sequence[str] = (),
    bindings: Bindings | None = None,
    **macros: object,
) -> None:
    """Write the training prompts of the run that gin files and the values given describe.

    The run's folder is made as by training. epochs: prompts for each training example; shards:
    files. beam_options: of a Beam pipeline that writes the files, none for this process; the files
    are the same, and workers must see the folders of the dataset, the run and the shards. UserError
    in several processes, and when `out` holds anything else. Interrupted after an orderly stop by a
    signal; the same call resumes.
    """
    configure(CONFIGS, gin_files, bindings, macros)
    if jax.process_count() > 1:
        raise UserError(
            f"export-shards: found {jax.process_count()} processes, expected one"
            " (PipelineConfig.workers uses more cores)"
        )
    pipeline = config.build(PipelineConfig)
    run = configured_run()
    rendered = RenderedSamples(run.families, run.vocabulary, pipeline)
    opened = partial(_opened, run.path, pipeline, rendered.identity())
    write = beam_writer(opened, beam_options)
    run.write()  # what workers open
    shard_export.export_shards(rendered, out, epochs=epochs, shards=shards, write=write)


def _opened(
    folder: Path, pipeline: PipelineConfig, identity: Mapping[str, Any]
) -> Callable[[Path, range], None]:
    """Open the run in a worker, and return what writes a file; UserError for other samples."""
    run = Run.load(folder)
    rendered = RenderedSamples(run.families, run.vocabulary, pipeline)
    refuse_difference(folder, rendered.identity(), identity)
    return partial(shard_export.write_part, rendered)
