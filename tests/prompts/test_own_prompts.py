"""p5jax's own prompts of the direct and rating families, and prompts that say titles."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from family_world import AMAZON, Thirds, epoch, parse, write_world

from p5jax.core.errors import UserError
from p5jax.prompts.families import FamilyConfig, make_families
from p5jax.prompts.template_files import own_templates

OWN = own_templates()


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("own") / "dataset")


def own(dataset, name, *ids, **config):
    templates = {id: OWN[id] for id in ids}
    return make_families(dataset, templates, Thirds(), FamilyConfig(**config))[name]


def items_of(dataset, text):
    numbers = {id: item for item, id in enumerate(dataset.item_ids)}
    return [numbers[id] for id in text.replace("->", ",").split() if id != ","]


def test_direct_prompts_tell_what_came_before_the_item(gaps):
    family = own(gaps, "direct", "D-1", "D-2", num_candidates=10, repeat=1)
    asked, answers = Counter(), Counter()
    for example in epoch(family):
        training = gaps.sequence(example.user)[:-2].tolist()
        if example.prompt_id == "D-1":
            said = parse(OWN["D-1"], example.inputs)
            history = items_of(gaps, said["hist"])
        else:
            assert example.inputs == OWN["D-2"].inputs
            *history, item = items_of(gaps, example.given)
        assert history == training[: len(history)]
        assert history or len(training) == 1
        if example.prompt_id == "D-1":
            assert example.item == training[len(history)]
            assert items_of(gaps, said["cand"]) == example.candidates.tolist()
            assert set(example.candidates) & set(training) == {example.item}
            assert items_of(gaps, example.given) == history[-1:]
            assert items_of(gaps, example.targets) == [*history[-1:], example.item]
        else:
            assert item == example.item
            known = example.item in training
            assert example.targets == f"{example.given} {'yes' if known else 'no'}"
            if known:
                assert example.item == training[len(history)]
            answers[example.answer] += 1
        asked[example.prompt_id] += 1
    assert abs(asked["D-1"] - asked["D-2"]) < 0.2 * family.size("train")
    assert abs(answers["yes"] - answers["no"]) < 0.3 * asked["D-2"]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_direct_prompts_are_evaluated_with_the_whole_history(gaps, split):
    family = own(gaps, "direct", "D-1", "D-2", num_candidates=10)
    p5 = make_families(gaps, AMAZON, Thirds(), FamilyConfig(num_candidates=10))["direct"]
    for index, user in enumerate(family.users(split).tolist()):
        history, target = gaps.history(user, split).tolist(), gaps.target(user, split)
        for id in ("D-1", "D-2"):
            example = family.example(split, index, prompt_id=id)
            said = parse(OWN[id], example.inputs)["hist"] if id == "D-1" else example.given
            assert items_of(gaps, said) == (history if id == "D-1" else [*history, target])
            assert example.item == target
            theirs = p5.example(split, index, prompt_id="5-5").candidates
            assert example.candidates.tolist() == theirs.tolist()
        other = int(example.candidates[example.candidates != target][0])
        about = family.candidate_example(split, index, "D-2", other)
        assert items_of(gaps, about.given) == [*history, other]
        assert about.targets == f"{about.given} no"


def test_rating_prompts_tell_the_other_training_stars_of_user_and_item(gaps):
    family = own(gaps, "rating", "R-1", max_source=10_000)
    rows = [row for row in gaps.interactions.to_pylist() if row["rating"] is not None]
    trained = sorted((r for r in rows if r["split"] == 0), key=lambda row: row["timestamp"])

    def newest(column, value, pair):
        stars = [
            str(int(row["rating"] + 0.5))
            for row in trained
            if row[column] == value and (row["user"], row["item"]) != pair
        ]
        return " ".join(stars[::-1][:10]) or "none"

    longest = 0
    examples = [*epoch(family), *(family.example("test", i) for i in range(family.size("test")))]
    for example in examples:
        pair = example.user, example.item
        said = parse(OWN["R-1"], example.inputs)
        assert said["gave"] == newest("user", example.user, pair)
        assert said["got"] == newest("item", example.item, pair)
        longest = max(longest, len(said["gave"].split()))
    assert longest == 10
    assert {"none"} < {parse(OWN["R-1"], e.inputs)["got"] for e in examples}


def test_too_many_stars_lose_the_oldest(gaps):
    whole, short = (own(gaps, "rating", "R-1", max_source=size) for size in (10_000, 22))
    lengths = set()
    for told, cut in zip(epoch(whole), epoch(short), strict=True):
        assert len(Thirds().encode(cut.inputs)) < 22
        for name in ("gave", "got"):
            every, kept = (parse(OWN["R-1"], e.inputs)[name].split() for e in (told, cut))
            assert kept == every[: len(kept)]
            lengths.add(len(every) - len(kept))
    assert len(lengths) > 1


def test_a_dataset_without_titles_has_no_prompts_that_say_them(gaps):
    tables = {name: getattr(gaps, name) for name in ("users", "interactions", "reviews")}
    blank = pa.array([" " if item % 2 else None for item in range(gaps.num_items)], pa.string())
    place = gaps.items.column_names.index("title")
    tables["items"] = gaps.items.set_column(place, "title", blank)
    untitled = type(gaps)(gaps.path, gaps.manifest, tables)
    families = make_families(untitled, AMAZON, Thirds(), FamilyConfig())
    titled = {id for id, template in AMAZON.items() if "title" in template.fields}
    for name, family in families.items():
        drawn = {example.prompt_id for number in range(3) for example in epoch(family, number)}
        seen = {id for id, t in AMAZON.items() if t.family == name and t.seen}
        assert drawn == seen - titled
        for id in family.templates:
            sizes = [family.size(split, id) for split in ("validation", "test")]
            assert all(sizes) == (id not in titled)
    only = {id: AMAZON[id] for id in ("5-3", "5-4")}
    with pytest.raises(UserError, match=r"direct asked for, but all its prompts say titles"):
        make_families(untitled, only, Thirds(), FamilyConfig(), ("direct",))
