"""One export of a run's training prompts to shards, from gin files (see pipeline.shard_export)."""

from __future__ import annotations

import jax

from p5jax.core import config
from p5jax.core.errors import UserError
from p5jax.core.lock import released
from p5jax.jobs.start import Bindings, PathName, configure
from p5jax.jobs.train import CONFIGS, configured_run
from p5jax.pipeline import shard_export
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.samples import RenderedSamples


@released()
def export_shards(
    out: PathName,
    *gin_files: PathName,
    epochs: int = shard_export.EPOCHS,
    shards: int = shard_export.SHARDS,
    bindings: Bindings | None = None,
    **macros: object,
) -> None:
    """Write the training prompts of the run that gin files and the values given describe.

    The run's folder is made as by training. epochs: prompts for each training example; shards:
    files. UserError in several processes, and when `out` holds anything else. Interrupted after an
    orderly stop by a signal; the same call resumes.
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
    shard_export.export_shards(rendered, out, epochs=epochs, shards=shards)
