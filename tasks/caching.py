"""Offline caching: SeqIO's own Beam pipeline, for the tasks that the environment names."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import seqio
from absl import flags

from p5jax.core.errors import UserError
from p5jax.core.files import replace_text
from p5jax.core.folder import refuse_difference
from p5jax.tasks.registry import examples_of, find


def cache_tasks(
    names: Sequence[str], out: str, beam_options: Sequence[str] = (), shards: int = 16
) -> dict[str, Path]:
    """Write the rendered, tokenised examples of tasks, and of mixtures' tasks, below `out`.

    What `seqio_cache_tasks --module_import=p5jax.tasks.from_environment` does; the environment
    must name what is registered (see p5jax.tasks.environment). A task that is there already stays
    as it is. `shards` is the least number of files of a split.

    Returns each task's folder. UserError when a name is unknown, Beam is absent, or the examples
    that are there come of another dataset, vocabulary, prompts, seed or number of epochs.
    """
    tasks = {task.name for name in names for task in seqio.get_subtasks(find(name))}
    try:
        from seqio.scripts import cache_tasks_main
    except ImportError as error:
        raise UserError(
            f"tasks cache: {error}; pip install 'p5jax[seqio,beam]' in an environment of its own"
        ) from error
    folder = str(Path(out).absolute())
    records = {name: _record(folder, name) for name in tasks}
    for name, record in records.items():
        if Path(folder, seqio.get_task_dir_from_name(name), "COMPLETED").exists():
            there = json.loads(record.read_text()) if record.is_file() else {}
            refuse_difference(record, there, _identity(name))
    options = list(beam_options) or ["--runner=DirectRunner"]
    flags.FLAGS(["p5jax tasks cache", f"--output_cache_dir={folder}"])
    for flag, value in (
        ("min_shards", shards),
        ("tasks", [re.escape(name) for name in sorted(tasks)]),
        ("module_import", ["p5jax.tasks.from_environment"]),
        ("pipeline_options", options),
    ):
        setattr(flags.FLAGS, flag, value)
    cache_tasks_main.main([])
    for name, record in records.items():
        replace_text(record, json.dumps(_identity(name), indent=1) + "\n")
    return {name: Path(folder, seqio.get_task_dir_from_name(name)) for name in sorted(tasks)}


def _record(folder: str, name: str) -> Path:
    """Where what decided a task's cached examples is written."""
    return Path(folder, f"{seqio.get_task_dir_from_name(name)}.p5jax.json")


def _identity(name: str) -> dict[str, Any]:
    task = find(name)
    examples = examples_of(task)
    return {
        "seed": examples.seed,
        "examples": {split: task.num_input_examples(split) for split in task.splits},
        "vocabulary": task.output_features["targets"].vocabulary.vocabulary.fingerprint,
        "templates": examples.family.templates_fingerprint,
        **examples.family.source.identity(),
    }
