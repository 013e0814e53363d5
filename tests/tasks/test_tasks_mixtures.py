"""The order of a task's examples, and the mixtures of tasks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from native_stream import LENGTHS

from p5jax.prompts.template_files import load_templates

pytestmark = pytest.mark.extras
seqio = pytest.importorskip("seqio", reason="needs seqio (make test-extras)")

import p5jax.tasks  # noqa: E402
from p5jax.tasks.source import NumberSource  # noqa: E402


def test_shuffling_permutes_each_epoch_as_a_whole():
    source = NumberSource("any", {"train": 500, "test": 30}, epochs=3)

    def numbers(split="train", **options):
        rows = source.get_dataset(split, **options).as_numpy_iterator()
        return [(int(row["epoch"]), int(row["index"])) for row in rows]

    one, two = numbers(shuffle=True, seed=1), numbers(shuffle=True, seed=2)
    assert one == numbers(shuffle=True, seed=1)
    assert one != two
    assert [epoch for epoch, _ in one] == [n // 500 for n in range(1500)]
    orders = [[index for _, index in one[e * 500 :][:500]] for e in range(3)]
    assert all(sorted(order) == list(range(500)) for order in orders)
    assert orders[0] != orders[1]
    far = np.mean([abs(place - index) for place, index in enumerate(orders[0])])
    assert far > 100  # 167 in a uniform shuffle; a buffer would keep what is near near
    assert numbers(shuffle=True) != numbers(shuffle=True)
    shards = [numbers(shuffle=True, seed=1, shard_info=seqio.ShardInfo(i, 4)) for i in range(4)]
    assert sorted(itertools.chain(*shards)) == sorted(one)
    assert numbers("test", shuffle=False) == [(0, n) for n in range(30)]
    assert len(source.list_shards("train")) == 1
    assert len(NumberSource("any", {"train": 5000}, epochs=2).list_shards("train")) == 3


def test_mixture_rates(small, native):
    """20,000 draws; the declared rates are the families' training sizes."""
    mixture = seqio.MixtureRegistry.get(small)
    sizes = {name: family.size("train") for name, family in native.items()}
    for name, size in sizes.items():
        assert mixture.get_rate(seqio.TaskRegistry.get(f"{small}_{name}")) == size
    family_of = {id: template.family for id, template in load_templates("amazon").items()}
    # Rendering is not what is tested here: each task's first examples stand for the others.
    rows = {
        name: seqio.TaskRegistry.get(f"{small}_{name}")
        .get_dataset(LENGTHS, "train", shuffle=False)
        .take(1)
        .cache()
        .repeat()
        for name in sizes
    }
    rates = [mixture.get_rate(seqio.TaskRegistry.get(f"{small}_{name}")) for name in rows]
    stream = mixture._sample_fn(list(rows.values()), rates, 3).map(lambda row: row["prompt"])
    drawn = [family_of[p.decode()] for p in stream.take(20_000).as_numpy_iterator()]
    for name, size in sizes.items():
        share, rate = drawn.count(name) / 20_000, size / sum(sizes.values())
        assert abs(share - rate) < 0.02
        assert abs(share / rate - 1) < 4 * math.sqrt((1 - rate) / rate / 20_000)


def test_mixtures_and_their_stream(small, native):
    assert p5jax.tasks.find(small) is seqio.MixtureRegistry.get(small)
    tasks = {task.name for task in seqio.MixtureRegistry.get(f"{small}_without_direct").tasks}
    assert tasks == {f"{small}_{name}" for name in native if name != "direct"}
    dataset = seqio.get_dataset(
        small,
        LENGTHS,
        dataset_split="train",
        shuffle=False,
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
    )
    batch = next(dataset.batch(8).as_numpy_iterator())
    assert batch["encoder_input_tokens"].shape == (8, 200)
    assert batch["decoder_target_tokens"].shape == (8, 16)
    assert (np.sort(batch["decoder_target_tokens"] == 1, axis=1)[:, -1]).all()
