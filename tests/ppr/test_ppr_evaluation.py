"""Cold-start metrics against scikit-learn, averages and paired tests by hand, and the files."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cold_world import dataset_of
from sklearn.metrics import ndcg_score, roc_auc_score

from p5jax.core.errors import UserError
from p5jax.ppr.cold import evaluation
from p5jax.ppr.cold.evaluation import BASELINES, CUTS, METRICS, evaluate_cold, rank_cases
from p5jax.ppr.cold.protocol import ColdStartConfig, cold_start
from p5jax.ppr.cold.results import format_cold_rows, read_per_user, summarise, write_per_user

ITEMS = 150


def cold_split(seed: int = 0, users: int = 60):
    rng = np.random.default_rng(11)
    sequences = [rng.permutation(ITEMS)[: rng.integers(3, 12)].tolist() for _ in range(users)]
    return cold_start(dataset_of(sequences, ITEMS), ColdStartConfig(share=0.5, seed=seed))


def table_scorer(levels: int, seed: int = 0):
    """A scorer that looks scores up by (user, history length, item); few levels make many ties."""
    table = np.random.default_rng(seed).integers(levels, size=(60, 12, ITEMS)).astype(np.float64)

    def score(users, items, candidates):
        scores = table[users, np.count_nonzero(items, axis=1)]
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)

    return score


def by_library(scores, target, allowed):
    """METRICS of one case by scikit-learn; hit rate as a chance over random orders of ties."""
    truth, kept = np.zeros(len(scores)), np.flatnonzero(allowed)
    truth[target] = 1
    truth, scores, own = truth[kept], scores[kept], scores[target]
    found = {"AUC": roc_auc_score(truth, scores)}
    above, level = (scores > own).sum(), (scores == own).sum()
    for k in CUTS:
        found[f"NDCG@{k}"] = ndcg_score(truth[None], scores[None], k=k)
        found[f"HR@{k}"] = np.clip((k - above) / level, 0, 1)
    return found


@pytest.mark.parametrize("levels", [10**9, 8, 2, 1])
@pytest.mark.parametrize("ranking", ["candidates", "catalogue"])
def test_metrics_agree_with_scikit_learn(levels, ranking):
    split, scorer = cold_split(), table_scorer(levels)
    cases = split.cases("joint")
    found = rank_cases(scorer, cases, ITEMS, ranking, batch_size=32)
    assert tuple(found) == METRICS
    for row in range(len(cases)):
        one = cases.part(np.array([row]))
        if ranking == "candidates":
            scores = scorer(one.users, one.items_NxS, one.candidates)[0]
            expected = by_library(scores, 0, np.ones(len(scores), bool))
        else:
            scores = scorer(one.users, one.items_NxS, None)[0]
            allowed = ~np.isin(np.arange(ITEMS), one.items_NxS - 1)
            expected = by_library(scores, one.targets[0], allowed)
        for name in METRICS:
            assert found[name][row] == pytest.approx(expected[name], abs=1e-12), (row, name)


def test_extreme_scorers():
    split = cold_split()
    cases = split.cases("joint")
    first = {"worst": -1.0, "best": 1.0, "none": 0.0}
    means = {}
    for name, value in first.items():

        def score(users, items, candidates, value=value):
            return np.eye(1, candidates.shape[1])[np.zeros(len(users), int)] * value

        found = rank_cases(score, cases, ITEMS, "candidates")
        means[name] = {metric: values.mean() for metric, values in found.items()}
    assert set(means["best"].values()) == {1.0}
    assert set(means["worst"].values()) == {0.0}
    # all equal: what chance gives, wherever the target stands among its candidates
    assert means["none"]["AUC"] == pytest.approx(0.5)
    for k in CUTS:
        assert means["none"][f"HR@{k}"] == pytest.approx(k / 100)
        gains = sum(1 / math.log2(place + 2) for place in range(k)) / 100
        assert means["none"][f"NDCG@{k}"] == pytest.approx(gains)


def test_minus_infinity_stands_below_everything_and_nan_is_refused():
    split = cold_split()
    cases = split.cases("zero-shot")

    def unranked(users, items, candidates):
        scores = np.zeros(candidates.shape)
        scores[:, 0] = -np.inf
        return scores

    assert not rank_cases(unranked, cases, ITEMS, "candidates")["AUC"].any()
    with pytest.raises(UserError, match="light: found nan among its scores"):
        evaluate_cold(
            split, {"light": lambda u, i, c: np.full(c.shape, np.nan)}, rankings=["candidates"]
        )
    with pytest.raises(
        ValueError, match=r"found scores of shape \(256, 150\), expected \(256, 100"
    ):
        rank_cases(lambda u, i, c: np.zeros((256, ITEMS)), cases, ITEMS, "candidates")


def test_a_scorer_sees_one_shape_and_every_case_once():
    split = cold_split()
    cases = split.cases("joint")
    seen = []

    def score(users, items, candidates):
        seen.append((users.copy(), items.shape, candidates.shape))
        return table_scorer(10**9)(users, items, candidates)

    small = rank_cases(score, cases, ITEMS, "candidates", batch_size=7)
    assert {(len(u), i, c) for u, i, c in seen} == {(7, (7, split.longest), (7, 100))}
    together = np.concatenate([users for users, _, _ in seen])
    np.testing.assert_array_equal(together[: len(cases)], cases.users)
    large = rank_cases(table_scorer(10**9), cases, ITEMS, "candidates", batch_size=1000)
    for name in METRICS:
        np.testing.assert_array_equal(small[name], large[name])


def test_users_are_averaged_over_their_cases():
    split = cold_split()
    table = evaluate_cold(split, {"random": table_scorer(10**9)})
    assert set(table["method"].to_pylist()) == {"random", *BASELINES}
    for kind in split.kinds:
        for ranking in evaluation.RANKINGS:
            cases = split.cases(kind)
            values = rank_cases(table_scorer(10**9), cases, ITEMS, ranking)
            rows = [
                row
                for row in table.to_pylist()
                if (row["method"], row["kind"], row["ranking"]) == ("random", kind, ranking)
            ]
            assert [row["user"] for row in rows] == sorted(set(cases.users.tolist()))
            for row in rows:
                own = cases.users == row["user"]
                assert row["cases"] == own.sum()
                assert row["seed"] == 0
                for name in METRICS:
                    assert row[name] == pytest.approx(values[name][own].mean())


def test_popularity_counts_what_training_may_see():
    # Items 0-3 are everybody's first events; what comes later is popular in other ways.
    rng = np.random.default_rng(0)
    sequences = []
    for _ in range(100):
        later = rng.permutation(np.arange(4, 40))[:20]
        sequences.append([int(rng.integers(4)), *later.tolist()])
    split = cold_start(dataset_of(sequences, 120), ColdStartConfig(first=2, negatives=60))
    counts, early = np.zeros(120), np.zeros(120)
    for user, sequence in enumerate(sequences):
        if user not in split.test:
            usable = sequence[:2] if user in split.train else sequence
            np.add.at(counts, usable, 1)
            np.add.at(early, usable[:2], 1)
    cases = split.cases("joint")
    scorers = evaluation.baselines(split)
    for name, expected in (("popularity", counts), ("early popularity", early)):
        scores = scorers[name](cases.users, cases.items_NxS, cases.candidates)
        np.testing.assert_array_equal(scores, expected[cases.candidates])
        assert (scorers[name](cases.users, cases.items_NxS, None) == expected).all()
    table = evaluate_cold(split, {}, kinds=["zero-shot"], rankings=["candidates"])
    means = {row.method: row.metrics["AUC"][0] for row in summarise(table, "popularity")}
    assert means["early popularity"] > means["popularity"]


def test_kinds_and_rankings_that_are_not_there():
    split = cold_split()
    with pytest.raises(UserError, match="found no 20-shot one, expected zero-shot, few-shot"):
        evaluate_cold(split, {}, kinds=["20-shot"])
    with pytest.raises(UserError, match="'zeroshot', expected zero-shot"):
        evaluate_cold(split, {}, kinds=["zeroshot"])
    with pytest.raises(UserError, match="'candidate': expected candidates or catalogue; did you"):
        evaluate_cold(split, {}, rankings=["candidate"])


def results(values, method, seed=0, users=None):
    """A per-user table in which every metric is `values`."""
    count = len(values)
    return pa.table(
        {
            "method": [method] * count,
            "kind": ["zero-shot"] * count,
            "ranking": ["candidates"] * count,
            "seed": pa.array([seed] * count, pa.int64()),
            "user": pa.array(range(count) if users is None else users, pa.int32()),
            "cases": pa.array([1] * count, pa.int32()),
            **{name: np.asarray(values, float) for name in METRICS},
        }
    )


def test_a_user_of_two_seeds_counts_once():
    tables = [results([0.2, 0.4], "a", 0, [3, 5]), results([0.8, 0.0], "a", 1, [5, 9])]
    (row,) = summarise(pa.concat_tables(tables), "a")
    assert (row.seeds, row.users, row.cases) == (2, 3, 4)
    mean, low, high = row.metrics["AUC"]
    values = np.array([0.2, 0.6, 0.0])  # users 3, 5 and 9
    assert mean == pytest.approx(values.mean())
    # Of the 27 resamples one (3.7 %) is three times user 9, one three times user 5.
    assert (low, high) == pytest.approx((0.0, 0.6))
    assert row.spread["AUC"] == pytest.approx(np.std([0.3, 0.4], ddof=1))
    assert row.differences == {}


def test_paired_differences_over_users():
    rng = np.random.default_rng(0)
    base = rng.random(300)
    better = base + 0.01 + 0.05 * rng.normal(size=300)
    shuffled = rng.permutation(300)
    table = pa.concat_tables(
        [results(better[shuffled], "b", users=shuffled), results(base, "a"), results(base, "c")]
    )
    rows = {row.method: row for row in summarise(table, "a")}
    assert next(iter(rows)) == "a"
    found = rows["b"].differences["HR@5"]
    paired = better - base
    error = paired.std(ddof=1) / 300**0.5
    assert (found.a, found.b) == pytest.approx((base.mean(), better.mean()))
    assert found.difference == pytest.approx(paired.mean())
    expected = paired.mean() - 1.96 * error, paired.mean() + 1.96 * error
    assert (found.low, found.high) == pytest.approx(expected, abs=0.15 * error)
    assert (found.n, found.p_value < 0.05) == (300, True)
    same = rows["c"].differences["HR@5"]
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert rows["b"].spread == {}


def test_repeated_users_are_one_in_the_bootstrap():
    """The same users in ten seeds tell no more than in one."""
    rng = np.random.default_rng(1)
    base, other = rng.random(40), rng.random(40)
    once = pa.concat_tables([results(base, "a"), results(other, "b")])
    often = pa.concat_tables(
        [results(v, m, seed) for seed in range(10) for v, m in ((base, "a"), (other, "b"))]
    )
    one, ten = (summarise(table, "a")[1].differences["AUC"] for table in (once, often))
    assert (ten.n, ten.low, ten.high) == pytest.approx((one.n, one.low, one.high))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            [results([1, 0], "a"), results([1], "b")],
            "b and a, zero-shot, candidates: found 1 and 2",
        ),
        (
            [results([1], "a"), results([1], "b", seed=1)],
            "expected the same users of the same seed",
        ),
        ([results([1], "light")], "method 'a': found light"),
        ([results([1], "a"), results([1], "a")], "found 1 users twice in a seed, e.g. user 0"),
    ],
)
def test_results_that_cannot_be_compared(tables, message):
    with pytest.raises(UserError, match=message):
        summarise(pa.concat_tables(tables), "a")


def test_the_table_shows_means_differences_and_seeds():
    tables = [
        results([0.25, 0.75], "pretrain", 0),
        results([0.75, 0.75], "pretrain", 1),
        results([0.5, 1.0], "light", 0),
        results([1.0, 1.0], "light", 1),
    ]
    text = format_cold_rows(summarise(pa.concat_tables(tables), "pretrain"), ("AUC",))
    lines = text.splitlines()
    assert lines[0] == "zero-shot, among frozen negatives: 4 cases of 2 users, 2 seeds"
    assert lines[2].split() == ["pretrain", "0.6250"]
    assert lines[3].split() == ["[0.5000,", "0.7500]"]  # users .5 and .75
    assert lines[4].split() == ["sd", "over", "seeds", "0.1768"]  # seeds .5 and .75
    assert lines[5].split() == ["light", "0.8750"]
    assert lines[6].split() == ["[0.7500,", "1.0000]"]
    assert " ".join(lines[7].split()) == "- pretrain +0.2500 [+0.2500, +0.2500] p 0.0002"
    assert max(map(len, lines)) <= 80


def test_written_and_read(tmp_path, monkeypatch):
    table = evaluate_cold(cold_split(), {}, rankings=["candidates"])
    path = tmp_path / "per_user.parquet"
    write_per_user(path, table)
    assert read_per_user(path).equals(table)

    def broken(table, where, **options):
        where.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", broken)
        with pytest.raises(UserError, match=r"per_user.parquet: could not be written \(No space"):
            write_per_user(path, table.slice(0, 1))
    assert [child.name for child in tmp_path.iterdir()] == ["per_user.parquet"]
    assert read_per_user(path).equals(table)


def test_files_that_are_no_results(tmp_path):
    with pytest.raises(UserError, match="not found, expected per-user results"):
        read_per_user(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(UserError, match=r"text.parquet: .*expected per-user results"):
        read_per_user(tmp_path / "text.parquet")
    pq.write_table(pa.table({"method": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="column 'kind' is missing"):
        read_per_user(tmp_path / "other.parquet")


def test_seeds_have_their_own_users():
    tables = [evaluate_cold(cold_split(seed), {}, rankings=["candidates"]) for seed in (0, 1)]
    rows = summarise(pa.concat_tables(tables), "popularity")
    assert {row.seeds for row in rows} == {2}
    assert dataclasses.asdict(rows[0])["kind"] == "zero-shot"
    both = set(tables[0]["user"].to_pylist()) | set(tables[1]["user"].to_pylist())
    assert rows[0].users == len(both)
