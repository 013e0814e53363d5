"""Two runs side by side on the same examples, as a section of a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from p5jax.core.errors import UserError
from p5jax.evaluation.compare import Difference, compare_runs, leaky_runs
from p5jax.evaluation.results import LEAKY_NOTE, SUMMARY


def comparison_section(one: Path, other: Path, splits: Sequence[str]) -> str:
    """Return what two runs measure and their paired differences, in P5's order of families.

    UserError where no split of both is evaluated, or as `compare_runs` says.
    """
    names = (one.name, other.name) if one.name != other.name else (str(one), str(other))
    parts = [f"<h2>{escape(names[0])} beside {escape(names[1])}</h2>"]
    parts.append(
        "<p class=note>The second less the first on the same users, 95 % intervals of a paired"
        " bootstrap in brackets.</p>"
    )
    both = [
        split
        for split in splits
        if all((run / "evaluation" / split / SUMMARY).is_file() for run in (one, other))
    ]
    if not both:
        raise UserError(
            f"{one}, {other}: found no split that both are evaluated on; run p5jax evaluate"
        )
    for split in both:
        leaky = leaky_runs(one, other, split)
        parts += [f"<p class=leaky>{escape(run)}: {escape(LEAKY_NOTE)}</p>" for run in leaky]
        found = compare_runs(one, other, split)
        for family in dict.fromkeys(each.family for each in found):
            rows = [each for each in found if each.family == family]
            parts.append(f"<h3>{escape(family)}, {split} split</h3>{_table(names, rows)}")
    return "".join(parts)


def _table(names: Sequence[str], rows: Sequence[Difference]) -> str:
    columns = ("metric", "n", *names, "difference", "p")
    header = "".join(f"<th>{escape(name)}" for name in columns)
    return f"<table><tr><th>{header}{''.join(map(_row, rows))}</table>"


def _row(found: Difference) -> str:
    numbers = (f"{found.n}", f"{found.a:.4f}", f"{found.b:.4f}")
    interval = f"<small>[{found.low:+.4f}, {found.high:+.4f}]</small>"
    cells = "".join(f"<td>{number}" for number in numbers)
    return (
        f"<tr><td>prompt {escape(found.prompt_id)}<td>{escape(found.metric)}{cells}"
        f"<td>{found.difference:+.4f} {interval}<td>{found.p_value:.4f}"
    )
