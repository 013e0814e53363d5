"""Raw columns to a dataset folder: repeats, k-core, leave-one-out, explanations, item ids."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from p5jax.core.errors import UserError
from p5jax.data import splits
from p5jax.data.dataset import TRAIN, write_dataset
from p5jax.data.explanations import explanation_columns, extract_feature_words, sample_texts
from p5jax.data.item_ids import assign_item_ids
from p5jax.data.readers.raw import ITEM_COLUMNS, WARNING, RawData
from p5jax.data.schemes import is_leaky, scheme_named

USERS = 1  # the random stream of user numbers, apart from that of item ids
EVENTS_NEEDED = 3  # one each for training, validation and test
MANY_TIES = 0.2  # the share of interactions whose order the times do not say, above which to warn

_Content = tuple[int, float, str | None, str | None]  # time, stars, headline, text


@dataclass(frozen=True)
class _Kept:
    """The interactions that are kept, renumbered and sorted by (user, time, source order).

    rows: int64 [N], the raw row of each interaction; user, item: int32 [N]; users, items: the raw
    index of each new user [U] and item [I]; split: int8 [N].
    """

    rows: np.ndarray
    user: np.ndarray
    item: np.ndarray
    users: np.ndarray
    items: np.ndarray
    split: np.ndarray


def build_dataset(
    raw: RawData,
    out: str | os.PathLike[str],
    *,
    k_core: int = 5,
    scheme: str = "sequential",
    seed: int = 0,
) -> dict[str, int]:
    """Write the dataset folder `out` from raw data; return its counts.

    Of repeated reviews and pairs the earliest is kept; then the k-core is taken. Each user's last
    interaction is the test pair, the one before it the validation pair. A feature list that is not
    given is extracted from training reviews. Ratings outside 1 … 5 are mapped linearly to that
    range, and all are rounded to whole stars. UserError when a user has fewer than three
    interactions or the k-core is empty.
    """
    if k_core < 1 or seed < 0:
        raise UserError(
            f"prepare: found k-core {k_core} and seed {seed}, expected at least 1 and at least 0"
        )
    counts: dict[str, int] = {"source_rows": len(raw.user), "skipped_lines": raw.skipped_lines}
    unique = _drop_repeats(raw, counts)
    kept = _number(raw, _filter(raw, unique, k_core, counts), scheme, seed)
    interactions, stars_from = _interactions(raw, kept)
    reviews, features, counts["copied_reviews"] = _reviews(raw, kept, interactions)
    ids = _item_ids(raw, kept, scheme, seed)
    counts |= _sizes(kept, reviews)
    write_dataset(
        out,
        name=raw.name,
        format=raw.format,
        sources=raw.sources,
        protocol={
            "k_core": k_core,
            "split": "leave-one-out by time, ties in source order; reviews follow their pair",
            "time_unit": raw.time_unit,
            "user_numbers": "source order" if is_leaky(scheme) else "random",
            "seed": seed,
            "stars_from": stars_from,
            "features": features,
        },
        counts=counts,
        users=_users_table(raw, kept),
        items=_items_table(raw, kept, ids),
        interactions=interactions,
        reviews=reviews,
        item_ids={"scheme": scheme, "seed": seed, "leaky": is_leaky(scheme)},
        understood=raw.understood | _ties(raw, kept),
    )
    return counts


def _ties(raw: RawData, kept: _Kept) -> dict[str, str]:
    """Say how many interactions only the order of the source tells apart, where there are any."""
    times = raw.timestamp[kept.rows]
    same = (np.diff(kept.user) == 0) & (np.diff(times) == 0)
    tied, rows = int((np.r_[False, same] | np.r_[same, False]).sum()), len(times)
    if not tied:
        return {}
    sentence = (
        f"{tied:,} of {rows:,} interactions have the time of another of their user:"
        " the order of the source decides"
    )
    return {"ties": f"{WARNING if tied > MANY_TIES * rows else ''}{sentence}"}


def _drop_repeats(raw: RawData, counts: dict[str, int]) -> np.ndarray:
    """Return the rows [N'] that are kept, one per (user, item), in source order."""
    keeper = splits.first_of_pairs(raw.user, raw.item, raw.timestamp)
    rows = np.arange(len(keeper))
    repeats = rows[keeper != rows]
    involved = np.union1d(repeats, keeper[repeats])
    texts = dict(zip(involved.tolist(), _contents(raw, involved), strict=True))
    seen = {row: {texts[row]} for row in keeper[repeats].tolist()}
    duplicates = 0
    for row, kept in zip(repeats.tolist(), keeper[repeats].tolist(), strict=True):
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
    headlines, texts = raw.headline.take(rows).to_pylist(), raw.text.take(rows).to_pylist()
    return list(zip(times, stars, headlines, texts, strict=True))


def _filter(raw: RawData, rows: np.ndarray, k: int, counts: dict[str, int]) -> np.ndarray:
    """Return the rows of the k-core; UserError when it is empty or leaves too short a sequence."""
    user, item = raw.user[rows], raw.item[rows]
    core: np.ndarray = rows[splits.k_core(user, item, k)]
    sizes = f"{len(np.unique(user))} users, {len(np.unique(item))} items, {len(rows)} interactions"
    if not len(core):
        raise UserError(
            f"{raw.name}: the {k}-core is empty: found {sizes}, none with {k} or more each;"
            f" give more data or a smaller --k-core"
        )
    events = np.bincount(raw.user[core], minlength=len(raw.user_keys))
    short = np.flatnonzero((events > 0) & (events < EVENTS_NEEDED))
    if len(short):
        first = short[0]
        raise UserError(
            f"{raw.name}: user {raw.user_keys[first]!r} has {events[first]} interaction(s),"
            f" expected at least {EVENTS_NEEDED} (training, validation, test); {len(short)} user(s)"
            f" have so few: use --k-core {EVENTS_NEEDED} or more"
        )
    counts["dropped_users"] = len(np.unique(user)) - len(np.unique(raw.user[core]))
    counts["dropped_items"] = len(np.unique(item)) - len(np.unique(raw.item[core]))
    counts["dropped_interactions"] = len(rows) - len(core)
    return core


def _number(raw: RawData, rows: np.ndarray, scheme: str, seed: int) -> _Kept:
    """Give users and items their numbers, sort the rows and split them.

    Items keep the source's order, which no prompt shows. Users are shuffled, because prompts show
    their numbers: in a source grouped by item, users with neighbouring numbers share items, also
    held-out ones (on S3-Rec's Beauty file, recommending the items of the users with the nearest
    numbers reaches HR@10 .07, above published models). a leaky scheme keeps the source's order.
    """
    users, items = np.unique(raw.user[rows]), np.unique(raw.item[rows])
    if not scheme_named(scheme).leaky:
        users = np.random.Generator(np.random.PCG64([seed, USERS])).permutation(users)
    user_number = np.empty(len(raw.user_keys), np.int32)
    user_number[users] = np.arange(len(users))
    user = user_number[raw.user[rows]]
    order = np.lexsort((raw.timestamp[rows], user))  # stable: ties stay in source order
    rows, user = rows[order], user[order]
    item = np.searchsorted(items, raw.item[rows]).astype(np.int32)
    return _Kept(rows, user, item, users, items, splits.leave_one_out(user))


def _interactions(raw: RawData, kept: _Kept) -> tuple[pa.Table, list[float] | None]:
    """Return the interactions table, and the source's rating range where it is not 1..5 stars."""
    rating = raw.rating[kept.rows]
    known = rating[~np.isnan(rating)]
    scale = None
    if len(known) and (known.min() < 1 or known.max() > 5):
        low, high = float(known.min()), float(known.max())
        scale = [low, high]
        rating = 1 + 4 * (rating - low) / max(high - low, 1e-9)
    rating = np.floor(rating + 0.5).astype(np.float32)
    table = pa.table(
        {
            "user": kept.user,
            "item": kept.item,
            "rating": pa.array(rating, pa.float32(), mask=np.isnan(rating)),
            "timestamp": raw.timestamp[kept.rows],
            "split": kept.split,
        }
    )
    return table, scale


def _reviews(
    raw: RawData, kept: _Kept, interactions: pa.Table
) -> tuple[pa.Table, dict[str, Any], int]:
    """Return the reviews table, the manifest's entry on the feature list, and the number of copies
    left out."""
    headline, text = raw.headline.take(kept.rows), raw.text.take(kept.rows)
    written = np.asarray(headline.is_valid()) | np.asarray(text.is_valid())
    copies = _copies(raw, kept, headline, text)
    rows = np.flatnonzero(written & ~copies)
    headline, text = headline.take(rows), text.take(rows)
    features = raw.feature_words
    if features is None:
        training = text.filter(pa.array(kept.split[rows] == TRAIN))
        features = extract_feature_words(sample_texts(training))
    feature, sentence = explanation_columns(text, features)
    table = interactions.take(rows)
    for name, column in zip(
        ("headline", "text", "feature", "sentence"),
        (headline, text, feature, sentence),
        strict=True,
    ):
        table = table.append_column(name, column)
    source = "extracted from training reviews" if raw.feature_words is None else "given"
    return table, {"source": source, "count": len(features)}, int(copies.sum())


def _copies(raw: RawData, kept: _Kept, headline: pa.Array, text: pa.Array) -> np.ndarray:
    """Return which rows [N] repeat an earlier review of the same user and time on another item.

    Shops show one review under every variant of an item. The interactions are kept, but a held-out
    review must not be a copy of a training review.
    """
    seen: set[tuple[int, int, str | None, str]] = set()
    copied = np.zeros(len(kept.rows), bool)
    times, texts = raw.timestamp[kept.rows].tolist(), text.to_pylist()
    rows = zip(kept.user.tolist(), times, headline.to_pylist(), texts, strict=True)
    for position, review in enumerate(rows):
        if review[3]:
            copied[position] = review in seen
            seen.add(review)
    return copied


def _item_ids(raw: RawData, kept: _Kept, scheme: str, seed: int) -> list[str]:
    ends = np.cumsum(np.bincount(kept.user, minlength=len(kept.users)))
    sequences = [
        kept.item[start : end - 2]
        for start, end in zip(np.r_[0, ends[:-1]].tolist(), ends.tolist(), strict=True)
    ]
    numbers = raw.source_numbers
    source = None if numbers is None else [numbers[i] for i in kept.items]
    return assign_item_ids(scheme, sequences, len(kept.items), source_numbers=source, seed=seed)


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


def _items_table(raw: RawData, kept: _Kept, ids: list[str]) -> pa.Table:
    chosen = kept.items.tolist()
    table = {
        "item": pa.array(np.arange(len(chosen)), pa.int32()),
        "key": pa.array([raw.item_keys[i] for i in chosen], pa.string()),
    }
    for name in ITEM_COLUMNS:
        table[name] = pa.array([raw.item_columns[name][i] for i in chosen], pa.string())
    return pa.table(table | {"item_id": pa.array(ids, pa.string())})


def _sizes(kept: _Kept, reviews: pa.Table) -> dict[str, int]:
    return {
        "users": len(kept.users),
        "items": len(kept.items),
        "interactions": len(kept.rows),
        "training_interactions": int((kept.split == TRAIN).sum()),
        "reviews": reviews.num_rows,
        "explanations": reviews.num_rows - reviews["sentence"].null_count,
    }
