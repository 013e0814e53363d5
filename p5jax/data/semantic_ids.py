"""Semantic ids: an item's vector in a few codes, each of what the codes before it leave over.

Residual k-means, after the semantic ids of TIGER (Rajput et al., 2023), whose RQ-VAE it replaces at
no loss: k-means of the vectors, then of what the nearest centres leave over, scaled to length one,
and so on for each level.
"""

from __future__ import annotations

import math

import numpy as np

from p5jax.data.item_ids import IdSource
from p5jax.data.item_vectors import item_vectors
from p5jax.data.readers.lines import with_progress

LEVELS = 3  # codes of an id, unless more or fewer are asked for
STEPS = 50  # of k-means, at most
FEWEST_CODES, MOST_CODES = 16, 256  # of a level, likewise


def semantic_ids(source: IdSource) -> list[str]:
    """Ids that spell an item's codes, one token a level.

    Items are shuffled first, so that ties fall by chance and not by the source's numbering.
    """
    if not source.num_items:
        return []
    rng = source.rng()
    place_of = rng.permutation(source.num_items)  # item -> row of the points
    vectors = item_vectors(
        source.train_sequences, source.texts or [""] * source.num_items, source.vectors
    )
    points = np.empty_like(vectors)
    points[place_of] = vectors
    levels, codes = source.levels or LEVELS, source.codes or usual_codes(len(points))
    found = distinct_codes(points, levels, codes, rng).tolist()
    ids = ["".join(f"<s{level}_{code}>" for level, code in enumerate(row)) for row in found]
    return [ids[row] for row in place_of.tolist()]


def usual_codes(num_items: int) -> int:
    """Return how many codes a level has: a power of two, twice the root of the catalogue or more.

    12,101 items get 256, the published number, beyond which it does not grow.
    """
    wanted = 1 << math.ceil(math.log2(2 * math.sqrt(max(num_items, 1))))
    return min(max(wanted, FEWEST_CODES), MOST_CODES)


def distinct_codes(
    points: np.ndarray, levels: int, codes: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the codes of points [I, W], int64 [I, levels], no two rows of them the same.

    On the last level the points of a prefix that share a code are moved: of the codes that are
    nearest to all of them together, each gets another one. Points beyond `codes` get numbers of
    their own.
    """
    import sklearn.cluster  # noqa: F401  (before the limit, which holds for what is loaded)
    from scipy.spatial.distance import cdist
    from threadpoolctl import threadpool_limits

    left, found = points, np.zeros((len(points), levels), np.int64)
    with threadpool_limits(1):  # the same sums whatever the number of cores
        for level in with_progress(range(levels), "semantic ids", "codes", len(points)):
            told = left
            found[:, level], centres = _clusters(told, codes, rng)
            left = told - centres[found[:, level]]
            norms = np.linalg.norm(left, axis=1, keepdims=True)
            left = np.round(left / np.maximum(norms, 1e-9), 6)
    for rows in _groups(found[:, :-1]):
        if len(np.unique(found[rows, -1])) < len(rows):
            found[rows, -1] = _one_each(cdist(told[rows], centres, "sqeuclidean"))
    return found


def _clusters(
    points: np.ndarray, codes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest centre of each point [I] and the centres of k-means [codes, W].

    There are as many codes as points differ, at most.
    """
    from sklearn.cluster import KMeans, kmeans_plusplus

    codes = _distinct(points, codes)
    start, _ = kmeans_plusplus(points, codes, random_state=int(rng.integers(2**31)))
    means = KMeans(codes, init=start, n_init=1, max_iter=STEPS, tol=0).fit(points)
    return means.labels_, means.cluster_centers_


def _distinct(points: np.ndarray, most: int) -> int:
    """Count the different rows of points [I, W], up to `most`: a catalogue of copies is rare."""
    seen: set[bytes] = set()
    for point in points:
        seen.add((point + 0.0).tobytes())  # of two zeros one
        if len(seen) == most:
            break
    return len(seen)


def _groups(codes: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each distinct row of codes [I, levels]."""
    _, group = np.unique(codes, axis=0, return_inverse=True)
    return np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])


def _one_each(distance: np.ndarray) -> np.ndarray:
    """Give each of n points another one of k codes, by the least sum of distances [n, k]."""
    from scipy.optimize import linear_sum_assignment

    n, k = distance.shape
    rows, columns = linear_sum_assignment(distance)
    code = np.full(n, -1)
    code[rows] = columns
    code[code < 0] = k + np.arange(n - len(rows))
    return code
