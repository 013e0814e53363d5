"""The ratings of a source: their scale, stated or recognised, and the stars that they become.

A scale is recognised from training ratings alone, so that no held-out rating decides how many stars
a training rating is. Ratings that follow no scale, or are all the same, are not learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from p5jax.core.settings import Range, check
from p5jax.data.readers.raw import WARNING

MOST_STARS = 5
# From narrow to wide: the first that holds the ratings decides.
KNOWN_SCALES = (
    *((0, 1), (-1, 1), (1, 5), (0.5, 5), (0, 5)),
    *((1, 7), (1, 10), (0, 10), (-10, 10), (0, 100)),
)

# Strays are few, and far fewer than the ratings at the end of the scale that they lie beyond: where
# the scale is wider, what lies beyond is about as frequent as its neighbour.
STRAY_SHARE, STRAYS_PER_NEIGHBOUR, STRAYS_FROM = 0.05, 0.2, 10
MISSING = -1
MOST_SHOWN = 7  # ratings whose stars the sentence for the user lists
HALF_STARS = 0.1  # a share of halves from which half a star is a rating and no stray
# Stars come in steps. Counts and times do not, or reach far, and mostly lie near their low end.
STEP, WHOLE, USUAL_RANGE, LOWEST_MEDIAN = 0.25, 1.0, 10, 0.3


@dataclass(frozen=True)
class RatingScale:
    """The lowest and the highest rating."""

    low: float
    high: float

    def __post_init__(self) -> None:
        check(self, low=Range(), high=Range())

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    def outside(self, ratings: np.ndarray) -> np.ndarray:
        """Return which ratings [N] lie outside; a missing one, NaN, does not."""
        wrong: np.ndarray = (ratings < self.low) | (ratings > self.high)
        return wrong

    def stars(self, ratings: np.ndarray) -> np.ndarray:
        """Return whole stars float32 [N]: linear from low = 1 to high = 5, halves rounded up.

        NaN stays, and what is outside the scale has no stars: NaN.
        """
        share = (ratings.astype(np.float64) - self.low) / (self.high - self.low)
        stars = np.floor(1 + (MOST_STARS - 1) * share + 0.5).astype(np.float32)
        return np.where(self.outside(ratings), np.float32(np.nan), stars)


WIDEST = RatingScale(*map(float, (np.finfo(np.float32).min, np.finfo(np.float32).max)))


@dataclass(frozen=True)
class RatingOptions:
    """What is known before a rating is read.

    stated: the user's scale. of_format: the scale that the source's format has. learned: False
    leaves all ratings out.
    """

    stated: RatingScale | None = None
    of_format: RatingScale | None = None
    learned: bool = True

    def __post_init__(self) -> None:
        check(self)

    @staticmethod
    def recorded(entry: dict[str, Any]) -> RatingOptions:
        """Return the options under which `Ratings.entry` was made, what was fitted open again."""
        scale = RatingScale(*entry["scale"]) if entry["scale"] else None
        how = entry["how"]
        return RatingOptions(
            stated=scale if how == "stated" else None,
            of_format=scale if how == "of the format" else None,
            learned=how != "left out",
        )


@dataclass(frozen=True)
class Ratings:
    """What a dataset learns from ratings.

    scale: None where there are no stars. how: why it is so, in a word or two. understood: a
    sentence for the user.
    """

    scale: RatingScale | None
    how: str
    understood: str

    @property
    def entry(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return {"scale": [self.scale.low, self.scale.high] if self.scale else None, "how": self.how}

    def told(self, ratings: np.ndarray, skipped: int) -> str:
        """Return the sentence for the user, with what was done about the ratings [N] that are kept.

        skipped: how many lines were left out for a rating outside the scale.
        """
        none, outside = int(np.isnan(ratings).sum()), int(self.outside(ratings).sum())
        said = self.understood
        if self.scale and none:
            said += f"; {none:,} of {len(ratings):,} have none"
        if outside:
            said += f"; held-out ratings outside count as none ({outside:,})"
        return said + (f"; lines with ratings outside are skipped ({skipped:,})" if skipped else "")

    def outside(self, ratings: np.ndarray) -> np.ndarray:
        """Return which ratings [N] lie outside the scale, none where there is no scale."""
        if self.scale is None:
            return np.zeros(len(ratings), bool)
        return self.scale.outside(ratings)

    def stars(self, ratings: np.ndarray) -> np.ndarray:
        """Return the stars of ratings, float32 [N]; NaN where there are none."""
        if self.scale is None:
            return np.full(len(ratings), np.nan, np.float32)
        return self.scale.stars(ratings)


def fit_ratings(ratings: np.ndarray, training: np.ndarray, options: RatingOptions) -> Ratings:
    """Find out what ratings [N] (NaN: none) mean, from those of the `training` rows, bool [N]."""
    known = ratings[training & ~np.isnan(ratings)]
    if not options.learned:
        return Ratings(None, "left out", "left out, as asked: no prompt asks for stars")
    if options.stated and len(known):
        how = f"{options.stated}, as stated, become stars: {_mapping(known, options.stated)}"
        return Ratings(options.stated, "stated", how)
    if not len(known):
        return Ratings(None, "none", "none in training: no prompt asks for stars")
    if known.min() == known.max():
        said = f"all {len(known):,} training ratings are {known[0]:g} and say nothing"
        return Ratings(None, "constant", f"{WARNING}{said}: {_IMPLICIT}; {_IF_STARS}")
    scale = options.of_format or recognised(known)
    if scale is None:
        said = f"{known.min():g} to {known.max():g}, half of them up to {np.median(known):g}"
        return Ratings(
            None,
            "no scale",
            f"{WARNING}{said}, follow no known scale, as counts and times do: {_IMPLICIT}; "
            f"{_IF_STARS}, --min-rating X keeps interactions of X or more only",
        )
    how = "of the format" if options.of_format else "recognised"
    return Ratings(scale, how, _understood(known, scale, how))


def recognised(ratings: np.ndarray) -> RatingScale | None:
    """Return the known scale that ratings [N] follow but for a few strays, or None.

    -1 beside positive ratings marks a missing one and is a stray however frequent it is.
    """
    if ratings.min() == MISSING and ratings.max() > 1:
        ratings = ratings[ratings != MISSING]
    halves = float(np.mean(np.mod(ratings, 1) == 0.5)) >= HALF_STARS
    for low, high in KNOWN_SCALES:
        if halves and (low, high) == (1, MOST_STARS):
            continue
        below, above = int((ratings < low).sum()), int((ratings > high).sum())
        if below + above and not _are_strays(ratings, low, high, below, above):
            continue
        inside = ratings[(ratings >= low) & (ratings <= high)]
        return RatingScale(low, high) if _are_ratings(inside, low, high) else None
    return None


_IMPLICIT = "only which items a user has is learned, and no prompt asks for stars"
_IF_STARS = "--rating-scale LOW HIGH if they are ratings"


def _are_strays(ratings: np.ndarray, low: float, high: float, below: int, above: int) -> bool:
    """Return whether so few ratings lie below and above a scale that they do not belong to it."""
    if len(ratings) < STRAYS_FROM or below + above > max(1, STRAY_SHARE * len(ratings)):
        return False
    ends = (int((ratings == low).sum()), int((ratings == high).sum()))
    few = all(
        beyond <= STRAYS_PER_NEIGHBOUR * end
        for beyond, end in zip((below, above), ends, strict=True)
    )
    return few or below + above == 1


def _are_ratings(ratings: np.ndarray, low: float, high: float) -> bool:
    """Return whether numbers within a scale are ratings, and no times, counts or shares."""
    step = STEP if high - low > 2 else WHOLE
    in_steps = float(np.mean(np.mod(ratings, step) == 0)) >= 1 - STRAY_SHARE
    if in_steps and high - low <= USUAL_RANGE:
        return True
    return bool((np.median(ratings) - low) / (high - low) >= LOWEST_MEDIAN)


def _understood(known: np.ndarray, scale: RatingScale, how: str) -> str:
    said = f"{scale}, {how}, become stars: {_mapping(known, scale)}"
    lowest = float(np.mean(known == scale.low))
    notes = [_merged(known, scale)] if how == "recognised" else []
    if scale.high == 1 and set(np.unique(known).tolist()) <= {scale.low, 0.0, scale.high}:
        notes.append(
            f"; also an interaction of {scale.low:g} counts as one: --min-rating {scale.high:g}"
            " leaves those out"
        )
    elif lowest > 0.5:
        notes.append(
            f"; {lowest:.0%} are {scale.low:g}: --no-ratings if they are counts, --min-rating X"
            " keeps interactions of X or more only"
        )
    return f"{WARNING if any(notes) else ''}{said}{''.join(notes)}"


def _merged(known: np.ndarray, scale: RatingScale) -> str:
    """Say which two ratings become the same stars, where a narrower scale might tell them apart."""
    inside = np.unique(known[~scale.outside(known)])
    stars = scale.stars(inside)
    same = np.flatnonzero(np.diff(stars) == 0)
    if not len(same) or (inside[0] == scale.low and inside[-1] == scale.high):
        return ""
    at = int(same[0])
    return (
        f"; {inside[at]:g} and {inside[at + 1]:g} are both {stars[at]:g}, and training ratings"
        f" reach from {inside[0]:g} to {inside[-1]:g}: --rating-scale LOW HIGH if that is the scale"
    )


def _mapping(known: np.ndarray, scale: RatingScale) -> str:
    if (scale.low, scale.high) == (1, MOST_STARS):
        return "as they are, halves rounded up"
    points = np.union1d(known[~scale.outside(known)].astype(np.float64), (scale.low, scale.high))
    if len(points) > MOST_SHOWN:
        points = np.array([scale.low, (scale.low + scale.high) / 2, scale.high])
    pairs = zip(points.tolist(), scale.stars(points).tolist(), strict=True)
    return ", ".join(f"{rating:g} -> {stars:g}" for rating, stars in pairs)
