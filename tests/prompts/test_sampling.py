"""P5's draws against the laws they follow."""

from __future__ import annotations

import zlib
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from p5jax.data.families import FAMILIES
from p5jax.prompts.sampling import (
    draw_candidates,
    draw_negatives,
    example_rng,
    jittered,
    training_window,
    whole_stars,
    wrong_star,
)


@pytest.mark.parametrize("length", [3 + 1, 5, 6, 7, 8, 11, 30])
def test_training_windows_follow_p5(length):
    # P5's own indexing: position 0 of its list is the user, the history runs to `end` included.
    allowed = {
        end: list(range(1, min(4, end))) for end in range(max(2, length - 5), length - 2)
    } or {1: [1]}
    rng = np.random.default_rng(length)
    draws = Counter(training_window(length, rng) for _ in range(6000))
    expected = {
        (start - 1, end): 6000 / len(allowed) / len(starts)
        for end, starts in allowed.items()
        for start in starts
    }
    assert set(draws) == set(expected)
    if len(expected) > 1:
        observed = [draws[key] for key in expected]
        assert stats.chisquare(observed, list(expected.values())).pvalue > 1e-4


@pytest.mark.parametrize("stars", [1, 2, 3, 4, 5])
def test_jitter_is_the_rounded_clipped_normal(stars):
    low, high = {1: (1, 1.4), 2: (1.5, 2.4), 3: (2.5, 3.4), 4: (3.5, 4.4), 5: (4.5, 5)}[stars]
    law = stats.norm((low + high) / 2, (high - low) / 4)
    rng = np.random.default_rng(stars)
    draws = Counter(jittered(stars, rng) for _ in range(20000))
    assert set(draws) <= {f"{tenths / 10:.1f}" for tenths in range(10, 51)}
    edges = np.concatenate([[-np.inf], np.arange(10, 50) / 10 + 0.05, [np.inf]])
    expected = np.diff(law.cdf(edges)) * 20000
    observed = np.array([draws[f"{tenths / 10:.1f}"] for tenths in range(10, 51)])
    common = expected > 5
    assert observed[~common].sum() < 60
    assert (np.abs(observed - expected)[common] < 5 * np.sqrt(expected[common])).all()


def test_stars_are_whole_and_wrong_stars_are_uniform():
    assert [whole_stars(r) for r in (0.5, 1, 1.49, 2.5, 4.4, 4.5, 5, 7)] == [1, 1, 1, 3, 4, 5, 5, 5]
    draws = Counter(wrong_star(4, np.random.default_rng(n)) for n in range(2000))
    assert set(draws) == {1, 2, 3, 5}
    assert stats.chisquare(list(draws.values())).pvalue > 1e-4


@pytest.mark.parametrize("num_items", [12, 400])  # by permutation and by rejection
def test_negatives_are_distinct_and_uniform(num_items):
    excluded = {0, 3, 4}
    draws = Counter()
    for n in range(3000):
        negatives = draw_negatives(np.random.default_rng(n), num_items, excluded, 5)
        assert len(set(negatives)) == 5
        draws.update(negatives)
    assert set(draws) == set(range(num_items)) - excluded
    # without replacement the counts are underdispersed, so the bound is safe
    assert stats.chisquare(list(draws.values())).pvalue > 1e-4


def test_candidates_hold_the_positive_at_a_uniform_place():
    sequence = np.arange(8)
    places = Counter()
    for n in range(2000):
        rng = np.random.default_rng(n)
        candidates = draw_candidates(rng, 1000, sequence, 6, 10).tolist()
        assert len(set(candidates)) == 10
        assert set(candidates) & set(range(8)) == {6}
        places[candidates.index(6)] += 1
    assert set(places) == set(range(10))
    assert stats.chisquare(list(places.values())).pvalue > 1e-4


def test_streams_differ_in_every_coordinate_and_not_by_platform():
    coordinates = [
        *[(seed, 0, "rating", 0) for seed in (0, 1, -1, 2**63)],
        *[(0, epoch, "rating", 0) for epoch in (1, 2)],
        *[(0, 0, name, 0) for name in list(FAMILIES)[1:]],
        *[(0, 0, "rating", index) for index in (1, 2, 2**40)],
    ]
    streams = [tuple(example_rng(*c).random(8).tolist()) for c in coordinates]
    assert len({value for stream in streams for value in stream}) == 8 * len(coordinates)
    # Philox4x64-10 from its definition, in Python's integers: the first block after the counter
    # (0, 9, 4, 0) under the key (7, crc32(b"direct")).
    counter, key = [1, 9, 4, 0], [7, zlib.crc32(b"direct")]
    mask = 2**64 - 1
    for _ in range(10):
        high0, low0 = divmod(counter[0] * 0xD2E7470EE14C6C93, 2**64)
        high1, low1 = divmod(counter[2] * 0xCA5A826395121157, 2**64)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    expected = [(word >> 11) * 2.0**-53 for word in counter]
    assert example_rng(7, 4, "direct", 9).random(4).tolist() == expected
