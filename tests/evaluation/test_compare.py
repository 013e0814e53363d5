"""Paired comparison: known differences, calibration, and refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from p5jax.cli.main import main
from p5jax.core.errors import UserError
from p5jax.evaluation.compare import compare_results, compare_runs, format_comparison
from p5jax.evaluation.intervals import interval_and_p_value, resampled_means
from p5jax.evaluation.metrics import distinct, rating_metrics
from p5jax.evaluation.results import FamilyResult, format_results, load_results, write_results


def result(values: np.ndarray, column: str = "HR@10", prompt: str = "2-3", users=None, **fields):
    users = np.arange(len(values)) if users is None else users
    table = pa.table({"user": users, "item": users, column: values})
    defaults = {"seen": True, "metrics": {"HR@10": (0.1, 0.0, 0.2)}, "kind": "catalogue"}
    return FamilyResult(
        "sequential",
        prompt,
        n=len(values),
        per_user=table,
        examples=[("a prompt", "an answer", "the truth")],
        **(defaults | fields),
    )


def test_a_paired_difference_is_found_where_unpaired_noise_hides_it():
    rng = np.random.default_rng(0)
    base = rng.normal(size=400)  # users differ by 1, the runs by 0.02 +- 0.1
    better = base + 0.02 + 0.1 * rng.normal(size=400)
    (found,) = compare_results([result(base)], [result(better)])
    difference = better - base
    assert found.difference == pytest.approx(difference.mean())
    error = difference.std(ddof=1) / 20
    expected = difference.mean() - 1.96 * error, difference.mean() + 1.96 * error
    assert (found.low, found.high) == pytest.approx(expected, abs=0.15 * error)
    assert found.p_value < 0.01
    assert found.n == 400


def test_intervals_cover_zero_as_often_as_they_should():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        both = rng.normal(size=(60, 2))
        means = resampled_means(both, resamples=300, seed=trial)
        low, high, _ = interval_and_p_value(means[:, 1] - means[:, 0])
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_equal_runs_do_not_differ_and_the_seed_decides():
    values = np.random.default_rng(2).random(50)
    (same,) = compare_results([result(values)], [result(values)])
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    other = np.random.default_rng(3).random(50)
    runs = [result(values)], [result(other)]
    assert compare_results(*runs, seed=1) == compare_results(*runs, seed=1)
    assert compare_results(*runs, seed=1) != compare_results(*runs, seed=2)


def test_rmse_is_the_root_of_the_mean_and_order_does_not_matter():
    one = result(np.array([1.0, 4.0, 9.0]), "squared_error", kind="rating")
    swapped = np.array([2, 0, 1])
    two = result(np.array([0.0, 4.0, 1.0])[swapped], "squared_error", users=swapped, kind="rating")
    (found,) = compare_results([one], [two])
    assert found.metric == "RMSE"
    assert found.a == pytest.approx(math.sqrt(14 / 3))
    assert found.b == pytest.approx(math.sqrt(5 / 3))
    assert found.high <= 0  # no resample makes an error larger


def test_nothing_in_common_and_other_users_are_refused():
    values = np.zeros(4)
    with pytest.raises(UserError, match="no evaluated prompt in common"):
        compare_results([result(values)], [result(values, prompt="2-13")])
    with pytest.raises(UserError, match="no evaluated prompt in common"):
        compare_results([result(values, baseline=True)], [result(values, baseline=True)])
    with pytest.raises(UserError, match="2-3: found 4 and 3 examples of 4 and 3 users, 3 in both"):
        compare_results([result(values)], [result(values[:3])])


def test_runs_are_compared_through_their_folders(tmp_path):
    values = np.random.default_rng(4).random((2, 30))
    for run, row in zip("ab", values, strict=True):
        baseline = result(row, prompt="popularity", baseline=True)
        write_results(tmp_path / run / "evaluation" / "test", [result(row), baseline], {"s": 1})
    (found,) = compare_runs(tmp_path / "a", tmp_path / "b")
    assert found.difference == pytest.approx(values[1].mean() - values[0].mean())
    assert f"{found.difference:+.4f}" in format_comparison([found])
    with pytest.raises(UserError, match=r"summary.json: not found"):
        compare_runs(tmp_path / "a", tmp_path / "nowhere")


def test_leaky_runs_are_named_above_the_comparison(tmp_path, capsys):
    values = np.random.default_rng(5).random(9)
    for run, leaky in (("a", False), ("b", True)):
        folder = tmp_path / run / "evaluation" / "test"
        write_results(folder, [result(values)], {"leaky_item_ids": leaky})
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert main(["compare", a, b]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"{b}: item ids are `released`: leaky, no figure below is a fair one"
    assert "leaky" not in "".join(rest)
    assert main(["compare", a, a]) == 0
    assert "leaky" not in capsys.readouterr().out


def test_rankings_of_other_numbers_of_candidates_are_refused():
    few, many = (result(np.ones(3), kind="candidates", candidates=n) for n in (20, 100))
    with pytest.raises(UserError, match="rankings of 20 and of 100 candidates"):
        compare_results([few], [many])


def test_a_baseline_is_not_replaced_by_one_on_fewer_examples(tmp_path):
    def both(n: int, prompt: str) -> list[FamilyResult]:
        return [result(np.ones(n), prompt=prompt), result(np.ones(n), prompt="pop", baseline=True)]

    def sizes() -> dict[str, int]:
        return {r.prompt_id: r.n for r in load_results(tmp_path / "test")}

    write_results(tmp_path / "test", both(5, "2-3"), {})
    write_results(tmp_path / "test", both(3, "2-13"), {})
    assert sizes() == {"2-3": 5, "2-13": 3, "pop": 5}
    write_results(tmp_path / "test", both(7, "2-13"), {})
    assert sizes() == {"2-3": 5, "2-13": 7, "pop": 7}
    # No result of seven examples is left, so the baseline goes with the one that is.
    write_results(tmp_path / "test", both(6, "2-13"), {})
    assert sizes() == {"2-3": 5, "2-13": 6, "pop": 6}


def test_one_example_has_no_interval_and_its_json_is_valid(tmp_path):
    one = result(np.ones(1), metrics={"HR@10": (1.0, math.nan, math.nan)})
    write_results(tmp_path / "test", [one], {})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "test" / "summary.json").read_text()
    (row,) = json.loads(text, parse_constant=refuse)["results"]
    assert row["metrics"] == {"HR@10": [1.0, None, None]}
    (loaded,) = load_results(tmp_path / "test")
    assert loaded.metrics["HR@10"][0] == 1
    assert all(math.isnan(end) for end in loaded.metrics["HR@10"][1:])
    assert [line.split() for line in format_results([loaded]).splitlines()[2:]] == [
        ["prompt", "2-3", "(seen)", "1", "1.0000"],
        ["-"],
    ]
    assert all(math.isnan(e) for e in rating_metrics(np.ones(1), np.ones(1))["RMSE"][1:])
    assert all(math.isnan(end) for end in distinct(["a"])[1:])


def test_an_interruption_while_replacing_loses_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "test"
    write_results(folder, [result(np.ones(3))], {"params": "x"})
    rename = Path.rename

    def interrupted(self, target):
        if ".partial" in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_results(folder, [result(np.ones(2))], {"params": "y"})
    assert [r.n for r in load_results(folder)] == [3]
    assert [path.name for path in tmp_path.iterdir()] == ["test"]


def test_results_come_back_and_only_one_models_are_kept(tmp_path):
    folder = tmp_path / "evaluation" / "test"
    first, second = result(np.ones(3)), result(np.zeros(3), prompt="2-13")
    write_results(folder, [first], {"params": "x"})
    write_results(folder, [second], {"params": "x"})
    loaded = {r.prompt_id: r for r in load_results(folder)}
    assert set(loaded) == {"2-3", "2-13"}
    assert loaded["2-3"].metrics == first.metrics
    assert loaded["2-3"].per_user.equals(first.per_user)
    assert loaded["2-3"].examples == first.examples
    write_results(folder, [second], {"params": "y"})
    assert [r.prompt_id for r in load_results(folder)] == ["2-13"]
    assert {p.name for p in folder.parent.iterdir()} == {"test"}
    (folder / "sequential_2-13.parquet").unlink()
    with pytest.raises(UserError, match=r"sequential_2-13\.parquet: not found"):
        load_results(folder)
