"""Answers that list items, prefixes and horizons, against the dataset's own sequences."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from family_world import Thirds, write_world

from p5jax.core.errors import UserError
from p5jax.prompts.families import FamilyConfig, example_rng, make_families
from p5jax.prompts.template import PromptTemplate
from p5jax.prompts.template_files import chosen_templates

PROMPTS = ("L-1", "H-1", "2-12", "2-7")


class Words:
    """A vocabulary in which each word is a token of its own."""

    def __init__(self):
        self.numbers = {}

    def encode(self, text):
        return [self.numbers.setdefault(word, len(self.numbers) + 3) for word in text.split()]


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("lists") / "dataset")


def sequential(dataset, vocabulary=None, **config):
    templates = chosen_templates("amazon", PROMPTS)
    made = make_families(dataset, templates, vocabulary or Words(), FamilyConfig(**config))
    return made["sequential"]


def ids(dataset, items):
    return [dataset.item_ids[item] for item in items]


def test_a_list_is_the_training_sequence_and_then_goes_on_from_the_known_history(gaps):
    family = sequential(gaps, max_history=5)
    seen = set()
    for index in range(family.size("train")):
        example = family.example("train", index, example_rng(0, 0, "sequential", index), "L-1")
        bought = gaps.sequence(example.user)[:-2][-5:]
        assert example.targets.split() == ids(gaps, bought)
        assert (example.given, example.listed) == ("", len(bought))
        seen.add(example.user)
    assert seen == {u for u in range(gaps.num_users) if len(gaps.sequence(u)) >= 4}
    for split in ("validation", "test"):
        for index, user in enumerate(family.users(split).tolist()):
            example = family.example(split, index, prompt_id="L-1")
            known = gaps.history(user, split)[-5:]
            assert example.given.split() == ids(gaps, known)
            target = gaps.target(user, split)
            assert example.targets.split() == ids(gaps, [*known, target])
            assert (example.item, example.listed, example.answer) == (target, 1, None)


def test_ids_that_begin_others_end_with_a_comma(gaps):
    family = sequential(gaps, Thirds())  # to it all ids of four digits are the same two pieces
    example = family.example("test", 0, prompt_id="L-1")
    items = [*gaps.history(example.user, "test"), example.item]
    assert example.targets == " ".join(f"{id} ," for id in ids(gaps, items))
    assert example.targets.startswith(f"{example.given} ")
    assert family.source.ended_ids == [f"{id} ," for id in gaps.item_ids]


def test_an_epoch_of_prefixes_holds_every_training_interaction_but_the_first_once(gaps):
    family = sequential(gaps, prefixes=True)
    pairs = Counter()
    for index, owner in enumerate(family.users("train").tolist()):
        example = family.example("train", index, example_rng(1, 0, "sequential", index), "H-1")
        assert example.user == owner
        place = gaps.sequence(owner).tolist().index(example.item)
        separator = " -> " if "->" in example.inputs else " , "
        assert example.inputs.split(separator) == ids(gaps, gaps.sequence(owner)[:place])
        pairs[owner, example.item] += 1
    expected = Counter(
        (user, item)
        for user in range(gaps.num_users)
        for item in gaps.sequence(user)[1:-2].tolist()
    )
    assert pairs == expected


@pytest.mark.parametrize(("repeat", "horizon"), [(1, 1), (0, 3), (2, 3)])
def test_answers_repeat_the_last_items_and_look_ahead_within_training(gaps, repeat, horizon):
    family = sequential(gaps, prefixes=True, repeat=repeat, horizon=horizon)
    for index in range(family.size("train")):
        example = family.example("train", index, example_rng(1, 0, "sequential", index), "H-1")
        training = gaps.sequence(example.user)[:-2].tolist()
        place = training.index(example.item)
        following = training[place : place + horizon]
        given = training[max(0, place - repeat) : place]
        assert example.given.split() == ids(gaps, given)
        assert example.targets.split() == ids(gaps, given + following)
        assert example.listed == len(following)
    for index, user in enumerate(family.users("test").tolist()):
        example = family.example("test", index, prompt_id="H-1")
        last = gaps.history(user, "test")[-repeat:].tolist() if repeat else []
        assert example.targets.split() == ids(gaps, [*last, gaps.target(user, "test")])


def test_what_a_recommender_asks_is_what_an_evaluation_asks(gaps):
    family = sequential(gaps, repeat=2, max_history=4)
    for index in range(family.size("test")):
        for prompt in ("L-1", "H-1", "2-7"):
            example = family.example("test", index, prompt_id=prompt)
            history = gaps.history(example.user, "test")
            if prompt != "2-7":  # which lists candidates, or asks about one item
                asked = family.inputs_for(prompt, "item", example.user, history=history)
                assert asked == example.inputs
            assert family.given(prompt, history) == example.given


def test_other_answers_are_as_they_were(gaps):
    plain, listing = sequential(gaps), sequential(gaps, repeat=1, horizon=4)
    for index in range(plain.size("test")):
        for prompt in ("2-12",):
            one = plain.example("test", index, prompt_id=prompt)
            two = listing.example("test", index, prompt_id=prompt)
            assert (one.inputs, one.targets, two.given, two.listed) == (
                *(two.inputs, two.targets, "", 0),
            )
    assert np.array_equal(plain.users("train"), listing.users("train"))


@pytest.mark.parametrize(
    ("inputs", "targets", "problem"),
    [
        ("{uid} bought {hist} and then", "{list}", "found {hist} in inputs, which gives {list}"),
        ("{uid} picks from {cand} :", "{list}", "found {cand} in inputs, which gives {list}"),
        ("{uid} buys", "first {list}", "found {list} within 'first {list}', expected it alone"),
    ],
)
def test_prompts_that_give_a_list_away_are_refused(inputs, targets, problem):
    with pytest.raises(UserError) as caught:
        PromptTemplate("9-9", "sequential", inputs, targets)
    assert problem in str(caught.value)
