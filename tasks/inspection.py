"""The registered tasks and mixtures, and their examples as text and as tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from p5jax.core.errors import UserError
from p5jax.data.dataset import SPLITS
from p5jax.tasks.calls import user_error
from p5jax.tasks.examples import TaskExamples
from p5jax.tasks.registry import examples_of, find

_SAMPLE = 200  # examples of a task that lengths are measured on
_UNBOUNDED = 1 << 30


def listing(whole: str) -> str:
    """Return the sizes of all tasks of a registration, and the rates of its mixtures."""
    names = [name for name in seqio.TaskRegistry.names() if name.startswith(f"{whole}_")]
    width = max(map(len, names))
    lines = [f"{'task':<{width}} " + "".join(f"{split:>12}" for split in SPLITS)]
    for name in names:
        task = seqio.TaskRegistry.get(name)
        counts = [task.num_input_examples(s) if s in task.splits else 0 for s in SPLITS]
        lines.append(f"{name:<{width}} " + "".join(f"{count:>12,}" for count in counts))
    for name in seqio.MixtureRegistry.names():
        if name == whole or name.startswith(f"{whole}_"):
            lines += ["", f"{name}: mixture at rates"]
            lines += [f"  {task:<{width}} {rate:9.4f}" for task, rate in rates(name).items()]
    return "\n".join(lines)


def rates(name: str) -> dict[str, float]:
    """Return the share of each task in a mixture, or the task's own 1."""
    found = find(name)
    if isinstance(found, seqio.Task):
        return {name: 1.0}
    every = {task.name: found.get_rate(task) for task in found.tasks}
    return {task: rate / sum(every.values()) for task, rate in every.items()}


def show(name: str, split: str, count: int, inputs: int | None = None, targets: int = 64) -> str:
    """Return lengths and `count` examples of a task or mixture, as SeqIO makes them.

    `inputs` and `targets` are the sequence lengths asked for, end-of-sequence included. Prompts are
    shown as they are registered with FamilyConfig.max_source = `inputs`, where that is less than
    they have. UserError for an unknown name, a split that has no examples, or `inputs` that are too
    few for a prompt.
    """
    every = rates(name)
    shares = {task: every[task] for task in every if split in seqio.TaskRegistry.get(task).splits}
    if not shares:
        raise UserError(f"{name}: found no {split} examples, expected another --split")
    lines = [f"{name}, {split}: lengths in tokens of up to {_SAMPLE} examples of each task"]
    for task, rate in shares.items():
        lines += ["", f"{task}  rate {rate:.4f}", *_lengths(task, split, inputs, targets)]
    chosen = np.random.default_rng(0).choice(len(shares), count, p=_normalised(shares))
    limits = {"inputs": inputs, "targets": targets}
    for place, task in enumerate(shares):
        rows = _rows(_within(task, inputs), split, int((chosen == place).sum()), limits)
        try:
            lines += [line for row in rows for line in ("", *_example_lines(task, row))]
        except tf.errors.OpError as error:
            raise user_error(error) or error from None
    return "\n".join(lines)


def _within(name: str, inputs: int | None) -> seqio.Task:
    """Return a task whose prompts have at most `inputs` tokens."""
    task = seqio.TaskRegistry.get(name)
    examples = examples_of(task)
    if inputs is None or inputs >= examples.family.source.config.max_source:
        return task
    shorter = replace(examples, family=examples.family.with_max_source(inputs))
    return task.replace(preprocessors=[shorter.render, *task.preprocessors[1:]])


def _normalised(shares: Mapping[str, float]) -> np.ndarray:
    values = np.array(list(shares.values()))
    normalised: np.ndarray = values / values.sum()
    return normalised


def _rows(
    task: seqio.Task, split: str, count: int, lengths: Mapping[str, int | None] | None
) -> Iterator[dict[str, Any]]:
    """Yield examples that a seeded shuffle of the source puts first, through SeqIO's own steps."""
    numbers = task.source.get_dataset(split, shuffle=True, seed=0).take(count)
    rendered = task.preprocess_precache(numbers)
    rows = task.preprocess_postcache(rendered, sequence_length=lengths)
    yield from seqio.utils.trim_dataset(rows, lengths, task.output_features).as_numpy_iterator()


def _lengths(name: str, split: str, inputs: int | None, targets: int) -> list[str]:
    """Return two lines on the lengths of a task's texts and on how many do not fit."""
    task = seqio.TaskRegistry.get(name)
    examples = examples_of(task)
    whole = _unbounded(examples)
    limit = examples.family.source.config.max_source
    rows = list(_rows(task, split, _SAMPLE, None))
    shortened = []
    for row in rows:
        text = whole.example(split, int(row["epoch"]), int(row["index"])).inputs
        cut = inputs is not None and len(row["inputs"]) > inputs
        shortened.append(cut or text.encode() != row["inputs_pretokenized"])
    source = np.array([len(row["inputs"]) for row in rows])
    target = np.array([len(row["targets"]) for row in rows])
    limit = min(limit, inputs or limit)
    return [
        f"  inputs   mean {source.mean():6.1f}  longest {source.max():4d}"
        f"  truncated to {limit}: {np.mean(shortened):.1%}",
        f"  targets  mean {target.mean():6.1f}  longest {target.max():4d}"
        f"  truncated to {targets}: {np.mean(target > targets):.1%}",
    ]


def _unbounded(examples: TaskExamples) -> TaskExamples:
    """Return the same examples with no limit on their inputs."""
    return replace(examples, family=examples.family.with_max_source(_UNBOUNDED))


def _example_lines(name: str, row: Mapping[str, Any]) -> list[str]:
    vocabulary = find(name).output_features["inputs"].vocabulary.vocabulary
    place = f"epoch {row['epoch']} index {row['index']}"
    lines = [f"{name}  {place}  prompt {row['prompt'].decode()}  judged as {row['kind'].decode()}"]
    for feature in ("inputs", "targets"):
        pieces = " ".join(vocabulary.piece(int(token)) for token in row[feature])
        lines.append(f"  {feature:<8} {row[f'{feature}_pretokenized'].decode()}")
        lines.append(f"  {len(row[feature]):4d} ids {pieces}")
    return lines
