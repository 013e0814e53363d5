"""Charts as inline SVG, the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float]]


def curves(title: str, xlabel: str, series: Mapping[str, Points], marked: Points = ()) -> str:
    """Chart points (x, y) of each name as a line, and `marked` ones as dots on top."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "p5jax"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 2.6), layout="constrained")
    for name, points in series.items():
        axes.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 20 else "")
    if marked:
        axes.plot(*zip(*marked, strict=True), "o", color="tab:red", label="accepted")
    axes.set(title=title, xlabel=xlabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
