"""The families' held-out examples: every record, frozen draws, shared candidate lists."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from family_world import AMAZON, ITEMS, USERS, Reading, Thirds, parse, write_world

from p5jax.core.errors import UserError
from p5jax.prompts.families import FamilyConfig, UserFamily, make_families
from p5jax.prompts.template_files import chosen_templates


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("gaps") / "dataset")


@pytest.fixture(scope="module")
def families(gaps):
    return make_families(gaps, AMAZON, Thirds(), FamilyConfig())


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_targets_are_whole_stars_of_every_held_out_record(gaps, families, split):
    number = {"validation": 1, "test": 2}[split]
    rows = [row for row in gaps.reviews.to_pylist() if row["split"] == number]
    rated = [
        row
        for row in gaps.interactions.to_pylist()
        if row["split"] == number and row["rating"] is not None
    ]
    both = [row for row in rows if row["sentence"] and row["rating"] is not None]
    expected = {
        "1-1": {(r["user"], r["item"]): str(int(r["rating"])) for r in rated},
        "1-10": {(r["user"], r["item"]): str(int(r["rating"])) for r in rated},
        "Z-1": {(r["user"], r["item"]): ["dislike", "like"][r["rating"] >= 4] for r in rated},
        "3-1": {(r["user"], r["item"]): r["sentence"] for r in rows if r["sentence"]},
        "3-8": {(r["user"], r["item"]): f"{int(r['rating'])} , {r['sentence']}" for r in both},
        "3-9": {(r["user"], r["item"]): r["sentence"] for r in rows if r["feature"]},
        "4-1": {(r["user"], r["item"]): r["headline"] for r in rows if r["text"] and r["headline"]},
        "4-4": {
            (r["user"], r["item"]): str(int(r["rating"]))
            for r in rows
            if r["text"] and r["rating"] is not None
        },
        "2-13": {(u, gaps.target(u, split)): None for u in range(USERS)},
        "5-8": {(u, gaps.target(u, split)): None for u in range(USERS)},
    }
    for id, answers in expected.items():
        family = families[AMAZON[id].family]
        examples = [
            family.example(split, index, None, id) for index in range(family.size(split, id))
        ]
        assert {(e.user, e.item) for e in examples} == set(answers)
        assert len(examples) == len(answers)
        for e in examples:
            assert e.prompt_id == id
            assert e.targets == (answers[e.user, e.item] or gaps.item_ids[e.item])


def test_evaluation_is_frozen_whatever_the_rng(families):
    for name, family in families.items():
        for id in (None, *(id for id, t in AMAZON.items() if t.family == name)):
            for index in range(min(5, family.size("test", id))):
                first = family.example("test", index, None, id)
                second = family.example("test", index, np.random.default_rng(1), id)
                assert (first.inputs, first.targets) == (second.inputs, second.targets)
                assert " -> " not in first.inputs


def test_candidates_are_the_same_for_every_prompt_and_family(gaps, families):
    moved = make_families(gaps, AMAZON, Thirds(), FamilyConfig(evaluation_seed=1))
    differ = 0
    for user in range(USERS):
        frozen = families["direct"].example("test", user, None, "5-1").candidates
        assert frozen.shape == (100,)
        assert len(set(frozen.tolist())) == 100
        assert set(frozen.tolist()) & set(gaps.sequence(user).tolist()) == {
            gaps.target(user, "test")
        }
        for id in ("5-2", "5-5", "5-8", "2-7", "2-11"):
            family = families[AMAZON[id].family]
            example = family.example("test", user, None, id)
            assert example.candidates.tolist() == frozen.tolist()
            if "cand" in AMAZON[id].fields:
                said = parse(AMAZON[id], example.inputs)["cand"].split(" , ")
                assert said == [gaps.item_ids[item] for item in frozen]
        validation = families["direct"].example("validation", user, None, "5-5").candidates
        assert gaps.target(user, "test") not in validation.tolist()
        other = moved["direct"].example("test", user, None, "5-5").candidates
        differ += other.tolist() != frozen.tolist()
    assert differ == USERS


def test_candidate_examples_ask_about_any_item(gaps, families):
    direct = families["direct"]
    assert isinstance(direct, UserFamily)
    true = gaps.target(4, "test")
    for item in (true, (true + 1) % ITEMS):
        example = direct.candidate_example("test", 4, "5-2", item)
        assert example.inputs.startswith(f"Is item_{gaps.item_ids[item]} ")
        assert (example.user, example.item) == (4, item)
        assert example.targets == example.answer == ("yes" if item == true else "no")
    with pytest.raises(UserError, match="'5-5' does not ask about one item"):
        direct.candidate_example("test", 4, "5-5", true)
    asked = families["sequential"].candidate_example("validation", 4, "2-11", true)
    shown = parse(AMAZON["2-11"], asked.inputs)
    assert shown["item"] == gaps.item_ids[true]
    assert shown["hist"].split(" , ") == [gaps.item_ids[i] for i in gaps.sequence(4)[:-2]]


def test_history_caps_drop_the_oldest(gaps):
    # user 0 has 60 interactions: 58 known ones do not fit 64 pieces of Thirds
    plain = {id: t for id, t in AMAZON.items() if "cand" not in t.fields}
    config = FamilyConfig(max_source=64)
    families = make_families(gaps, plain, Thirds(), config, names=["sequential"])
    example = families["sequential"].example("validation", 0, None, "2-3")
    shown = Reading(gaps, AMAZON["2-3"], example).history
    assert shown == gaps.sequence(0)[:-2].tolist()[-len(shown) :]
    assert len(Thirds().encode(example.inputs)) + 1 <= 64
    longer = example.inputs.replace(" : ", f" : {gaps.item_ids[0]} , ")
    assert len(Thirds().encode(longer)) + 1 > 64
    families = make_families(gaps, AMAZON, Thirds(), FamilyConfig(max_history=3))
    example = families["sequential"].example("test", 0, None, "2-3")
    assert Reading(gaps, AMAZON["2-3"], example).history == gaps.sequence(0)[-4:-1].tolist()


def test_unknown_prompts_name_the_nearest(families):
    with pytest.raises(UserError, match=r"'2-33' is not a sequential prompt; did you mean 2-3"):
        families["sequential"].example("test", 0, None, "2-33")
    with pytest.raises(UserError, match="'1-1' is not a direct prompt"):
        families["direct"].size("test", "1-1")
    with pytest.raises(UserError, match="'5-88' is not in amazon; did you mean 5-8"):
        chosen_templates("amazon", ["2-3", "5-88"])
    assert list(chosen_templates("amazon", ["5-8", "2-3", "L-1"])) == ["L-1", "2-3", "5-8"]


def test_a_small_catalogue_shortens_all_candidate_lists_alike(world, world_vocabulary):
    families = make_families(world, AMAZON, world_vocabulary, FamilyConfig())
    lengths = {
        len(families["direct"].example("test", user, None, "5-5").candidates)
        for user in range(world.num_users)
    }
    longest = max(b - a for a, b in pairwise(world.offsets.tolist()))
    assert lengths == {min(100, world.num_items - longest + 1)}
