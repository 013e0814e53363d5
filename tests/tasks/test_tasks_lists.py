"""Tasks whose answers list items: the native pipeline's tokens, and the item that is judged."""

from __future__ import annotations

import pytest
from native_stream import check_rows

from p5jax.pipeline.config import PipelineConfig
from p5jax.prompts.families import FamilyConfig, make_families
from p5jax.prompts.template_files import chosen_templates

pytestmark = pytest.mark.extras
seqio = pytest.importorskip("seqio", reason="needs seqio (make test-extras)")

import p5jax.tasks  # noqa: E402
from p5jax.tasks.postprocessing import answer  # noqa: E402

PROMPTS = ("L-1", "H-1", "2-7")
CONFIG = FamilyConfig(
    max_source=200, max_history=4, num_candidates=20, prefixes=True, repeat=2, horizon=3
)
LENGTHS = {"inputs": 200, "targets": 64}
PIPELINE = PipelineConfig(source_lengths=(200,), target_lengths=(64,))


@pytest.fixture(scope="module")
def lists(world, vocabulary_folder):
    options = {"config": CONFIG, "epochs": 1, "seed": 7, "name": "lists", "prompts": PROMPTS}
    return p5jax.tasks.register(world.path, vocabulary_folder, **options)


@pytest.mark.parametrize("split", ["train", "test"])
def test_lists_are_the_native_streams(lists, world, world_vocabulary, split):
    templates = chosen_templates("amazon", PROMPTS)
    family = make_families(world, templates, world_vocabulary, CONFIG)["sequential"]
    task, size = seqio.get_mixture_or_task(f"{lists}_sequential"), family.size(split)
    rows = task.get_dataset(LENGTHS, split, shuffle=False).as_numpy_iterator()
    assert check_rows(rows, range(size), family, split, world_vocabulary, PIPELINE) == size


def test_the_item_that_follows_what_is_given_is_judged(lists, world):
    task = seqio.get_mixture_or_task(f"{lists}_sequential_H_1")
    rows = list(task.get_dataset(LENGTHS, "test", shuffle=False).as_numpy_iterator())
    for row in rows[:20]:
        held_out = world.item_ids[world.target(int(row["user"]), "test")]
        assert answer("", row, True) == {"kind": "catalogue", "answer": held_out}
        whole, given = row["targets_pretokenized"].decode(), row["given"].decode()
        assert len(given.split(",")) == 3  # two items, each with its comma
        assert answer(whole, row, False) == held_out
        assert answer([whole, f"{given} 7 , 8 ,", given], row, False) == [held_out, "7", ""]


def test_the_word_behind_what_the_decoder_is_told_is_judged():
    row = {"kind": b"yes_no", "answer": b"yes", "given": b"7 , 8 ,"}
    row["targets_pretokenized"] = b"7 , 8 , yes"
    assert answer("", row, True) == {"kind": "yes_no", "answer": "yes"}
    assert answer(["7 , 8 , yes", " 7 , 8 , no ", "7 , 8 ,"], row, False) == ["yes", "no", ""]
    row |= {"given": b"", "targets_pretokenized": b"yes"}
    assert answer(" no", row, False) == "no"


def test_the_sentence_behind_the_feature_that_is_named_is_judged():
    row = {"kind": b"text", "answer": b"It is loud .", "given": b"sound :"}
    row["targets_pretokenized"] = b"sound : It is loud ."
    assert answer("", row, True) == {"kind": "text", "answer": "It is loud ."}
    assert answer(["sound : So so .", " Good . "], row, False) == ["So so .", "Good ."]
