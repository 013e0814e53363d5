"""The leak checks of a dataset.

A leak is anything by which a held-out (user, item) pair, or what it says, could reach training, or
by which the held-out pairs are not the ones the protocol names. What preparing fitted is fitted
again beside other held-out rows. Each kind found is one line with a count and an
example. A `released` numbering is reported as leaky, but is no leak of the split.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5jax.data.dataset import SPLITS, TEST, TRAIN, VALIDATION, Dataset
from p5jax.data.held_out import own_interactions, with_other_held_out
from p5jax.data.item_ids import ID_TOKEN, id_tokens
from p5jax.data.refitting import refitted_ids, refitted_stars
from p5jax.data.schemes import SCHEMES
from p5jax.data.splits import by_time


def find_leaks(dataset: Dataset) -> list[str]:
    """Return a line for each kind of leak or broken table; empty when the dataset is sound."""
    broken = broken_tables(dataset)
    if broken:
        return broken + _id_leaks(dataset)
    return leaks_beside(dataset, with_other_held_out(dataset))


def leaks_beside(dataset: Dataset, other: Dataset) -> list[str]:
    """Return the leaks of a dataset with whole tables, fitted again beside the held-out rows of
    `other`."""
    leaks = _order_leaks(dataset) + _interaction_leaks(dataset) + _review_leaks(dataset)
    leaks += _id_leaks(dataset)
    if dataset.id_scheme in SCHEMES and not SCHEMES[dataset.id_scheme].leaky:
        leaks += refitted_ids(dataset, other)
    return leaks + refitted_stars(dataset, other)


def broken_tables(dataset: Dataset) -> list[str]:
    """Rows that point outside the users, items or splits, or that cannot be cut into sequences.

    UserError for an extended dataset.
    """
    dataset.refuse_nothing_held_out()
    lines = []
    for name, table in (("user", dataset.users), ("item", dataset.items)):
        size = table.num_rows
        if table[name].to_pylist() != list(range(size)):
            lines.append(f"{name}s: the column {name!r} does not count 0 … {size - 1}")
        # A key with two numbers could be held out under one and trained on under the other.
        keys = Counter(table["key"].to_pylist())
        if len(keys) < size:
            key, times = keys.most_common(1)[0]
            lines.append(f"{name}s: {size - len(keys)} keys repeat, e.g. {key} {times} times")
    limits = {"user": dataset.num_users, "item": dataset.num_items, "split": len(SPLITS)}
    for name, table in (("interactions", dataset.interactions), ("reviews", dataset.reviews)):
        for column, size in limits.items():
            values = table[column]
            wrong = pc.fill_null(pc.or_(pc.less(values, 0), pc.greater_equal(values, size)), True)
            rows = np.flatnonzero(wrong.to_numpy(zero_copy_only=False))
            if len(rows):
                found = values[int(rows[0])].as_py()
                lines.append(
                    f"{name}: {len(rows)} rows whose {column} is not in 0 … {size - 1}, "
                    f"e.g. {found} in row {rows[0]}"
                )
        if table["timestamp"].null_count:
            lines.append(f"{name}: {table['timestamp'].null_count} rows without a timestamp")
    if lines:
        return lines
    if (np.diff(dataset.interactions["user"].to_numpy()) < 0).any():
        return ["interactions: rows do not stand user by user"]
    return _missing(dataset) if dataset.cuts else _too_short(dataset)


def _missing(dataset: Dataset) -> list[str]:
    """Parts that a split by time lacks."""
    split = dataset.interactions["split"].to_numpy()
    names = [name for number, name in enumerate(SPLITS) if not (split == number).any()]
    return [f"interactions: found none of {name}, expected some" for name in names]


def _too_short(dataset: Dataset) -> list[str]:
    """Users of whom not one interaction is left for each part."""
    lengths = np.diff(dataset.offsets)
    short = np.flatnonzero(lengths < 3)
    if not len(short):
        return []
    return [
        f"{len(short)} users have fewer than 3 interactions, one each to train, validate and "
        f"test, e.g. user {dataset.user_keys[short[0]]} has {lengths[short[0]]}"
    ]


def _pairs(dataset: Dataset, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """One number per (user, item) row, and the rows' splits."""
    users = table["user"].to_numpy().astype(np.int64)
    return users * dataset.num_items + table["item"].to_numpy(), table["split"].to_numpy()


def _among(pairs: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each of the pairs is one of others, bool; sorted, for NumPy's sets hash them."""
    others = np.append(np.sort(others), -1)  # one more, which is no pair
    found: np.ndarray = others[np.searchsorted(others[:-1], pairs)] == pairs
    return found


def _common(pairs: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The pairs that are among others, each once, ascending."""
    return np.unique(pairs[_among(pairs, others)])


def _repeated(pairs: np.ndarray) -> np.ndarray:
    """The pairs that occur more than once, ascending."""
    ordered = np.sort(pairs)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def leak_line(dataset: Dataset, pairs: np.ndarray, what: str) -> list[str]:
    """A leak line for a non-empty set of pairs, with the first as the example."""
    if not len(pairs):
        return []
    user, item = divmod(int(pairs[0]), dataset.num_items)
    example = f"user {dataset.user_keys[user]}, item {dataset.item_keys[item]}"
    return [f"{len(pairs)} {what}, e.g. {example}"]


def _order_leaks(dataset: Dataset) -> list[str]:
    """Interactions that are not split as the protocol says."""
    users = dataset.interactions["user"].to_numpy()
    times = dataset.interactions["timestamp"].to_numpy()
    pairs, _ = _pairs(dataset, dataset.interactions)
    if dataset.cuts:
        lines = []
        for name in ("interactions", "reviews"):
            table = getattr(dataset, name)
            found, parts = _pairs(dataset, table)
            wrong = parts != by_time(table["timestamp"].to_numpy(), dataset.cuts)
            for number, part in enumerate(SPLITS):
                what = f"rows of {name} are in {part} but of a time that is not"
                lines += leak_line(dataset, found[wrong & (parts == number)], what)
    else:
        lines = _left_out_leaks(dataset)
    back = np.flatnonzero((np.diff(users) == 0) & (np.diff(times) < 0)) + 1
    return lines + leak_line(
        dataset, pairs[back], "interactions stand after a later one of the same user"
    )


def _left_out_leaks(dataset: Dataset) -> list[str]:
    """Interactions that are not leave-one-out: train …, validation, test per user."""
    users = dataset.interactions["user"].to_numpy()
    pairs, split = _pairs(dataset, dataset.interactions)
    lines = []
    for name, code in (("validation", VALIDATION), ("test", TEST)):
        found = np.bincount(users[split == code], minlength=dataset.num_users)
        wrong = np.flatnonzero(found != 1)
        if len(wrong):
            lines.append(
                f"{len(wrong)} users do not have exactly one {name} pair, "
                f"e.g. user {dataset.user_keys[wrong[0]]} has {found[wrong[0]]}"
            )
    from_end = np.repeat(dataset.offsets[1:], np.diff(dataset.offsets)) - np.arange(len(users))
    expected = np.select([from_end == 1, from_end == 2], [TEST, VALIDATION], TRAIN)
    return lines + leak_line(
        dataset, pairs[split != expected], "interactions have another split than leave-one-out"
    )


def _interaction_leaks(dataset: Dataset) -> list[str]:
    pairs, split = _pairs(dataset, dataset.interactions)
    lines = leak_line(
        dataset,
        _common(pairs[split != TRAIN], pairs[split == TRAIN]),
        "held-out pairs are also training rows of interactions (rating, sequential, direct)",
    )
    return lines + leak_line(
        dataset, _repeated(pairs), "pairs occur more than once in interactions"
    )


def _review_leaks(dataset: Dataset) -> list[str]:
    pairs, split = _pairs(dataset, dataset.interactions)
    held = pairs[split != TRAIN]
    reviewed, review_split = _pairs(dataset, dataset.reviews)
    explains = dataset.reviews["sentence"].is_valid().to_numpy(zero_copy_only=False)
    training = review_split == TRAIN
    lines = []
    for family, rows in (("review", training), ("explanation", training & explains)):
        lines += leak_line(
            dataset,
            _common(held, reviewed[rows]),
            f"held-out pairs are also training rows of reviews ({family})",
        )
    anywhere_in_training = np.concatenate([reviewed[training], pairs[split == TRAIN]])
    lines += leak_line(
        dataset,
        _common(reviewed[~training], anywhere_in_training),
        "held-out pairs of reviews are also training rows",
    )
    lines += leak_line(dataset, _repeated(reviewed), "pairs occur more than once in reviews")
    strange = np.unique(reviewed[~_among(reviewed, pairs)])
    lines += leak_line(dataset, strange, "pairs of reviews are no interaction")
    own = own_interactions(dataset)
    moved = (pairs[own] == reviewed) & (split[own] != review_split)
    return lines + leak_line(
        dataset, reviewed[moved], "reviews have another split than their interaction"
    )


def _id_leaks(dataset: Dataset) -> list[str]:
    """Ids that are ambiguous, badly formed or mislabelled."""
    ids, name = dataset.item_ids, dataset.id_scheme
    if name not in SCHEMES:
        return [f"item ids: unknown scheme {name!r}, expected one of {', '.join(SCHEMES)}"]
    scheme, lines = SCHEMES[name], []
    if dataset.leaky != scheme.leaky:
        lines.append(f"item ids: scheme {name} is marked leaky={dataset.leaky} in the manifest")
    first_with: dict[str | None, int] = {}
    owners = [first_with.setdefault(text, item) for item, text in enumerate(ids)]
    repeated = [(owner, item) for item, owner in enumerate(owners) if owner != item]
    if repeated:
        first, second = (dataset.item_keys[item] for item in repeated[0])
        lines.append(
            f"item ids: {len(repeated)} items share another's id, "
            f"e.g. {first} and {second} are both {ids[repeated[0][0]]!r}"
        )
    for item, text in enumerate(ids):
        spelled = "".join(ID_TOKEN.findall(text or ""))
        if not text or (spelled != text if scheme.in_tokens else not text.isdecimal()):
            wanted = "id tokens only" if scheme.in_tokens else "a decimal number"
            lines.append(f"item ids: {dataset.item_keys[item]} is {text!r}, expected {wanted}")
            break
    if dataset.id_tokens != id_tokens(text or "" for text in ids):
        lines.append("item ids: the dataset's id tokens are not those its ids use")
    return lines
