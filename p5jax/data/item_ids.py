"""Item ids: the text that names a catalogue item in a prompt, one scheme per function.

Only a leaky scheme may know anything about held-out interactions; every other is a function of the
training sequences, the catalogue size and a seed, which `p5jax data audit` checks by making the
ids again. The table of schemes is in p5jax.data.schemes. Clusters after "How to Index Item IDs for
Recommendation Foundation Models" (Hua et al., 2023, section 4.3): recursive spectral clustering of
the training co-occurrence graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.settings import SIZE, at_least, check
from p5jax.data.schemes import SCHEMES, scheme_named

if TYPE_CHECKING:
    import scipy.sparse as sp

ID_TOKEN = re.compile(r"<[a-z]\d+_\d+>")


@dataclass(frozen=True)
class ClusterConfig:
    """The shape of collaborative ids: children per cluster, items per leaf, slack in balancing.

    A child holds at most `slack` times its fair share, which bounds the depth and so the length
    of an id: 12,101 items get ids of 3 or 4 tokens from 96 distinct ones.
    """

    branching: int = 16
    max_leaf: int = 32
    slack: float = 2.0

    def __post_init__(self) -> None:
        check(self, branching=at_least(2), max_leaf=SIZE, slack=at_least(1))
        if self.slack >= self.branching:
            raise UserError(
                f"ClusterConfig.slack: found {self.slack}, expected less than branching ="
                f" {self.branching}"
            )


@dataclass(frozen=True)
class IdSource:
    """What ids are made from.

    train_sequences: per user the training items (indices below `num_items`) in time order.
    source_numbers: the source's own decimal numbering, item by item; None when it has none.
    clusters: the shape of `collaborative` ids. texts: what the source says of each item, None when
    it says nothing; vectors: [I, W] that were given. levels, codes: the shape of `semantic` ids,
    None where the usual one is wanted.
    """

    train_sequences: Sequence[np.ndarray]
    num_items: int
    seed: int
    source_numbers: Sequence[str] | None = None
    clusters: ClusterConfig = field(default_factory=ClusterConfig)
    texts: Sequence[str] | None = None
    vectors: np.ndarray | None = None
    levels: int | None = None
    codes: int | None = None

    def rng(self) -> np.random.Generator:
        """Return the random stream of the seed, from its beginning."""
        return np.random.default_rng(self.seed)


def id_tokens(ids: Iterable[str]) -> list[str]:
    """Return the ids' distinct special tokens by letter, level and number; [] when numeric."""
    found = {token for text in ids for token in ID_TOKEN.findall(text)}

    def order(token: str) -> tuple[str, int, int]:
        level, number = token[2:-1].split("_")
        return token[1], int(level), int(number)

    return sorted(found, key=order)


def assign_item_ids(scheme: str, source: IdSource) -> list[str]:
    """Return one unique id text per item of the catalogue; `scheme` is one of SCHEMES.

    Raises:
        UserError: unknown scheme, or `released` without a usable numbering of the source.
    """
    ids: list[str] = resolve_name(scheme_named(scheme).function)(source)
    return ids


def _decimal(numbers: np.ndarray) -> list[str]:
    """Zero-based numbers as decimal strings from "1"."""
    return [str(number + 1) for number in numbers.tolist()]


def random_ids(source: IdSource) -> list[str]:
    """Number the items in a random order."""
    return _decimal(source.rng().permutation(source.num_items))


def token_ids(source: IdSource) -> list[str]:
    """Give each item a token of its own."""
    return [f"<i0_{item}>" for item in range(source.num_items)]


def released_ids(source: IdSource) -> list[str]:
    """Keep the source's own numbering."""
    if source.source_numbers is None:
        raise UserError(
            "item ids 'released': this source has no item numbering of its own; "
            f"expected one of {', '.join(name for name in SCHEMES if name != 'released')}"
        )
    if len(source.source_numbers) != source.num_items:
        raise UserError(
            f"item ids 'released': found {len(source.source_numbers)} numbers,"
            f" expected {source.num_items}"
        )
    seen: set[str] = set()
    for number in source.source_numbers:
        if not re.fullmatch(r"[0-9]+", number):
            raise UserError(f"item ids 'released': found {number!r}, expected a decimal number")
        if number in seen:
            raise UserError(f"item ids 'released': number {number} stands for more than one item")
        seen.add(number)
    return list(source.source_numbers)


def sequential_ids(source: IdSource) -> list[str]:
    """Number items by first appearance in training; the rest by a random order of their own.

    The order of the rest must not follow the item indices: a source that numbers items over full
    sequences has the held-out order in them.
    """
    num_items = source.num_items
    walked = np.concatenate([np.zeros(0, np.int64), *source.train_sequences])
    walked = walked.astype(np.int64)
    seen, first = np.unique(walked, return_index=True)
    seen = seen[np.argsort(first)]
    unseen = np.setdiff1d(np.arange(num_items), seen)
    numbers = np.empty(num_items, np.int64)
    numbers[np.concatenate([seen, source.rng().permutation(unseen)])] = np.arange(num_items)
    return _decimal(numbers)


def collaborative_ids(source: IdSource) -> list[str]:
    """Ids that spell the path from the root of the cluster tree to the item, one token a level.

    Items are shuffled first, so that ties anywhere below fall by chance and not by the source's
    numbering; in a leaf the items are sorted by training popularity, the most popular first.
    """
    import scipy.sparse.linalg  # noqa: F401
    import sklearn.cluster  # noqa: F401  (both before the limit, which holds for what is loaded)
    from threadpoolctl import threadpool_limits

    num_items, config, rng = source.num_items, source.clusters, source.rng()
    place_of = rng.permutation(num_items)  # item -> row of the graph
    with threadpool_limits(1):  # the same sums whatever the number of cores
        bought, popularity = _purchases(source.train_sequences, place_of)
        ids = [""] * num_items
        pending = [("", 0, np.arange(num_items))]
        while pending:
            prefix, level, rows = pending.pop()
            if len(rows) <= config.max_leaf:
                ranked = rows[np.argsort(-popularity[rows], kind="stable")]
                for number, row in enumerate(ranked.tolist()):
                    ids[row] = f"{prefix}<c{level}_{number}>"
                continue
            for number, part in enumerate(_split(bought, rows, rng, config)):
                pending.append((f"{prefix}<c{level}_{number}>", level + 1, part))
    return [ids[row] for row in place_of.tolist()]


def _purchases(
    train_sequences: Sequence[np.ndarray], place_of: np.ndarray
) -> tuple[sp.csc_array, np.ndarray]:
    """Return who has which item in training, 1.0 or nothing [U, I], and the rows of each item [I].

    Items are at their rows [I].
    """
    import scipy.sparse as sp

    lengths = [len(sequence) for sequence in train_sequences]
    users = np.repeat(np.arange(len(lengths)), lengths)
    rows = place_of[np.concatenate([np.zeros(0, np.int64), *train_sequences]).astype(np.int64)]
    shape = (len(lengths), len(place_of))
    bought = sp.csc_array((np.ones(len(rows), np.float64), (users, rows)), shape=shape)
    bought.data[:] = 1
    return bought, np.bincount(rows, minlength=len(place_of))


def _split(
    bought: sp.csc_array, rows: np.ndarray, rng: np.random.Generator, config: ClusterConfig
) -> list[np.ndarray]:
    """Divide a cluster's rows into at most `branching` children of bounded size."""
    from sklearn.cluster import KMeans

    # As few children as make half-full leaves, so that small clusters do not shatter.
    wanted = int(np.ceil(2 * len(rows) / config.max_leaf))
    children = max(2, min(config.branching, wanted, len(rows)))
    points = spectral_points(_shared(bought, rows), children, rng)
    distinct = len(np.unique(points, axis=0))
    if distinct < children:  # no structure left to follow: items without training co-occurrence
        return [part for part in np.array_split(rows, children) if len(part)]
    means = KMeans(children, n_init=3, random_state=int(rng.integers(2**31))).fit(points)
    capacity = min(int(np.ceil(config.slack * len(rows) / children)), len(rows) - 1)
    label = _bounded_assignment(means.transform(points), capacity)
    return [part for child in range(children) if len(part := rows[label == child])]


def _shared(bought: sp.csc_array, rows: np.ndarray) -> sp.csr_array:
    """Return which of some items [n] those users have who have two or more of them."""
    import scipy.sparse as sp

    some = bought[:, rows]
    items = np.repeat(np.arange(len(rows)), np.diff(some.indptr))
    _, user, count = np.unique(some.indices, return_inverse=True, return_counts=True)
    several = count > 1
    number, kept = np.cumsum(several) - 1, several[user]
    pairs = number[user[kept]], items[kept]
    shape = (int(several.sum()), len(rows))
    return sp.csr_array((np.ones(len(pairs[0])), pairs), shape=shape)


def spectral_points(bought: sp.csr_array, dimensions: int, rng: np.random.Generator) -> np.ndarray:
    """Embed n items by the leading eigenvectors of the normalised adjacency, [n, dimensions].

    bought: which of them each user has [users, n]. Two items are as near as many users have both:
    a vector times this graph is one times `bought` and back, less its diagonal, which takes time
    and memory as there are interactions, not pairs of them.

    The regularised form (Qin and Rohe 2013; here a tenth of the mean degree, spread evenly over
    all pairs, is added to the graph) keeps isolated items and small components from taking a
    cluster each. Rows are scaled to length one (Ng, Jordan and Weiss 2001). Signs are fixed and
    the numbers rounded, so that rounding noise does not decide between clusters.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    n, back = bought.shape[1], bought.T.tocsr()
    diagonal = np.diff(back.indptr)
    degree = back @ np.diff(bought.indptr) - diagonal
    extra = max(0.1 * float(degree.mean()), 1e-3)
    scale = 1 / np.sqrt(degree + extra)
    if n <= max(256, 4 * dimensions):
        weights = (back @ bought).toarray()
        np.fill_diagonal(weights, 0)
        vectors = np.linalg.eigh(scale[:, None] * (weights + extra / n) * scale)[1]
        vectors = vectors[:, -dimensions:]
    else:

        def product(vector: np.ndarray) -> np.ndarray:
            scaled = scale * vector.ravel()
            near = back @ (bought @ scaled) - diagonal * scaled
            result: np.ndarray = scale * (near + extra / n * scaled.sum())
            return result

        operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
        vectors = eigsh(operator, k=dimensions, which="LA", v0=rng.standard_normal(n))[1]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(dimensions)])
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    points: np.ndarray = np.round(vectors / np.maximum(norms, 1e-12), 6)
    return points


def _bounded_assignment(distance: np.ndarray, capacity: int) -> np.ndarray:
    """Give each of n points one of k clusters, nearest first, none holding more than `capacity`.

    Pairs are taken by growing distance [n, k] and a full cluster turns later points away; k times
    `capacity` is at least n, so every point gets a cluster.
    """
    n, k = distance.shape
    distance = distance.copy()
    while True:
        label: np.ndarray = distance.argmin(axis=1)
        full = []  # the pair that is the last to be taken, for each cluster that is too full
        for cluster in np.flatnonzero(np.bincount(label, minlength=k) > capacity).tolist():
            points = np.flatnonzero(label == cluster)
            order = np.argsort(distance[points, cluster], kind="stable")
            last = int(points[order[capacity - 1]])
            full.append((distance[last, cluster], last, cluster))
        if not full:
            return label
        # Until the first cluster is full, nobody is turned away.
        farthest, last, cluster = min(full)
        column = distance[:, cluster]
        column[(column > farthest) | ((column == farthest) & (np.arange(n) > last))] = np.inf
