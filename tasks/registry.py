"""Registering a dataset's tasks and mixtures with SeqIO, under names that are written out here."""

from __future__ import annotations

import importlib.util  # noqa: F401  gin 0.5 uses it without importing it
import os
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import seqio

from gin import config as gin  # type: ignore[attr-defined]
from p5jax.core import config as p5jax_config
from p5jax.core.errors import UserError, nearest
from p5jax.data.dataset import Dataset
from p5jax.data.names import HELD_OUT_SPLITS, SPLITS
from p5jax.prompts.families import Family, FamilyConfig, make_families
from p5jax.prompts.template_files import chosen_templates
from p5jax.runs.run import Run
from p5jax.tasks import metrics
from p5jax.tasks.examples import TaskExamples, append_eos
from p5jax.tasks.postprocessing import answer
from p5jax.tasks.source import NumberSource
from p5jax.tasks.vocabulary import SeqioVocabulary
from p5jax.text.vocabulary import Vocabulary

# How each kind of answer is judged; the kinds are those of p5jax.evaluation.task.
METRICS: Mapping[str, Callable[[Dataset], Any]] = {
    "catalogue": metrics.items,
    "candidates": metrics.items,
    "yes_no": metrics.held_out_yes,
    "rating": metrics.stars,
    "text": metrics.sentences,
    "choice": metrics.choices,
}
_DEFAULTS = FamilyConfig()
_NAME = re.compile(r"\w+", re.ASCII)
_Arguments = tuple[Hashable, ...]
_made: dict[_Arguments, str] = {}  # the arguments of a registration -> its whole mixture


@dataclass(frozen=True)
class Registration:
    """What one call registers: a dataset's families in one vocabulary."""

    name: str
    dataset: Dataset
    vocabulary: Vocabulary
    families: Mapping[str, Family]
    epochs: int
    seed: int


def register(
    dataset: str | os.PathLike[str],
    vocabulary: str | os.PathLike[str],
    *,
    templates: str = "amazon",
    prompts: Sequence[str] = (),
    families: Sequence[str] = (),
    config: FamilyConfig = _DEFAULTS,
    epochs: int = 10,
    seed: int = 0,
    name: str = "",
) -> str:
    """Register the tasks and mixtures of a dataset folder; return the whole mixture's name.

    That is `p5_<name>`; `name` is the dataset's own unless given. Again with the same arguments
    this does nothing. The training split of a task is `epochs` epochs, sampled with `seed`
    exactly as `p5jax train` samples with PipelineConfig.seed. It is finite, so that cached and
    uncached examples agree, and reading beyond its end repeats it: for new samples throughout, give
    at least as many epochs as are trained on.

    Args:
        dataset: a folder that `p5jax data prepare` wrote.
        vocabulary: a folder that `Vocabulary.save` wrote (RUN/vocabulary, or `p5jax data
            vocabulary`), or a SentencePiece model, which gets the dataset's id tokens.
        templates: "amazon", "yelp", a TOML file or P5's all_*_templates.py.
        prompts: the ids of those to use, () for all.
        families: () for all that the dataset feeds.
        config: the sampling's parameters; max_source bounds the inputs' tokens. Asking SeqIO for
            shorter inputs than a prompt has is an error when that prompt comes.

    Raises:
        UserError: an input is absent or wrong, or the name is taken by other arguments.
    """
    folders = str(Path(dataset).absolute()), str(Path(vocabulary).absolute())
    choice = templates, tuple(prompts), tuple(families)
    arguments = (*folders, *choice, config, epochs, seed, name)
    if _known(arguments):
        return _made[arguments]
    loaded = Dataset.load(dataset)
    encoder = _load_vocabulary(Path(vocabulary), loaded)
    chosen = chosen_templates(templates, prompts)
    made = make_families(loaded, chosen, encoder, config, families or None)
    return _register(arguments, Registration(name, loaded, encoder, made, epochs, seed))


def register_run(
    run_dir: str | os.PathLike[str], *, epochs: int = 10, seed: int = 0, name: str = ""
) -> str:
    """Register the tasks of a run folder: its dataset, vocabulary, templates and families.

    Otherwise as `register`; the run's own training drew from its PipelineConfig.seed.
    """
    arguments = (str(Path(run_dir).absolute()), epochs, seed, name)
    if _known(arguments):
        return _made[arguments]
    run = Run.load(run_dir)
    made = Registration(name, run.dataset, run.vocabulary, run.families, epochs, seed)
    return _register(arguments, made)


def vocabulary_of(name: str) -> SeqioVocabulary:
    """Return the vocabulary of a registered task or mixture, for a t5x model."""
    return find(name).output_features["targets"].vocabulary


def find(name: str) -> seqio.Task | seqio.Mixture:
    """Return a registered task or mixture; UserError naming the nearest when there is none."""
    known = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()]
    if name not in known:
        raise UserError(f"tasks: found {name!r}, expected a registered name{nearest(name, known)}")
    return seqio.get_mixture_or_task(name)


def examples_of(task: seqio.Task) -> TaskExamples:
    """Return what a registered task renders: its first preprocessor is bound to it."""
    return task.preprocessors[0].__self__


def _known(arguments: _Arguments) -> bool:
    return _made.get(arguments) in seqio.MixtureRegistry.names()


def _load_vocabulary(path: Path, dataset: Dataset) -> Vocabulary:
    if not path.is_dir():
        return Vocabulary.from_model(path, dataset.id_tokens)
    vocabulary = Vocabulary.load(path)
    lacking = sorted(set(dataset.id_tokens) - set(vocabulary.id_tokens))
    if lacking:
        raise UserError(
            f"{path}: found no {lacking[0]}, expected all {len(dataset.id_tokens)} id tokens"
            f" of {dataset.path}"
        )
    return vocabulary


def _register(arguments: _Arguments, registration: Registration) -> str:
    """Add all tasks and mixtures, or none."""
    if registration.epochs < 1:
        raise UserError(f"epochs: found {registration.epochs}, expected 1 or more")
    whole = f"p5_{_valid_name(registration)}"
    tasks = _tasks(whole, registration)
    mixtures = _mixtures(whole, registration, tasks)
    for taken in (*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()):
        if taken in tasks or taken in mixtures:
            raise UserError(
                f"tasks: {taken} is registered already with other arguments; give another name"
            )
    for name, task in tasks.items():
        seqio.TaskRegistry.add_provider(name, task)
    for name, mixture in mixtures.items():
        seqio.MixtureRegistry.add_provider(name, mixture)
    _made[arguments] = whole
    return whole


def _valid_name(registration: Registration) -> str:
    if not registration.name:
        return re.sub(r"\W+", "_", registration.dataset.name, flags=re.ASCII).strip("_").lower()
    if not _NAME.fullmatch(registration.name):
        raise UserError(f"name: found {registration.name!r}, expected letters, digits and _")
    return registration.name


def _tasks(whole: str, registration: Registration) -> dict[str, seqio.Task]:
    """Return a registration's tasks by name: of each family all seen prompts, the unseen ones,
    and each prompt alone, with a training split where the prompt is a seen one."""
    tasks: dict[str, seqio.Task] = {}
    for name, family in registration.families.items():
        examples = partial(TaskExamples, family, seed=registration.seed)
        wanted = {f"{whole}_{name}": examples((), SPLITS)}
        unseen = tuple(t.id for t in family.templates.values() if not t.seen and not t.zero_shot)
        if unseen:
            wanted[f"{whole}_{name}_zeroshot"] = examples(unseen, HELD_OUT_SPLITS)
        for id, template in family.templates.items():
            splits = SPLITS if template.seen else HELD_OUT_SPLITS
            suffix = re.sub(r"\W", "_", id, flags=re.ASCII)
            wanted[f"{whole}_{name}_{suffix}"] = examples((id,), splits)
        for task_name, each in wanted.items():
            if each.sizes():
                tasks[task_name] = _task(task_name, each, registration)
    return tasks


def _task(name: str, examples: TaskExamples, registration: Registration) -> seqio.Task:
    judges = dict.fromkeys(METRICS[kind] for kind in sorted(examples.kinds()))
    vocabulary = SeqioVocabulary(registration.vocabulary)
    feature = seqio.Feature(vocabulary, add_eos=True)
    return seqio.Task(
        name,
        source=NumberSource(name, examples.sizes(), registration.epochs),
        preprocessors=[
            examples.render,
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            append_eos,
        ],
        output_features={"inputs": feature, "targets": feature},
        postprocess_fn=answer,
        metric_fns=[metric(registration.dataset) for metric in judges],
    )


def _mixtures(
    whole: str, registration: Registration, tasks: Mapping[str, seqio.Task]
) -> dict[str, seqio.Mixture]:
    """Return the mixture of all families at rates proportional to their training sizes, as in
    `p5jax train`, the same without each family in turn, and that of the unseen prompts."""
    families = registration.families
    rates = {
        name: (tasks[f"{whole}_{name}"], float(family.size("train")))
        for name, family in families.items()
    }
    wanted = {whole: list(rates.values())}
    for left_out in families if len(families) > 1 else ():
        kept = [rate for name, rate in rates.items() if name != left_out]
        wanted[f"{whole}_without_{left_out}"] = kept
    unseen = [task for name, task in tasks.items() if name.endswith("_zeroshot")]
    if unseen:
        wanted[f"{whole}_zeroshot"] = [(task, 1.0) for task in unseen]
    return {name: seqio.Mixture(name, pairs) for name, pairs in wanted.items()}


# For t5x's gin files. `@gin.configurable` would put a second line under every UserError.
for _function in (register, register_run, vocabulary_of):
    gin.external_configurable(_function, module="p5jax.tasks")
p5jax_config.register_configs(FamilyConfig)  # `@FamilyConfig()`, for register.config
