"""SeqIO tasks against the native pipeline, example by example."""

from __future__ import annotations

import itertools

import pyarrow.parquet as pq
import pytest
from native_stream import EPOCHS, LENGTHS, PIPELINE, check_rows

from p5jax.core.errors import UserError
from p5jax.data.dataset import SPLITS
from p5jax.prompts.template_files import load_templates

pytestmark = pytest.mark.extras
seqio = pytest.importorskip("seqio", reason="needs seqio (make test-extras)")

import tensorflow as tf  # noqa: E402

from p5jax.tasks.registry import examples_of  # noqa: E402


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ["rating", "sequential", "explanation", "review", "direct"])
def test_a_family_is_the_native_stream(small, native, world_vocabulary, name, split):
    task, family = seqio.get_mixture_or_task(f"{small}_{name}"), native[name]
    rows = task.get_dataset(LENGTHS, split, shuffle=False).as_numpy_iterator()
    size = family.size(split) * (EPOCHS if split == "train" else 1)
    assert task.num_input_examples(split) == size
    assert check_rows(rows, range(size), family, split, world_vocabulary, PIPELINE) == size


def test_prompts_alone_and_the_unseen_ones(small, native, world_vocabulary):
    family = native["sequential"]
    for id in ("2-3", "2-11"):
        task = seqio.get_mixture_or_task(f"{small}_sequential_{id.replace('-', '_')}")
        for split in SPLITS:
            rows = itertools.islice(
                task.get_dataset(LENGTHS, split, shuffle=False).as_numpy_iterator(), 20
            )
            assert check_rows(rows, range(20), family, split, world_vocabulary, PIPELINE, id) == 20
    templates = load_templates("amazon").values()
    for name in native:
        unseen = [t.id for t in templates if t.family == name and not t.seen and not t.zero_shot]
        task = seqio.get_mixture_or_task(f"{small}_{name}_zeroshot")
        assert sorted(task.splits) == ["test", "validation"]
        rows = list(task.get_dataset(LENGTHS, "test", shuffle=False).as_numpy_iterator())
        asked = [row["prompt"].decode() for row in rows]
        assert asked == [id for id in unseen for _ in range(native[name].size("test", id))]
        place = 0
        for id in unseen:
            size = native[name].size("test", id)
            part = rows[place : place + size]
            check_rows(part, range(size), native[name], "test", world_vocabulary, PIPELINE, id)
            place += size
    assert "train" not in seqio.get_mixture_or_task(f"{small}_sequential_2_13").splits


def test_shards_part_the_stream_before_it_is_rendered(small, monkeypatch):
    task = seqio.get_mixture_or_task(f"{small}_review")
    total = task.num_input_examples("train")
    family = examples_of(task).family
    rendered = []
    example = family.example

    def counted(*arguments):
        rendered.append(arguments)
        return example(*arguments)

    monkeypatch.setattr(family, "example", counted)
    found = []
    for shard in range(3):
        rows = task.get_dataset(
            LENGTHS, "train", shuffle=False, shard_info=seqio.ShardInfo(shard, 3)
        )
        found.append([(row["epoch"], row["index"]) for row in rows.as_numpy_iterator()])
    assert len(rendered) == total
    size = total // EPOCHS
    assert [[divmod(n, size) for n in range(shard, total, 3)] for shard in range(3)] == found


def test_no_prompt_loses_its_end(small, native, world_vocabulary):
    """Inputs that are too short for a prompt are an error, and the longest that fits is whole."""
    task = seqio.get_mixture_or_task(f"{small}_sequential")
    family = native["sequential"]
    prompts = [family.example("test", index).inputs for index in range(family.size("test"))]
    longest = max(len(world_vocabulary.encode(prompt)) + 1 for prompt in prompts)
    short, enough = ({"inputs": n, "targets": 8} for n in (longest - 1, longest))
    rows = list(task.get_dataset(enough, "test", shuffle=False).as_numpy_iterator())
    assert [row["inputs"].tolist() for row in rows] == [
        [*world_vocabulary.encode(prompt), 1] for prompt in prompts
    ]
    message = f"longer than its {longest - 1} tokens: register .*max_source={longest - 1}"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(task.get_dataset(short, "test", shuffle=False).as_numpy_iterator())


def test_an_unknown_split_is_one_line(small):
    task = seqio.get_mixture_or_task(f"{small}_review")
    expected = r"^p5_small_review: found no split 'tset', expected one of train, .*mean test\?$"
    for wrong in (task.get_dataset, lambda n, split: task.num_input_examples(split)):
        with pytest.raises(UserError, match=expected):
            wrong(LENGTHS, "tset")


def test_examples_name_their_users_and_items(small, world):
    rows = seqio.get_mixture_or_task(f"{small}_rating").get_dataset(LENGTHS, "test", shuffle=False)
    users, items = (pq.read_table(world.path / f"{t}.parquet")["key"] for t in ("users", "items"))
    for row in rows.as_numpy_iterator():
        assert row["user_key"].decode() == users[int(row["user"])].as_py()
        assert row["item_key"].decode() == items[int(row["item"])].as_py()


def test_lengths_cut_targets_before_their_end(small):
    task = seqio.get_mixture_or_task(f"{small}_explanation")
    lengths = {"inputs": 200, "targets": 5}
    rows = task.get_dataset(lengths, "test", shuffle=False).as_numpy_iterator()
    for row in rows:
        assert len(row["targets"]) <= 5
        assert row["targets"][-1] == 1
