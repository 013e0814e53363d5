"""Full-catalogue ranks: brute force, the audit's popularity baseline, what a scorer is shown."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ppr_world import ring, write_sequences

from p5jax.core.errors import UserError
from p5jax.evaluation.baselines.ranking import RankingBaselines
from p5jax.evaluation.results import format_results
from p5jax.memory.histories import training_counts
from p5jax.ppr.backbone.catalogue import (
    BackboneScorer,
    catalogue_ranks,
    catalogue_result,
    target_ranks,
)
from p5jax.ppr.backbone.model import Backbone, BackboneConfig, backbone_params

ITEMS = 13
rows = st.lists(
    st.tuples(
        st.lists(st.integers(0, 4), min_size=ITEMS, max_size=ITEMS),  # few values: many ties
        st.lists(st.integers(0, ITEMS - 1), max_size=6),
        st.integers(0, ITEMS - 1),
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(rows)
def test_ranks_and_lists_are_those_of_brute_force(users):
    scores = np.array([row for row, _, _ in users], np.float32)
    histories = [np.array(history, np.int64) for _, history, _ in users]
    targets = np.array([target for _, _, target in users])
    before = scores.copy()
    ranks, lists = target_ranks(scores, histories, targets)
    np.testing.assert_array_equal(scores, before)
    for row, (own, history, target) in enumerate(users):
        allowed = [item for item in range(ITEMS) if item not in history]
        assert ranks[row] == sum(own[item] > own[target] for item in allowed)
        assert set(lists[row]) <= set(allowed)
        assert len(set(lists[row])) == len(lists[row]) == min(10, len(allowed))
        best = sorted((own[item] for item in allowed), reverse=True)[:10]
        assert [own[item] for item in lists[row]] == best


def test_scores_that_are_no_numbers_are_refused():
    scores = np.full((1, ITEMS), np.nan, np.float32)
    with pytest.raises(UserError, match="scores: found nan"):
        target_ranks(scores, [np.array([1])], np.array([2]))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_popularity_as_a_scorer_is_the_audits_popularity(world, split):
    counts = training_counts(world).astype(np.float32)

    def scorer(users, items, candidates):
        return np.tile(counts, (len(users), 1))

    users = np.arange(world.num_users)
    parts = list(catalogue_ranks(scorer, world, split, users, 10, batch_size=50))
    ranks = np.concatenate([part[2] for part in parts])
    np.testing.assert_array_equal(ranks, RankingBaselines(world, print).ranks("popularity", split))
    assert [len(part[0]) for part in parts] == [50, 50, 20]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_scorer_sees_the_history_and_nothing_later(tmp_path, split):
    dataset = write_sequences(tmp_path / "data", ring(users=10), 24)
    seen = {}

    def scorer(users, items, candidates):
        assert candidates is None
        assert items.shape == (4, 5)
        for user, row in zip(users.tolist(), items, strict=True):
            seen.setdefault(user, row)
        return np.zeros((len(users), 24), np.float32)

    result = catalogue_result(
        scorer, "flat", dataset, split, np.arange(1, 10), width=5, batch_size=4
    )
    assert result.n == 9
    assert result.metrics["HR@1"][0] == 1.0  # nothing is strictly better
    held_out = 2 if split == "validation" else 1
    for user in range(1, 10):
        expected = ring(users=10)[user][:-held_out][-5:]
        row = seen[user]
        assert row[row > 0].tolist() == [item + 1 for item in expected]
    assert "flat" in format_results([result])
    assert "prompt" not in format_results([result]).replace("prompts", "")


def test_candidates_are_columns_of_the_whole_catalogue():
    model = Backbone(BackboneConfig(ITEMS, 8, mlp_dim=8, max_history=4))
    scorer = BackboneScorer(model, backbone_params(model, jax.random.key(0)))
    rng = np.random.default_rng(0)
    items = rng.integers(1, ITEMS + 1, (5, 7)).astype(np.int32)  # longer than max_history
    candidates = rng.integers(0, ITEMS, (5, 3))
    whole = scorer(np.arange(5), items)
    assert whole.shape == (5, ITEMS)
    some = scorer(np.arange(5), items, candidates)
    np.testing.assert_allclose(some, np.take_along_axis(whole, candidates, 1), rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(whole, scorer(np.arange(5), items[:, -4:]))
