"""What a prompt is worth on one example: the surrogate metric that chooses among candidates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from p5jax.evaluation.metrics import text_columns
from p5jax.inference.decoding import beam_search
from p5jax.inference.ranking import given_rows, id_trie, rank
from p5jax.models.initial import Params
from p5jax.models.t5 import Transformer
from p5jax.parallel.placing import place_rows, to_host
from p5jax.prompts.families import Family
from p5jax.runs.run import Run
from p5jax.training.children import Children
from p5jax.triggers.gradients import example_nll
from p5jax.triggers.layout import PROMPT_ID
from p5jax.triggers.open_prompts import OpenPrompts
from p5jax.triggers.settings import RANKED, SurrogateConfig


class Surrogate:
    """Scores prompts of one run: pairs of an example and trigger tokens."""

    def __init__(self, run: Run, family: Family, config: SurrogateConfig):
        self.run, self.config = run, config
        self._asks_for_text = family.name == "explanation"
        # No sum over examples is below it.
        self.least = 0.0 if config.criterion == "metric" else -np.inf
        self.coefficient = config.coefficient
        if self.coefficient < 0:
            self.coefficient = 0.1 if self._asks_for_text else 1.0
        self._trie = id_trie(family, PROMPT_ID, run.vocabulary, config.method, run.params)

    def values(self, prompts: OpenPrompts, rows: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """The value of prompts `rows` [M] with trigger tokens `slots` [M, P]: float64 [M].

        More is better. All go through the same few programs, whatever M is.
        """
        values = np.empty(len(rows))
        for batch in prompts.batches(rows, self.config.batch_size):
            real = batch[batch >= 0]
            repeated = np.resize(real, len(batch))  # a width's last batch repeats its rows
            tokens = prompts.filled(rows[repeated], slots[repeated])
            values[real] = self._batch(prompts, rows[repeated], tokens)[: len(real)]
        return values

    def _batch(self, prompts: OpenPrompts, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        run = self.run
        if self.config.criterion == "loss":
            sources = place_rows(run.params, tokens)
            targets, scored = (
                place_rows(run.params, each[rows]) for each in (prompts.targets, prompts.scored)
            )
            found = _nll(run.model, run.params, sources, targets, scored, run.children)
            losses: np.ndarray = to_host(found)
            return -losses[: len(rows)]
        if self._asks_for_text:
            return self._text_values(tokens, [prompts.answers[row] for row in rows])
        ranking = rank(
            run.model,
            run.params,
            tokens,
            self._trie,
            RANKED,
            self.config.method,
            given=given_rows([prompts.given[row] for row in rows], run.vocabulary),
            beam=self.config.beam,
            exclude=None if prompts.exclude is None else prompts.exclude[rows],
            candidates=None if prompts.candidates is None else prompts.candidates[rows],
        )
        return list_values(ranking.items, prompts.items[rows], self.coefficient)

    def _text_values(self, tokens: np.ndarray, answers: Sequence[str]) -> np.ndarray:
        run, config = self.run, self.config
        sources = place_rows(run.params, tokens)
        texts, _ = beam_search(run.model, run.params, sources, config.max_length, config.beam)
        best = to_host(texts)[: len(tokens), 0]
        said = [run.vocabulary.decode(text.tolist()) for text in best]
        columns = text_columns(said, answers)
        return columns["sentence BLEU-4"] + self.coefficient * columns["ROUGE-L"]


def list_values(items: np.ndarray, targets: np.ndarray, coefficient: float) -> np.ndarray:
    """HR@5 + coefficient * NDCG@5 of lists [N, 5] with one true item each [N]: float64 [N]."""
    hits = items == targets[:, None]
    gains = 1.0 + coefficient / np.log2(np.arange(items.shape[1]) + 2.0)
    values: np.ndarray = (hits * gains).sum(axis=1)
    return values


@partial(jax.jit, static_argnames="model")
def _nll(
    model: Transformer,
    params: Params,
    tokens: jax.Array,
    targets: jax.Array,
    scored: jax.Array,
    children: Children | None,
) -> jax.Array:
    embedded: Any = model.apply({"params": params}, tokens, method="embed")
    return example_nll(model, params, embedded, tokens, targets, scored, children)
