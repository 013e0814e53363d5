"""The memory beside a run's model, chosen on validation users and kept with the run."""

from __future__ import annotations

from p5jax.evaluation.memory_choice import Choices, choose_memory
from p5jax.evaluation.settings import DEFAULTS, MEMORY_USERS, EvaluationConfig
from p5jax.jobs.start import PathName, opened
from p5jax.memory.memory import Memory
from p5jax.memory.stored_pairs import stored_pairs
from p5jax.parallel import distributed
from p5jax.runs.run import Run
from p5jax.runs.stored_memory import Chosen, store_memory


def fit_memory(
    run: Run | PathName,
    prompt: str | None = None,
    limit: int = MEMORY_USERS,
    config: EvaluationConfig = DEFAULTS,
    *,
    model_parallel: int = 1,
) -> Choices:
    """Choose how a memory of training interactions and item texts is mixed with a run's model.

    By NDCG@10 of at most `limit` validation users, with a prompt of the sequential family. The
    choice is written to RUN/memory.json; evaluations and recommendations of the run use it from
    then on. UserError for a run or a prompt that asks for no next item.
    """
    run = opened(run, model_parallel)
    memory = Memory.of(run.dataset, sums=stored_pairs(run.dataset))
    choices = choose_memory(run, memory, prompt, limit, config, distributed.report)
    chosen: Chosen = {
        "prompt": choices.prompt,
        "users": choices.users,
        "model": choices.rows[0].ndcg,
        "mixed": choices.best.ndcg,
    }
    store_memory(run, choices.best.settings, chosen)
    return choices
