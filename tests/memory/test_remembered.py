"""What a memory remembers, against a literal reading of its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from p5jax.core.errors import UserError
from p5jax.data.dataset import Dataset
from p5jax.data.held_out import with_other_held_out
from p5jax.evaluation.baselines.ranking import RankingBaselines
from p5jax.memory.histories import Histories
from p5jax.memory.memory import NEIGHBOURS, Memory
from p5jax.memory.neighbours import near_texts
from p5jax.memory.settings import MemorySettings

NOBODY = np.full((1, 1), -1)


@pytest.fixture(scope="module")
def memory(world) -> Memory:
    return Memory.of(world)


def history_rows(world, cases) -> np.ndarray:
    rows = np.full((len(cases.first), int(np.diff(world.offsets).max())), -1)
    for row, first, last in zip(rows, cases.first, cases.last, strict=True):
        row[: last - first] = cases.items[first:last]
    return rows


def literal_sums(sequences, count) -> np.ndarray:
    sums = np.zeros((count, count))
    for sequence in sequences:
        for i, a in enumerate(sequence):
            for j in range(i + 1, len(sequence)):
                sums[a, sequence[j]] += 1 / (j - i)
                sums[sequence[j], a] += 0.5 / (j - i)
    return sums


def literal_scores(sums, counts, history) -> np.ndarray:
    weights = np.maximum(counts, 1) ** -0.3
    near = weights[:, None] * sums * weights
    return sum(0.6**d * near[a] for d, a in enumerate(history[::-1][:20]))


def dense(found, count, scores) -> np.ndarray:
    filled = np.zeros((len(found.items), count + 1))
    np.put_along_axis(filled, found.items, scores, axis=1)
    return filled[:, :-1]


def test_neighbours_are_those_of_the_definition(world, memory):
    training = [world.sequence(user)[:-2] for user in range(world.num_users)]
    sums = literal_sums(training, world.num_items)
    counts = np.bincount(np.concatenate(training), minlength=world.num_items)
    cases = Histories.of(world, "validation")
    left_out = history_rows(world, cases)
    found = memory.neighbours(cases, left_out)
    by_sequence = dense(found, world.num_items, found.by_sequence)
    by_text = dense(found, world.num_items, found.by_text)
    for user in range(world.num_users):
        history = world.history(user, "validation")
        expected = literal_scores(sums, counts, history)
        expected[history] = 0
        np.testing.assert_allclose(by_sequence[user], expected, rtol=1e-9)
        expected = sum(0.6**d * memory.texts[[a]].toarray()[0] for d, a in enumerate(history[::-1]))
        expected *= 1 - 1 / (counts + 5)
        expected[history] = 0
        np.testing.assert_allclose(by_text[user], expected, rtol=1e-9)
        real = found.items[user][found.items[user] >= 0]
        assert len(set(real.tolist())) == len(real)


def test_its_lists_are_those_of_the_baseline(world):
    memory = Memory.of(world, MemorySettings(text=0.0))
    cases = Histories.of(world, "test")
    found = memory.beside(cases, history_rows(world, cases))
    assert found.items.shape == (world.num_users, NEIGHBOURS)
    expected = RankingBaselines(world, lambda line: None).top_k("co_occurrence", "test", 5)
    for items, shares, best in zip(found.items, found.shares, expected, strict=True):
        assert set(best) <= set(items.tolist())
        table = dict(zip(items.tolist(), shares.tolist(), strict=True))
        scores = [table[item] for item in best.tolist()]
        assert scores == sorted(shares.tolist(), reverse=True)[:5]


def test_shares_are_mixed_powers_of_scores(world, memory):
    cases = Histories.of(world, "test").of_users([5, 3])
    left_out = history_rows(world, cases)
    found = memory.neighbours(cases, left_out)
    settings = MemorySettings(text=0.25, temperature=0.5)
    one, two = found.by_sequence**2, found.by_text**2
    expected = 0.75 * one / one.sum(1, keepdims=True) + 0.25 * two / two.sum(1, keepdims=True)
    np.testing.assert_allclose(found.shares(settings), expected, rtol=1e-9)
    np.testing.assert_allclose(expected.sum(axis=1), 1)
    barred = found.items[0, found.by_sequence[0].argmax()]
    less = memory.neighbours(cases, np.concatenate([left_out, [[barred], [-1]]], axis=1))
    assert barred not in less.items[0]
    np.testing.assert_array_equal(less.items[1], found.items[1])
    shares = less.shares(settings)
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_only_the_largest_are_kept_and_of_equals_the_first(world):
    """Every item follows item 0 as often, but the last ones, which do so twice."""
    count = 2 * NEIGHBOURS + 1
    memory = Memory(np.zeros(count), Memory.of(world).sums[:0, :0])
    memory = replace(memory, sums=memory.sums.__class__((count, count)))
    memory = memory.remembering([[0, item] for item in range(1, count)])
    memory = replace(memory, counts=np.ones(count))
    memory = memory.remembering([])
    more = replace(memory.remembering([[0, count - 1]]), counts=np.ones(count))
    cases = Histories(np.array([0]), np.array([0]), np.array([1]))
    first = memory.neighbours(cases, NOBODY).items[0]
    np.testing.assert_array_equal(np.sort(first), np.arange(1, NEIGHBOURS + 1))
    second = more.neighbours(cases, NOBODY).items[0]
    np.testing.assert_array_equal(np.sort(second), [*range(1, NEIGHBOURS), count - 1])


def test_new_interactions_enter_without_training(world, memory):
    cases = Histories.of(world, "test").of_users([7])
    left_out = history_rows(world, cases)
    last = int(cases.items[cases.last[0] - 1])
    found = memory.neighbours(cases, left_out)
    strangers = set(range(world.num_items)) - set(found.items[0].tolist())
    strangers |= {int(found.items[0][found.by_sequence[0].argmin()])}
    stranger = min(strangers - set(left_out[0].tolist()))
    later = memory.remembering([[last, stranger]] * 50)
    beside = later.beside(cases, left_out)
    assert beside.items[0, beside.shares[0].argmax()] == stranger
    whole = [world.sequence(user)[:-2] for user in range(world.num_users)]
    empty = replace(memory, counts=memory.counts * 0, sums=memory.sums * 0)
    again = empty.remembering(whole)
    np.testing.assert_array_equal(again.counts, memory.counts)
    np.testing.assert_allclose(again.sums.toarray(), memory.sums.toarray())


def test_held_out_pairs_are_not_remembered(world):
    """Held-out rows are planted that, were they counted, would change everything."""
    other = with_other_held_out(world)
    one, two = Memory.of(world), Memory.of(other)
    assert (one.sums != two.sums).nnz == (one.texts != two.texts).nnz == 0
    np.testing.assert_array_equal(one.counts, two.counts)
    planted = world.sequence_items.copy()
    planted[world.offsets[1:] - 1] = planted[world.offsets[1:] - 2] = 0
    table = world.interactions.set_column(1, "item", pa.array(planted, pa.int32()))
    tables = {"users": world.users, "items": world.items, "reviews": world.reviews}
    changed = Dataset(world.path, world.manifest, {**tables, "interactions": table})
    assert (Memory.of(changed).sums != one.sums).nnz == 0


def test_of_items_with_equal_texts_the_more_bought_is_nearer():
    """Item 0 is in the history; 1 was never bought, 2 three times, 3 ninety-five times."""
    texts = near_texts(["red hat"] * 4)
    counts = np.array([9, 0, 3, 95])
    memory = Memory(counts, texts * 0, texts, MemorySettings(text=1.0))
    found = memory.neighbours(Histories.given([np.array([0])]), np.array([[0]]))
    near = dict(zip(found.items[0].tolist(), found.by_text[0].tolist(), strict=True))
    assert [near[item] for item in (1, 2, 3)] == pytest.approx([4 / 5, 7 / 8, 99 / 100])


WORDS = ("red", "blue", "shoe", "hat", "silk", "wool", "brush", "soap")


@pytest.mark.parametrize("nearest", [3, 50])
def test_near_texts_are_scikit_learns_cosines(nearest):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(0, 5))) for _ in range(40)]
    texts[4] = texts[9] = ""
    cosine = cosine_similarity(TfidfVectorizer(sublinear_tf=True).fit_transform(texts))
    np.fill_diagonal(cosine, 0)
    near = near_texts(texts, nearest).toarray()
    for own, row in zip(near, cosine, strict=True):
        best = [i for i in np.lexsort((np.arange(40), -np.round(row, 9)))[:nearest] if row[i] > 0]
        assert set(np.flatnonzero(own)) == set(best)
        np.testing.assert_allclose(own[best], row[best], atol=1e-8)


@pytest.mark.parametrize("texts", [[], [""] * 3, ["-", "!"], ["same word"] * 150])
def test_texts_that_tell_nothing_are_near_nothing(texts):
    assert near_texts(texts).nnz == 0
    assert near_texts(texts).shape == (len(texts), len(texts))


def test_words_of_most_items_tell_nothing():
    texts = [f"toy {name}" for name in ("bear", "bear", "car")] + ["toy"] * 200
    near = near_texts(texts).toarray()
    assert near[0, 1] == pytest.approx(1)
    assert np.count_nonzero(near) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"text": 1.1}, "MemorySettings.text: found 1.1, expected 0 to 1"),
        ({"temperature": 0}, "MemorySettings.temperature: found 0"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        MemorySettings(**settings)


def test_a_word_of_very_many_items_tells_nothing():
    """However large the catalogue is, a word brings at most 2,000 items near each other."""
    texts = [f"own{item}" for item in range(30_000)]
    for start, word, count in ((0, "usual", 2_001), (10_000, "telling", 2_000)):
        for item in range(start, start + count):
            texts[item] += f" {word}"
    near = near_texts(texts, nearest=3)
    near_some = np.flatnonzero(np.diff(near.indptr))
    assert near_some.tolist() == [*range(10_000, 12_000)]
