"""One vocabulary, as a run on a dataset would train it."""

from __future__ import annotations

from p5jax.data.dataset import Dataset
from p5jax.jobs.start import PathName
from p5jax.prompts.template_files import chosen_templates
from p5jax.runs.run import RunConfig, make_vocabulary
from p5jax.text.vocabulary import Vocabulary


def vocabulary(
    dataset: Dataset | PathName,
    out: PathName,
    size: int = RunConfig.vocabulary_size,
    templates: str = RunConfig.templates,
) -> Vocabulary:
    """Train the vocabulary of a run on a dataset, write it to the folder `out`, and return it.

    size: pieces at most. templates: prompts whose words it holds, as RunConfig.templates.
    A vocabulary that is there is replaced. UserError for a folder that is no dataset, and an `out`
    that holds anything else.
    """
    data = dataset if isinstance(dataset, Dataset) else Dataset.load(dataset)
    config = RunConfig(str(data.path), run_dir="", templates=templates, vocabulary_size=size)
    made = make_vocabulary(config, data, chosen_templates(config.templates, config.prompts))
    made.save(out)
    return made
