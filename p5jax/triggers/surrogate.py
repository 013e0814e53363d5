"""What a prompt is worth on one example: the surrogate metric that chooses among candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from p5jax.core.errors import UserError
from p5jax.evaluation.metrics import text_columns
from p5jax.inference.decoding import beam_search
from p5jax.inference.ranking import id_trie, rank
from p5jax.inference.settings import RankingConfig
from p5jax.inference.steps import Params
from p5jax.inference.trie import Trie
from p5jax.models.t5 import Transformer
from p5jax.parallel.placing import place_rows, to_host
from p5jax.runs.run import Run
from p5jax.triggers.examples import Examples
from p5jax.triggers.gradients import example_nll

CRITERIA = ("metric", "loss")
_CUT = 5  # places that count: HR@5 and NDCG@5


@dataclass(frozen=True)
class SurrogateConfig:
    """How a prompt is judged on an example.

    criterion: "metric" is HR@5 + `coefficient` * NDCG@5 for items, and BLEU-4 + `coefficient` *
    ROUGE-L of the sentence for text (PAP-REC, section 4.4; 1 and 0.1 there); "loss" is the log-
    likelihood, for the ablation. method and beam: how items are ranked, and the beam of texts.
    batch_size: prompts that are scored together.
    """

    criterion: str = "metric"
    coefficient: float = -1.0  # below 0: the paper's
    method: str = "beam"
    beam: int = 5
    batch_size: int = 40
    max_length: int = 64

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            found = self.criterion
            raise UserError(f"criterion: found {found!r}, expected {', '.join(CRITERIA)}")
        RankingConfig(self.method, self.beam)  # refuses what is unknown
        for name in ("batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: found {getattr(self, name)}, expected at least 1")


class Surrogate:
    """Scores prompts of one run, a row of (example, trigger tokens) each."""

    def __init__(self, run: Run, family: str, config: SurrogateConfig):
        self.run, self.config = run, config
        self._asks_for_text = family == "explanation"
        # No prompt is worth less on any number of examples.
        self.least = 0.0 if config.criterion == "metric" else -np.inf
        self.coefficient = config.coefficient
        if self.coefficient < 0:
            self.coefficient = 0.1 if self._asks_for_text else 1.0
        method = "beam" if config.method == "beam" else "certified"
        self._trie: Trie = id_trie(run.dataset.item_ids, run.vocabulary, method)

    def values(self, examples: Examples, rows: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """The value of each prompt: examples `rows` [M] under trigger tokens `slots` [M, P] ->
        float64 [M], more is better. All go through the same few programs, whatever M is."""
        values = np.empty(len(rows))
        for places in examples.batches(rows, self.config.batch_size):
            real = places[places >= 0]
            filled = np.resize(real, len(places))  # a width's last batch repeats its rows
            tokens = examples.prompts(rows[filled], slots[filled])
            values[real] = self._batch(examples, rows[filled], tokens)[: len(real)]
        return values

    def _batch(self, examples: Examples, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        run = self.run
        if self.config.criterion == "loss":
            arrays = tokens, examples.targets[rows]
            placed = (place_rows(run.params, array) for array in arrays)
            return -to_host(_nll(run.model, run.params, *placed))[: len(rows)]
        if self._asks_for_text:
            return self._text_values(tokens, [examples.answers[row] for row in rows])
        ranking = rank(
            run.model,
            run.params,
            tokens,
            self._trie,
            _CUT,
            self.config.method,
            beam=self.config.beam,
            exclude=None if examples.exclude is None else examples.exclude[rows],
            candidates=None if examples.candidates is None else examples.candidates[rows],
        )
        return list_values(ranking.items, examples.items[rows], self.coefficient)

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
    return (hits * gains).sum(axis=1)


@partial(jax.jit, static_argnames="model")
def _nll(model: Transformer, params: Params, tokens: jax.Array, targets: jax.Array) -> jax.Array:
    embedded: Any = model.apply({"params": params}, tokens, method="embed")
    return example_nll(model, params, embedded, tokens, targets)
