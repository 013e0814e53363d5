"""One evaluation of a run's families, or of found trigger tokens, beside the baselines."""

from __future__ import annotations

from collections.abc import Sequence

from p5jax.core.errors import UserError
from p5jax.data.dataset import Dataset
from p5jax.evaluation.evaluators import evaluate_run
from p5jax.evaluation.results import FamilyResult
from p5jax.evaluation.settings import DEFAULTS, EvaluationConfig
from p5jax.jobs.start import PathName, opened
from p5jax.runs.other_domain import asked_about, zero_shot_prompts
from p5jax.runs.run import Run
from p5jax.runs.stored_memory import stored_memory
from p5jax.triggers.layout import PROMPT_ID
from p5jax.triggers.prompt import triggered


def evaluate(
    run: Run | PathName,
    split: str = "test",
    families: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    limit: int | None = None,
    config: EvaluationConfig = DEFAULTS,
    *,
    dataset: PathName | None = None,
    triggers: PathName | None = None,
    average: bool = False,
    model_parallel: int = 1,
    shard: str | None = None,
) -> list[FamilyResult]:
    """Evaluate a run's prompts on a split and return the results, the baselines among them.

    families, prompts: by name and id; by default all families, each with its usual prompts.
    limit: examples of each prompt, the same for every run. dataset: another one, whose items are
    asked about for the users that both have by their keys; by default with the zero-shot prompts,
    whose results are beside those of the run's own dataset. triggers: a folder of trigger tokens,
    whose prompt is evaluated instead. average: the prompts that rank the catalogue are also
    measured together, by the mean of their probabilities. model_parallel: devices that share the
    parameters of a run that is given by its folder. A ranking of the catalogue is also measured
    with the run's memory, where jobs.fit_memory has chosen one. shard: "2/4" evaluates the
    second of four shares of the examples alone, for jobs.merge. The results are also written to
    RUN/evaluation/SPLIT, where `compare` reads them. UserError for an unknown family, prompt or
    split.
    """
    run = opened(run, model_parallel)
    if dataset is not None:
        if triggers is not None:
            raise UserError("triggers: found them with another dataset, expected one of the two")
        run = asked_about(run, Dataset.load(dataset))
        prompts = prompts or zero_shot_prompts(run, split, families)
        about = f"-about-{run.dataset.fingerprint[:8]}"
        return evaluate_run(
            *(run, families, prompts, split, limit),
            config=config,
            about=about,
            average=average,
            shard=shard,
        )
    memory = stored_memory(run) if config.memory else None
    if triggers is None:
        return evaluate_run(
            *(run, families, prompts, split, limit),
            config=config,
            memory=memory,
            average=average,
            shard=shard,
        )
    if families or prompts or average:
        raise UserError("triggers: found them with families or prompts, expected them alone")
    asked = triggered(run, triggers)
    return evaluate_run(
        *(asked, tuple(asked.families), (PROMPT_ID,), split, limit),
        config=config,
        memory=memory,
        shard=shard,
    )
