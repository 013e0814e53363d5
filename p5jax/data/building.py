"""Raw columns to a dataset folder: repeats, k-core, split, explanations, item ids."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from p5jax.core.allocation import c_allocation
from p5jax.core.errors import UserError
from p5jax.data import splits
from p5jax.data.catalogue import Naming, items_table
from p5jax.data.cold import held_out_counts
from p5jax.data.dataset import SOURCE_RATING, TRAIN
from p5jax.data.formats import MEMORY
from p5jax.data.ratings import WIDEST, RatingOptions, Ratings, RatingScale, fit_ratings
from p5jax.data.readers.lines import LineErrors
from p5jax.data.readers.raw import WARNING, RawData
from p5jax.data.reviews import ReviewsTable
from p5jax.data.schemes import is_leaky, scheme_named
from p5jax.data.time_split import LEAVE_ONE_OUT, Cuts, TimeSplit, split_entry
from p5jax.data.writing import write_dataset

USERS = 1  # the random stream of user numbers, apart from that of item ids
MANY_TIES = 0.2  # the share of interactions whose order the times do not say, above which to warn
EVENTS_NEEDED = 3  # one each for training, validation and test, where one is left out

_Content = tuple[int, float, str | None, str | None]  # time, stars, headline, text


@dataclass(frozen=True)
class _Kept:
    """The interactions that are kept, renumbered and sorted by (user, time, source order).

    rows: int64 [N], the raw row of each interaction; user, item: int32 [N]; users, items: the raw
    index of each new user [U] and item [I]; split: int8 [N]; cuts: of a split by time.
    """

    rows: np.ndarray
    user: np.ndarray
    item: np.ndarray
    users: np.ndarray
    items: np.ndarray
    split: np.ndarray
    cuts: Cuts | None


@c_allocation()
def build_dataset(
    raw: RawData,
    out: str | os.PathLike[str],
    *,
    k_core: int = 5,
    scheme: str = "sequential",
    seed: int = 0,
    rating_scale: Sequence[float] | None = None,
    min_rating: float | None = None,
    ratings: bool = True,
    skip_bad_lines: bool = False,
    id_levels: int | None = None,
    id_codes: int | None = None,
    item_vectors: str | None = None,
    text_encoder: str | None = None,
    split: str = LEAVE_ONE_OUT,
    memory: float = MEMORY,
) -> dict[str, int]:
    """Write the dataset folder `out` from raw data; return its counts.

    The options are checked ones, those of `p5jax.data.formats.PrepareOptions`.
    Interactions rated below `min_rating`, or not rated, are left out first. Of repeated reviews and
    pairs the earliest is kept; then the k-core is taken. Each user's last interaction is the test
    pair, the one before it the validation pair, unless `split` says where time is cut. A feature
    list that is not given is extracted from training reviews.

    Ratings become whole stars by the scale that is stated, or that training ratings follow. A row
    is a malformed line when its rating is outside a stated scale, or when it is a training row
    outside a recognised one; a held-out rating outside a recognised one is none. Without a scale,
    and without `ratings`, there are no stars. UserError when a user has too few interactions to
    leave any out, the k-core or a part is empty, or a line is malformed and not skipped.
    """
    counts: dict[str, int] = {"source_rows": len(raw.user), "skipped_lines": raw.skipped_lines}
    errors = LineErrors(skip_bad_lines)
    stated, of_format = (RatingScale(*s) if s else None for s in (rating_scale, raw.rating_scale))
    asked = RatingOptions(stated, of_format, learned=ratings)
    rows = _rated(raw, min_rating, counts)
    cut = TimeSplit.read(split)
    limit = stated or WIDEST  # a number that single precision cannot hold is infinite here
    rows = without_outside(raw, rows, rows[limit.outside(raw.rating[rows])], limit, errors)
    while True:
        core = _filter(raw, _drop_repeats(raw, rows, counts), k_core, counts)
        if cut is None:
            _check_lengths(raw, core)
        kept = _number(raw, core, scheme, seed, cut)
        training = kept.split == TRAIN
        found = fit_ratings(raw.rating[kept.rows], training, asked)
        outside = found.outside(raw.rating[kept.rows])
        if found.scale is None or not (outside & training).any():
            break
        # Other rows may be held out now, so the scale is looked for again.
        rows = without_outside(raw, rows, kept.rows[outside & training], found.scale, errors)
    counts["skipped_lines"] += errors.skipped
    interactions = _interactions(raw, kept, found)
    reviews = ReviewsTable(raw, kept.rows, interactions, memory)
    counts["copied_reviews"] = reviews.copies
    naming = Naming(scheme, seed, id_levels, id_codes, item_vectors, text_encoder)
    training_items = np.split(kept.item[training], _ends_of_users(kept, training))
    items = items_table(raw, kept.items.tolist(), training_items, naming)
    return write_dataset(
        out,
        name=raw.name,
        format=raw.format,
        sources=raw.sources + naming.sources(),
        protocol={
            "k_core": k_core,
            **split_entry(kept.cuts, raw.time_unit),
            "time_unit": raw.time_unit,
            "user_numbers": "source order" if is_leaky(scheme) else "random",
            "seed": seed,
            "ratings": found.entry,
            "min_rating": min_rating,
            "features": reviews.features,
        },
        counts=counts | _sizes(kept),
        users=_users_table(raw, kept),
        items=items,
        interactions=interactions,
        reviews=reviews.tables(),
        item_ids=naming.entry(items.num_rows),
        understood={
            **raw.understood,
            **_ties(kept.user, raw.timestamp[kept.rows]),
            "ratings": found.told(raw.rating[kept.rows], errors.skipped),
        },
    )


def _rated(raw: RawData, least: float | None, counts: dict[str, int]) -> np.ndarray:
    """Return the rows [N'] with a rating of `least` or more, all of them where it is None."""
    if least is None:
        return np.arange(len(raw.user))
    if np.isnan(raw.rating).all():
        raise UserError(f"{raw.name}: found no rating, expected some of {least:g} or more")
    rows = np.flatnonzero(raw.rating >= least)
    counts["below_min_rating"] = len(raw.user) - len(rows)
    return rows


def without_outside(
    raw: RawData, rows: np.ndarray, outside: np.ndarray, scale: RatingScale, errors: LineErrors
) -> np.ndarray:
    """Return `rows` without those whose rating is outside the scale, which `errors` counts."""
    starts = raw.starts or {raw.sources[0]["path"] if raw.sources else raw.name: 0}
    for row in np.sort(outside).tolist():
        path, start = next(each for each in reversed(starts.items()) if each[1] <= row)
        errors.report(
            Path(path),
            int(raw.line[row]) or row - start + 1,
            f"found a rating of {raw.rating[row]:g}, expected {scale}; --rating-scale LOW HIGH"
            " states another scale, --skip-bad-lines leaves out what is outside",
        )
    return rows[np.isin(rows, outside, invert=True)]


def _drop_repeats(raw: RawData, rows: np.ndarray, counts: dict[str, int]) -> np.ndarray:
    """Return those of `rows` [N'] that are kept, one per (user, item), in source order."""
    keeper = rows[splits.first_of_pairs(raw.user[rows], raw.item[rows], raw.timestamp[rows])]
    repeats = rows[keeper != rows]
    first = keeper[keeper != rows]
    involved = np.union1d(repeats, first)
    texts = dict(zip(involved.tolist(), _contents(raw, involved), strict=True))
    seen = {row: {texts[row]} for row in first.tolist()}
    duplicates = 0
    for row, kept in zip(repeats.tolist(), first.tolist(), strict=True):
        duplicates += texts[row] in seen[kept]
        seen[kept].add(texts[row])
    counts["duplicate_reviews"] = duplicates
    counts["repeated_pairs"] = len(repeats) - duplicates
    kept_rows: np.ndarray = rows[keeper == rows]
    return kept_rows


def _contents(raw: RawData, rows: np.ndarray) -> list[_Content]:
    """Return what makes a row of a pair a duplicate of another: time, stars, headline and text."""
    times = raw.timestamp[rows].tolist()
    stars = np.nan_to_num(raw.rating[rows]).tolist()
    written = (column.to_pylist() for column in raw.texts.take(rows).columns)
    return list(zip(times, stars, *written, strict=True))


def _filter(raw: RawData, rows: np.ndarray, k: int, counts: dict[str, int]) -> np.ndarray:
    """Return the rows of the k-core; UserError when it is empty."""
    user, item = raw.user[rows], raw.item[rows]
    core: np.ndarray = rows[splits.k_core(user, item, k)]
    users, items = len(_distinct(user)), len(_distinct(item))
    if not len(core):
        sizes = f"{users} users, {items} items, {len(rows)} interactions"
        raise UserError(
            f"{raw.name}: the {k}-core is empty: found {sizes}, none with {k} or more each;"
            f" give more data or a smaller --k-core"
        )
    counts["dropped_users"] = users - len(_distinct(raw.user[core]))
    counts["dropped_items"] = items - len(_distinct(raw.item[core]))
    counts["dropped_interactions"] = len(rows) - len(core)
    return core


def _check_lengths(raw: RawData, rows: np.ndarray) -> None:
    """Raise UserError for a user with too few of the rows to leave one out twice."""
    events = np.bincount(raw.user[rows], minlength=len(raw.user_keys))
    short = np.flatnonzero((events > 0) & (events < EVENTS_NEEDED))
    if len(short):
        first = short[0]
        raise UserError(
            f"{raw.name}: user {raw.user_keys[first]!r} has {events[first]} interaction(s),"
            f" expected at least {EVENTS_NEEDED} (training, validation, test); {len(short)} user(s)"
            f" have so few: use --k-core {EVENTS_NEEDED} or more"
        )


def _distinct(numbers: np.ndarray) -> np.ndarray:
    """Return the indices that occur among `numbers` [N], ascending, int64; without sorting them."""
    return np.flatnonzero(np.bincount(numbers))


def _number(raw: RawData, rows: np.ndarray, scheme: str, seed: int, cut: TimeSplit | None) -> _Kept:
    """Give users and items their numbers, sort the rows and split them.

    Items keep the source's order, which no prompt shows. Users are shuffled, because prompts show
    their numbers: in a source grouped by item, users with neighbouring numbers share items, also
    held-out ones (on S3-Rec's Beauty file, recommending the items of the users with the nearest
    numbers reaches HR@10 .07, above published models). a leaky scheme keeps the source's order.
    """
    users, items = _distinct(raw.user[rows]), _distinct(raw.item[rows])
    if not scheme_named(scheme).leaky:
        users = np.random.Generator(np.random.PCG64([seed, USERS])).permutation(users)
    user_number = np.empty(len(raw.user_keys), np.int32)
    user_number[users] = np.arange(len(users))
    user = user_number[raw.user[rows]]
    order = splits.by_user_and_time(user, raw.timestamp[rows])
    rows, user = rows[order], user[order]
    item_number = np.empty(len(raw.item_keys), np.int32)
    item_number[items] = np.arange(len(items))
    item = item_number[raw.item[rows]]
    if cut is None:
        return _Kept(rows, user, item, users, items, splits.leave_one_out(user), None)
    times = raw.timestamp[rows]
    cuts = cut.cuts(times, raw.time_unit)
    return _Kept(rows, user, item, users, items, splits.by_time(times, cuts), cuts)


def _interactions(raw: RawData, kept: _Kept, ratings: Ratings) -> pa.Table:
    """Return the interactions table, with the source's ratings where the stars are others."""
    source = raw.rating[kept.rows]
    stars = ratings.stars(source)
    columns = {
        "user": kept.user,
        "item": kept.item,
        "rating": pa.array(stars, pa.float32(), mask=np.isnan(stars)),
        "timestamp": raw.timestamp[kept.rows],
        "split": kept.split,
    }
    if ratings.how != "left out" and not np.array_equal(source, stars, equal_nan=True):
        columns[SOURCE_RATING] = pa.array(source, pa.float32(), mask=np.isnan(source))
    return pa.table(columns)


def _ties(user: np.ndarray, timestamp: np.ndarray) -> dict[str, str]:
    """Say how many interactions [N] only the order of the source tells apart, if there are any.

    They stand user by user in the order of time.
    """
    same = (np.diff(user) == 0) & (np.diff(timestamp) == 0)
    tied, rows = int((np.r_[False, same] | np.r_[same, False]).sum()), len(user)
    if not tied:
        return {}
    sentence = (
        f"{tied:,} of {rows:,} interactions have the time of another of their user:"
        " the order of the source decides"
    )
    return {"ties": f"{WARNING if tied > MANY_TIES * rows else ''}{sentence}"}


def _ends_of_users(kept: _Kept, rows: np.ndarray) -> np.ndarray:
    """Return where each user's part of some rows, a mask [N], ends, but for the last: [U - 1]."""
    return np.cumsum(np.bincount(kept.user[rows], minlength=len(kept.users)))[:-1]


def _users_table(raw: RawData, kept: _Kept) -> pa.Table:
    columns = {name: raw.user_columns[name] for name in raw.user_columns}
    names = columns.pop("name", [None] * len(raw.user_keys))
    chosen = kept.users.tolist()
    table = {
        "user": pa.array(np.arange(len(chosen)), pa.int32()),
        "key": pa.array([raw.user_keys[u] for u in chosen], pa.string()),
        "name": pa.array([names[u] for u in chosen], pa.string()),
    }
    for name, values in columns.items():
        table[name] = pa.array([values[u] for u in chosen], pa.string())
    return pa.table(table)


def _sizes(kept: _Kept) -> dict[str, int]:
    return {
        "users": len(kept.users),
        "items": len(kept.items),
        "interactions": len(kept.rows),
        "training_interactions": int((kept.split == TRAIN).sum()),
        **(held_out_counts(kept.user, kept.item, kept.split) if kept.cuts else {}),
    }
