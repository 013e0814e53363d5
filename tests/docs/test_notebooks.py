"""Every notebook of the documentation runs, and comes to what its text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
_CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.check


@pytest.fixture
def run_notebook(tmp_path, monkeypatch):
    """Return a function that runs a notebook's cells in an empty folder and gives their names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")

    def run(name: str) -> dict[str, Any]:
        cells = _CELL.findall((NOTEBOOKS / f"{name}.md").read_text(encoding="utf-8"))
        assert cells
        names: dict[str, Any] = {}
        for number, cell in enumerate(cells, 1):
            exec(compile(cell, f"{name}.md, cell {number}", "exec"), names)
        return names

    return run


def by_label(results, metric):
    return {result.label: result.metrics[metric][0] for result in results}


def test_quick_tour(run_notebook):
    names = run_notebook("quick_tour")
    assert names["audit"]["leaks"] == []
    losses = [loss for _, loss in names["losses"]]
    assert losses[-1] < losses[0] / 2
    hit_rates = by_label(names["results"], "HR@10")
    assert hit_rates["prompt 2-3 (seen)"] > hit_rates["popularity"]
    # "The rules that count neighbours …; half a minute of training does not beat them."
    assert hit_rates["prompt 2-3 (seen)"] < hit_rates["co occurrence"]
    items = [item.item for item in names["best"].items]
    assert len(set(items)) == 5
    dataset = names["dataset"]
    owned = {dataset.item_keys[item] for item in dataset.sequence(0)}
    assert owned.isdisjoint(items)


def test_own_data(run_notebook, capsys):
    names = run_notebook("own_data")
    assert "broken.csv:2: found 3 cells, expected 2" in capsys.readouterr().out
    hit_rates = by_label(names["results"], "HR@10")
    assert hit_rates["prompt 2-3 (seen)"] > 2 * hit_rates["popularity"]
    dataset, ranked = names["dataset"], names["ranked"]
    assert sorted(ranked["user"].to_pylist()) == sorted(dataset.user_keys)
    assert all(len(set(items)) == 10 for items in ranked["items"].to_pylist())


def test_reading_answers(run_notebook):
    names = run_notebook("reading_answers")
    best, scores = names["best"], names["scores"]
    assert scores.shape == (3, 5)
    np.testing.assert_allclose(scores[0], [i.log_probability for i in best.items], atol=1e-3)
    assert 0 < np.exp(names["everything"]).sum() <= 1 + 1e-4
    assert not all(each.exact for each in names["narrow"])
    assert all(each.exact for each in names["guaranteed"])
    # The model's best item, of those the user does not have, is the best of all scores.
    dataset, everything = names["dataset"], names["everything"][0].copy()
    everything[dataset.sequence(0)] = -np.inf
    assert dataset.item_keys[everything.argmax()] == names["guaranteed"][0].items[0].item
    assert np.concatenate([names["hits"]]).mean() == pytest.approx(
        names["model"].metrics["HR@10"][0]
    )
