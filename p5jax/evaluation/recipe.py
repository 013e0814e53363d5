"""A recipe: how its data are made, which figures it must reach, and those beside their bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from p5jax.core.errors import UserError, nearest, shown
from p5jax.core.settings import check
from p5jax.core.text_table import aligned
from p5jax.data.families import FAMILIES
from p5jax.data.formats import FORMATS
from p5jax.evaluation.intervals import Interval, format_value
from p5jax.evaluation.results import SHOWN_METRICS, FamilyResult, digits_of

Band = tuple[float, float]  # the lowest and the highest value
_METRICS = tuple(dict.fromkeys(name for names in SHOWN_METRICS.values() for name in names))


@dataclass(frozen=True)
class RecipeConfig:
    """What a gin file of p5jax reproduce says beside its settings; no other job reads it.

    format: of the raw data, as in p5jax data prepare. files: option of that format -> its file or
    folder below --data. options: the format's other options by name. job: "train" makes a P5 model,
    "pretrain" a backbone. expected: "FAMILY PROMPT METRIC" (PROMPT is "backbone" for a backbone) ->
    the lowest and the highest value on the test split, or None where no band was measured yet.
    """

    format: str
    expected: Mapping[str, tuple[float, float] | None]
    files: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    job: str = "train"

    def __post_init__(self) -> None:
        check(self, format=FORMATS, job=("train", "pretrain"))
        where = "RecipeConfig.expected"
        if not self.expected:
            raise UserError(f"{where}: found none, expected 'FAMILY PROMPT METRIC': (LOW, HIGH)")
        for name, band in self.expected.items():
            words = name.split()
            if len(words) != 3:
                raise UserError(f"{where}: found {shown(name)}, expected 'FAMILY PROMPT METRIC'")
            for word, known in ((words[0], FAMILIES), (words[2], _METRICS)):
                if word not in known:
                    expected = f"one of {', '.join(known)}{nearest(word, known)}"
                    raise UserError(f"{where}: found {word!r} in {name!r}, expected {expected}")
            if band is not None and band[0] > band[1]:
                raise UserError(f"{where}: found {name!r}: {band}, expected (LOW, HIGH)")

    @property
    def families(self) -> tuple[str, ...]:
        """The families of the figures."""
        return tuple(dict.fromkeys(name.split()[0] for name in self.expected))

    @property
    def prompts(self) -> tuple[str, ...]:
        """The ids of the prompts of the figures."""
        return tuple(dict.fromkeys(name.split()[1] for name in self.expected))


@dataclass(frozen=True)
class Figure:
    """One figure of a recipe: its name, value and 95 % interval over n examples, and its band."""

    name: str
    n: int
    interval: Interval
    band: Band | None

    @property
    def holds(self) -> bool:
        """Whether the value is in the band, both ends included; without one there is no doubt."""
        return self.band is None or self.band[0] <= self.interval[0] <= self.band[1]

    @property
    def verdict(self) -> str:
        """What is said of the figure."""
        if self.band is None:
            return "not judged: no band measured yet"
        return "inside" if self.holds else "OUTSIDE"


def figures_of(results: Sequence[FamilyResult], recipe: RecipeConfig) -> list[Figure]:
    """Return a recipe's figures from an evaluation; UserError for one that was not measured."""
    found = {
        f"{result.family} {result.prompt_id} {metric}": (result.n, interval)
        for result in results
        if not result.baseline
        for metric, interval in result.metrics.items()
    }
    figures = []
    for name, band in recipe.expected.items():
        key = " ".join(name.split())
        if key not in found:
            known = nearest(key, found) or f", expected some of {', '.join(found)}"
            raise UserError(f"RecipeConfig.expected: found {name!r}, which is not measured{known}")
        figures.append(Figure(key, *found[key], band))
    return figures


def format_figures(figures: Sequence[Figure]) -> str:
    """The figures as text: a line each, with the band and whether the value is inside."""
    rows = [("", "n", "measured", "95 %", "band", "")]
    for figure in figures:
        digits = digits_of(figure.name.split()[2])
        value, ends = format_value(figure.interval, digits)
        band = "-" if figure.band is None else "{:.{d}f} to {:.{d}f}".format(*figure.band, d=digits)
        rows.append((figure.name, str(figure.n), value, ends, band, figure.verdict))
    return "\n".join(
        f"{numbers}  {verdict}".rstrip()
        for numbers, (*_, verdict) in zip(aligned([row[:-1] for row in rows]), rows, strict=True)
    )
