"""The pipeline against a plain reimplementation with lists and loops."""

from __future__ import annotations

import collections
import functools
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.pipeline.batching import Tokens, first_fit, packed_batch, padded_batch, token_statistics
from p5jax.pipeline.config import PipelineConfig, resolved_batching
from p5jax.pipeline.iterator import eval_batches, supervised_batches, train_iterator
from p5jax.pipeline.mixture import Mixture, permute
from p5jax.pipeline.windows import Windows
from p5jax.prompts.families import Example
from p5jax.prompts.sampling import example_rng
from p5jax.text.vocabulary import Vocabulary

CONFIG = PipelineConfig(
    batch_size=8,
    source_lengths=(16, 32, 64),
    target_lengths=(4, 16),
    batching="buckets",
    window=4,
    seed=3,
)
PACKED = PipelineConfig(
    batch_size=8,
    source_lengths=(32, 128),
    target_lengths=(4, 16),
    batching="packed",
    window=4,
    seed=3,
)


class FakeFamily:
    """Prompts of 2-26 numbers; every third target is long."""

    def __init__(self, name: str, examples: int):
        self.name, self.examples = name, examples

    def size(self, split: str) -> int:
        return self.examples

    def example(self, split, index, rng, prompt_id=None) -> Example:
        history = rng.integers(1, 40, int(rng.integers(2, 26))).tolist()
        inputs = f"{self.name} {index} : " + " ".join(map(str, history))
        targets = " ".join(["7"] * (12 if index % 3 == 0 else 2))
        return Example(self.name, "9-1", index, index, inputs, targets, None, None)


FAMILIES = {name: FakeFamily(name, size) for name, size in (("rating", 37), ("direct", 20))}


@functools.cache
def vocabulary() -> Vocabulary:
    return Vocabulary.train([f"rating direct user {i} : , ." for i in range(200)], 300)


def take(config, count, state=None, **processes) -> list[dict]:
    iterator = train_iterator(FAMILIES, vocabulary(), config, **processes)
    if state is not None:
        iterator.set_state(state)
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def drawn(config, window: int) -> list[tuple[list[int], list[int]]]:
    """The token lists of a window's draws, one at a time."""
    sizes = {name: family.examples for name, family in FAMILIES.items()}
    mixture = Mixture(sizes, config.rates, config.seed)
    per_window = config.batch_size * config.window
    out = []
    for i in range(window * per_window, (window + 1) * per_window):
        ((name, epoch, index),) = mixture.samples(i, 1)
        rng = example_rng(config.seed, epoch, name, index)
        example = FAMILIES[name].example("train", index, rng)
        source = [*vocabulary().encode(example.inputs), 1]
        out.append((source, [*vocabulary().encode(example.targets)[: config.target_length - 1], 1]))
    return out


def rectangle(rows, length, kind=np.int32) -> np.ndarray:
    return np.array([[*row, *[0] * (length - len(row))] for row in rows], kind)


def plain_batch(pairs, source_length, target_length) -> dict[str, np.ndarray]:
    targets = [target for _, target in pairs]
    return {
        "encoder_input_tokens": rectangle([source for source, _ in pairs], source_length),
        "decoder_target_tokens": rectangle(targets, target_length),
        "decoder_input_tokens": rectangle([[0, *t[:-1]] for t in targets], target_length),
        "decoder_loss_weights": rectangle(
            [[1 / len(t)] * len(t) for t in targets], target_length, np.float32
        ),
    }


def digest(batch) -> str:
    parts = (f"{k}{batch[k].dtype}{batch[k].shape}".encode() + batch[k].tobytes() for k in batch)
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()


def digests(batches) -> list[str]:
    return [digest(batch) for batch in batches]


def unpacked(batches) -> list[tuple[list[int], list[int]]]:
    """Read the examples back from the segments of packed batches."""
    pairs = []
    for batch in batches:
        sides = [(s, batch[f"{s}_segment_ids"]) for s in ("encoder", "decoder")]
        for row in range(len(batch["encoder_input_tokens"])):
            count = sides[0][1][row].max()
            assert count == sides[1][1][row].max()
            for segment in range(1, count + 1):
                pair = []
                for (side, ids), name in zip(sides, ("input", "target"), strict=True):
                    where = np.flatnonzero(ids[row] == segment)
                    assert (np.diff(where) == 1).all()
                    positions = batch[f"{side}_positions"][row, where]
                    assert positions.tolist() == list(range(len(where)))
                    pair.append(batch[f"{side}_{name}_tokens"][row, where].tolist())
                shifted = batch["decoder_input_tokens"][row, where].tolist()
                assert shifted == [0, *pair[1][:-1]]
                weights = batch["decoder_loss_weights"][row, where]
                np.testing.assert_allclose(weights, 1 / len(where), rtol=1e-6)
                pairs.append((pair[0], pair[1]))
    return pairs


def as_tokens(lengths) -> list[Tokens]:
    return [Tokens(np.arange(1, s + 1), np.arange(1, t + 1)) for s, t in lengths]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 63, 64, 65, 1000])
def test_permute_is_a_bijection(size):
    everything = np.arange(size)
    orders = {tuple(permute(everything, size, seed, "x").tolist()) for seed in range(20)}
    assert all(sorted(order) == everything.tolist() for order in orders)
    assert len(orders) == {1: 1, 2: 2}.get(size, len(orders))
    assert size < 4 or len(orders) > 10
    (one,) = permute(np.array([size // 2]), size, 5, "x")
    assert one == permute(everything, size, 5, "x")[size // 2]


def test_permute_is_uniform():
    counts = np.zeros((10, 10))
    for seed in range(3000):
        counts[np.arange(10), permute(np.arange(10), 10, seed)] += 1
    # Each cell is binomial(3000, 0.1): standard deviation 16.4.
    assert np.abs(counts - 300).max() < 5 * 16.5


def test_every_example_comes_once_an_epoch():
    sizes = {"rating": 37, "direct": 20, "review": 1}
    mixture = Mixture(sizes, {}, seed=1)
    orders = []
    for epoch in range(4):
        draws = mixture.samples(epoch * 58, 58)
        expected = {(name, epoch, i) for name, size in sizes.items() for i in range(size)}
        assert set(draws) == expected
        orders.append([(name, index) for name, _, index in draws])
    assert len({tuple(order) for order in orders}) == 4
    assert Mixture(sizes, {}, seed=2).samples(0, 58) != mixture.samples(0, 58)


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, 500), count=st.integers(1, 100))
def test_draws_have_random_access(start, count):
    mixture, first = drawn_once()
    assert mixture.samples(start, count) == first[start : start + count]


@functools.cache
def drawn_once() -> tuple[Mixture, list]:
    mixture = Mixture({"rating": 37, "direct": 20}, {"rating": 0.9, "direct": 0.1}, seed=1)
    return mixture, mixture.samples(0, 600)


def test_rates_are_kept():
    sizes = {"rating": 50, "direct": 4000, "review": 300, "sequential": 10}
    rates = {"rating": 2.0, "direct": 1.0, "review": 0.5}
    draws = Mixture(sizes, rates, seed=0).samples(0, 20_000)
    counts = collections.Counter(name for name, _, _ in draws)
    assert set(counts) == set(rates)
    for name, rate in rates.items():
        assert counts[name] / 20_000 == pytest.approx(rate / 3.5, rel=0.02)
    # Each family walks its own epochs: all of one before any of the next but for the order.
    for name in rates:
        seen = collections.Counter((e, i) for n, e, i in draws if n == name)
        assert max(seen.values()) == 1
        last = max(e for e, _ in seen)
        assert all(sum(e == k for e, _ in seen) == sizes[name] for k in range(last))


def test_proportional_rates_are_those_of_the_sizes():
    sizes = {"rating": 9000, "direct": 90_000, "review": 1000}
    counts = collections.Counter(n for n, _, _ in Mixture(sizes, {}, seed=0).samples(0, 20_000))
    for name, size in sizes.items():
        assert abs(counts[name] / 20_000 - size / 100_000) < 0.02


def test_longest_equals_a_plain_loop():
    config = replace(CONFIG, batching="longest")
    batches = take(config, 8)
    pairs = drawn(config, 0) + drawn(config, 1)
    for number, batch in enumerate(batches):
        chunk = pairs[number * 8 : number * 8 + 8]
        longest = [max(map(len, side)) for side in zip(*chunk, strict=True)]
        lengths = [min(-(-longest[0] // 8) * 8, 64), min(-(-longest[1] // 8) * 8, 16)]
        assert digest(batch) == digest(plain_batch(chunk, *lengths))


def test_buckets_equal_a_plain_loop():
    batches = take(CONFIG, 12)
    shuffled = 0
    for window in range(3):
        pairs = sorted(
            drawn(CONFIG, window),
            key=lambda p: (len(p[1]) > 4, len(p[0]) * (-1) ** (len(p[1]) > 4)),
        )
        expected = []
        for start in range(0, 32, 8):
            chunk = pairs[start : start + 8]
            source = min(b for b in (16, 32, 64) if b >= max(len(s) for s, _ in chunk))
            target = 4 if max(len(t) for _, t in chunk) <= 4 else 16
            expected.append(digest(plain_batch(chunk, source, target)))
        found = digests(batches[window * 4 : window * 4 + 4])
        assert sorted(found) == sorted(expected)
        shuffled += found != expected
    assert shuffled >= 2


def test_buckets_have_few_shapes_and_less_padding_than_longest():
    longest = replace(CONFIG, batching="longest")
    counts = {}
    for config in (CONFIG, longest):
        batches = take(config, 40)
        stats = [token_statistics(batch) for batch in batches]
        counts[config.batching] = sum(s.padded for s in stats) / sum(s.real for s in stats)
        if config is CONFIG:
            sides = ("encoder_input_tokens", "decoder_input_tokens")
            shapes = {tuple(b[side].shape for side in sides) for b in batches}
            assert len(shapes) <= 6
    assert counts["buckets"] < counts["longest"]


def test_packing_loses_nothing():
    iterator = train_iterator(FAMILIES, vocabulary(), PACKED)
    windows: dict[int, list] = collections.defaultdict(list)
    while len(windows) < 4:
        batch = next(iterator)
        windows[iterator.get_state()["epoch"]].append(batch)
    iterator.close()
    rows, source, target = iterator.rows, 128, windows[0][0]["decoder_input_tokens"].shape[1]
    assert target % PACKED.target_length == 0
    for window in range(3):
        batches = windows[window]
        assert {b["encoder_input_tokens"].shape for b in batches} == {(rows, source)}
        assert {b["decoder_input_tokens"].shape for b in batches} == {(rows, target)}
        pairs = drawn(PACKED, window)
        assert sorted(unpacked(batches)) == sorted(pairs)
        assert sum(token_statistics(b).examples for b in batches) == len(pairs)
        tokens = sum(len(s) + len(t) for s, t in pairs)
        assert sum(token_statistics(b).real for b in batches) == tokens
        # Rows are dealt evenly: no batch of a window is nearly empty.
        filled = [int(b["encoder_segment_ids"].any(axis=1).sum()) for b in batches]
        assert max(filled) - min(filled) <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 8)), min_size=1, max_size=40))
def test_first_fit_places_all_within_capacity(lengths):
    rows = first_fit(as_tokens(lengths), 20, 8)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    for row in rows:
        assert sum(lengths[i][0] for i in row) <= 20
        assert sum(lengths[i][1] for i in row) <= 8
    # First fit: what opens a later row fitted in no earlier one when it came.
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i][0], i))
    for number, row in enumerate(rows):
        for earlier in rows[:number]:
            before = [i for i in earlier if order.index(i) < order.index(row[0])]
            source = sum(lengths[i][0] for i in before) + lengths[row[0]][0]
            assert source > 20 or sum(lengths[i][1] for i in before) + lengths[row[0]][1] > 8


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=12))
def test_weights_sum_to_the_examples(lengths):
    tokens = as_tokens(lengths)
    rows = [[tokens[i] for i in row] for row in first_fit(tokens, 24, 12)]
    for batch in (
        padded_batch(tokens, 12, 6, len(tokens) + 2),
        packed_batch(rows, 24, 12, len(rows) + 1),
    ):
        assert batch["decoder_loss_weights"].sum() == pytest.approx(len(lengths), rel=1e-5)
        assert token_statistics(batch).examples == len(lengths)
        assert ((batch["decoder_loss_weights"] > 0) == (batch["decoder_target_tokens"] > 0)).all()
        sizes = batch["encoder_input_tokens"].size + batch["decoder_input_tokens"].size
        assert token_statistics(batch).padded == sizes


@pytest.mark.parametrize("config", [CONFIG, PACKED], ids=["buckets", "packed"])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_process_slices_reassemble(config, count):
    config = replace(config, batch_size=32)
    whole = take(config, 6)
    shares = [take(config, 6, process_index=p, process_count=count) for p in range(count)]
    for step, batch in enumerate(whole):
        for name, array in batch.items():
            np.testing.assert_array_equal(np.concatenate([s[step][name] for s in shares]), array)


@pytest.mark.parametrize("batching", ["longest", "buckets", "packed"])
def test_state_is_exact_wherever_it_is_taken(batching):
    config = replace(CONFIG, batching=batching)
    whole = digests(take(config, 14))
    iterator = train_iterator(FAMILIES, vocabulary(), config)
    for step in range(11):
        state = json.loads(json.dumps(iterator.get_state()))
        assert digests(take(config, 3, state)) == whole[step : step + 3]
        assert digest(next(iterator)) == whole[step]
    iterator.set_state(state)  # going back in the same iterator
    assert digest(next(iterator)) == whole[10]
    iterator.close()


def print_digests(state: str) -> None:
    """What the fresh process of the next test runs."""
    print(json.dumps(digests(take(CONFIG, 5, json.loads(state)))))


def test_state_is_exact_in_a_fresh_process():
    iterator = train_iterator(FAMILIES, vocabulary(), CONFIG)
    for _ in range(6):
        next(iterator)
    state = json.dumps(iterator.get_state())
    rest = [digest(next(iterator)) for _ in range(5)]
    iterator.close()
    command = "import sys, test_pipeline; test_pipeline.print_digests(sys.argv[1])"
    here = Path(__file__).resolve().parent
    places = [str(here), str(here.parent), str(here.parents[1])]
    path = f"import sys; sys.path[:0] = {places!r}; "
    run = subprocess.run(
        [sys.executable, "-c", path + command, state], capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout) == rest


@pytest.mark.parametrize("how", [{"threads": 0}, {"threads": 3}, {"workers": 2}])
def test_threads_and_workers_change_nothing(how):
    assert digests(take(replace(CONFIG, **how), 10)) == digests(take(CONFIG, 10))


@pytest.mark.parametrize("batching", ["longest", "buckets"])
def test_users_are_one_more_array_and_change_no_other(batching):
    """A row's user is its example's, whose prompt names it (`index` in FakeFamily)."""
    config = replace(CONFIG, batching=batching)
    plain = Windows(FAMILIES, vocabulary(), config)(1)
    named = Windows(FAMILIES, vocabulary(), config, users=True)(1)
    for one, other in zip(plain, named, strict=True):
        assert set(other) == {*one, "users"}
        assert digest(one) == digest({name: other[name] for name in one})
        assert other["users"].dtype == np.int32
        for user, source in zip(other["users"], other["encoder_input_tokens"], strict=True):
            words = vocabulary().decode(source[source > 1].tolist()).split()
            assert int(words[1]) == user


def test_a_state_of_another_pipeline_is_refused():
    state = train_iterator(FAMILIES, vocabulary(), CONFIG).get_state()
    other = replace(CONFIG, batch_size=16)
    with pytest.raises(UserError, match="found batch_size = 8, expected 16"):
        train_iterator(FAMILIES, vocabulary(), other).set_state(state)
    fewer = {"rating": FAMILIES["rating"]}
    with pytest.raises(UserError, match="families"):
        train_iterator(fewer, vocabulary(), CONFIG).set_state(state)


def test_a_prompt_too_long_is_named():
    config = PipelineConfig(batch_size=4, source_lengths=(8,), batching="longest", window=1)
    with pytest.raises(UserError, match=r"prompt 9-1: found \d+ tokens, expected at most 8"):
        take(config, 1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"batching": "bucket"}, "found 'bucket'"),
        ({"source_lengths": (64, 32)}, "ascending"),
        ({"source_lengths": ()}, "ascending"),
        ({"batch_size": 0}, "batch_size: found 0"),
        ({"window": -1}, "window: found -1"),
        ({"rates": {"ratings": 1.0}}, "did you mean rating"),
        ({"rates": {"rating": -1.0}}, "rates: found -1.0, expected 0 or more"),
        ({"rates": {"rating": 0.0}}, "rate above 0"),
    ],
)
def test_bad_configurations_are_refused(change, match):
    with pytest.raises(UserError, match=match):
        train_iterator(FAMILIES, vocabulary(), replace(CONFIG, **change))


def test_families_without_examples_are_refused():
    with pytest.raises(UserError, match="no training example"):
        Mixture({"rating": 0}, {}, 0)
    with pytest.raises(UserError, match="it has no examples"):
        Mixture({"rating": 0, "direct": 3}, {"rating": 1.0, "direct": 1.0}, 0)
    assert Mixture({"rating": 0, "direct": 3}, {}, 0).samples(0, 3) != []


def test_rows_must_divide_over_the_processes():
    with pytest.raises(UserError, match="divide over 3 processes"):
        train_iterator(FAMILIES, vocabulary(), CONFIG, process_index=0, process_count=3)


def test_auto_follows_the_hardware(monkeypatch):
    import jax

    for backend, expected in (("cpu", "buckets"), ("gpu", "packed"), ("tpu", "packed")):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert resolved_batching(PipelineConfig()) == expected


def test_eval_batches_cover_every_example_once():
    rng = np.random.default_rng(0)
    examples = [FAMILIES["rating"].example("test", i, rng) for i in range(37)]
    seen = []
    for batch, tokens in eval_batches(examples, vocabulary(), 8, (16, 32, 64)):
        assert tokens.shape in {(8, 16), (8, 32), (8, 64)}
        assert tokens.dtype == np.int32
        expected = [[*vocabulary().encode(e.inputs), 1] for e in batch]
        expected += [[]] * (8 - len(batch))
        np.testing.assert_array_equal(tokens, rectangle(expected, tokens.shape[1]))
        seen += [e.user for e in batch]
    assert sorted(seen) == list(range(37))


def test_supervised_batches_cover_every_example_once():
    rng = np.random.default_rng(0)
    examples = [FAMILIES["rating"].example("validation", i, rng) for i in range(37)]
    batches = list(supervised_batches(examples, vocabulary(), CONFIG))
    assert {b["encoder_input_tokens"].shape[0] for b in batches} == {8}
    assert sum(token_statistics(b).examples for b in batches) == 37
    expected = [[*vocabulary().encode(e.inputs), 1] for e in examples]
    rows = [[t for t in row.tolist() if t] for b in batches for row in b["encoder_input_tokens"]]
    assert sorted(row for row in rows if row) == sorted(expected)
