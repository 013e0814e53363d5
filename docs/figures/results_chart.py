"""Draw docs/figures/results.svg from the tables of benchmarks/RESULTS.md.

    python docs/figures/results_chart.py

The chart shows what the tables say and nothing else: every value is read from its row, and the
baselines stand beside the models.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
CHART = Path(__file__).with_name("results.svg")
OURS, BASELINE = "#1b6ca8", "#8a8f98"

# panel: (title, metric, rows as (label, whether it is a model, section, row of the table, column))
Row = tuple[str, bool, str, str, str]
PANELS: tuple[tuple[str, str, tuple[Row, ...]], ...] = (
    (
        "Beauty, next item",
        "HR@10, whole catalogue, 22,363 users",
        (
            ("P5 and memory", True, "Beauty, sequential", "prompt L-1 + memory", "HR@10"),
            ("P5", True, "Beauty, sequential", "prompt L-1 (seen)", "HR@10"),
            ("SASRec", True, "SASRec on Beauty", "SASRec", "HR@10"),
            ("with texts", False, "Beauty, sequential", "co-occurrence and text", "HR@10"),
            ("co-occurrence", False, "Beauty, sequential", "co-occurrence", "HR@10"),
        ),
    ),
    (
        "MovieLens 100K, first item of cold users",
        "NDCG@10, whole catalogue, 176 users",
        (
            ("PPR, light", True, "Cold users of ml-100k", "light", "NDCG@10"),
            ("PPR, full", True, "Cold users of ml-100k", "full", "NDCG@10"),
            ("fine-tuning", True, "Cold users of ml-100k", "fine-tuning", "NDCG@10"),
            ("early popularity", False, "Cold users of ml-100k", "early popularity", "NDCG@10"),
            ("popularity", False, "Cold users of ml-100k", "popularity", "NDCG@10"),
        ),
    ),
)


def value(section: str, row: str, column: str) -> tuple[float, float]:
    """Return the figure and half the width of its interval from one cell of RESULTS.md.

    The last table of the section that has the column counts, and in it the first such row: of the
    cold users that is the whole catalogue, zero-shot. ValueError when there is none.
    """
    text = RESULTS.read_text(encoding="utf-8")
    part = next(p for p in text.split("\n## ") if p.startswith(section))
    found: tuple[float, float] | None = None
    columns: list[str] = []
    taken = False
    for line in part.splitlines():
        if not line.startswith("|"):
            columns, taken = [], False
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not columns:
            columns = cells
        elif column in columns and row in cells[:2] and not taken:
            number, _, half = cells[columns.index(column)].partition(" ± ")
            if half:
                found, taken = (float(number), float(half)), True
    if found is None:
        raise ValueError(f"{RESULTS}: section {section!r} has no row {row!r} with {column}")
    return found


def main() -> None:
    """Read the tables and write the chart."""
    plt.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "p5jax", "font.family": "sans-serif"}
    )
    figure, axes = plt.subplots(1, len(PANELS), figsize=(9.6, 2.7), constrained_layout=True)
    for axis, (title, metric, rows) in zip(axes, PANELS, strict=True):
        for height, (_, ours, *cell) in enumerate(reversed(rows)):
            number, half = value(*cell)
            colour = OURS if ours else BASELINE
            axis.barh(height, number, 0.62, color=colour)
            axis.errorbar(number, height, xerr=half, color="#222222", capsize=2.5, linewidth=1)
            axis.text(number + half, height, f"  {number:.3f}", va="center", fontsize=8)
        axis.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)], fontsize=9)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel(metric, fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
        axis.margins(x=0.14)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (OURS, BASELINE)]
    figure.legend(
        handles, ["trained", "counted, no parameters"], loc="outside lower center", ncols=2,
        fontsize=8, frameon=False,
    )  # fmt: skip
    figure.savefig(CHART, metadata={"Date": None})


if __name__ == "__main__":
    main()
