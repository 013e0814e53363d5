"""The families' training examples: no leak over whole epochs, P5's laws, gaps in the data."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pkgutil import resolve_name

import numpy as np
import pytest
from family_world import AMAZON, USERS, Reading, Thirds, epoch, parse, write_world
from scipy import stats

from p5jax.core.errors import UserError
from p5jax.data.dataset import Dataset
from p5jax.data.families import FAMILIES, FamilyKind, Needed
from p5jax.evaluation.prompts import default_prompts
from p5jax.evaluation.task import kind_of
from p5jax.prompts.families import FamilyConfig, example_rng, make_families
from p5jax.prompts.fields import prompt_text
from p5jax.prompts.template import PromptTemplate
from p5jax.prompts.template_files import load_templates
from p5jax.prompts.users import UserFamily


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("gaps") / "dataset")


@pytest.fixture(scope="module")
def families(gaps):
    return make_families(gaps, AMAZON, Thirds(), FamilyConfig())


def check_no_leak(dataset, families, epochs):
    splits = {
        (user, item): split
        for user, item, split in zip(
            *(dataset.interactions[c].to_pylist() for c in ("user", "item", "split")), strict=True
        )
    }
    of_user = [{} for _ in range(dataset.num_users)]
    for (user, item), split in splits.items():
        of_user[user][item] = split
    reviews = dataset.reviews.to_pylist()
    held_out_text = {
        text.strip()
        for row in reviews
        if row["split"] and splits[row["user"], row["item"]]
        for text in (row["headline"], row["sentence"])
        if text
    } - {
        text.strip()
        for row in reviews
        if not row["split"]
        for text in (row["headline"], row["sentence"])
        if text
    }
    counted = Counter()
    for family in families.values():
        for number in range(epochs):
            for example in epoch(family, number):
                template = AMAZON[example.prompt_id]
                reading = Reading(dataset, template, example)
                assert example.user in reading.users
                assert example.item in reading.items
                split = splits.get((example.user, example.item))
                # A held-out item may be a "no": training cannot know that it is one.
                assert split != 0 if reading.negative else split == 0
                for item in reading.history:
                    assert of_user[example.user][item] == 0
                assert reading.candidates == (
                    [] if example.candidates is None else example.candidates.tolist()
                )
                known = [i for i in reading.candidates if of_user[example.user].get(i) == 0]
                assert known == ([example.item] if reading.candidates else [])
                answer = example.answer if isinstance(example.answer, str) else ""
                assert answer not in held_out_text
                counted[family.name] += 1
    return counted


def test_no_held_out_pair_in_whole_epochs(gaps, families):
    counted = check_no_leak(gaps, families, epochs=4)
    assert counted["sequential"] == 4 * 20 * sum(np.diff(gaps.offsets) >= 4)
    assert counted["direct"] == 4 * 15 * USERS
    train = gaps.interactions["split"].to_numpy() == 0
    rated = ~np.isnan(gaps.interactions["rating"].to_numpy())
    assert counted["rating"] == 4 * (train & rated).sum()
    rows = [row for row in gaps.reviews.to_pylist() if row["split"] == 0]
    assert counted["explanation"] == 4 * sum(row["sentence"] is not None for row in rows)
    usable = [r for r in rows if r["text"] and (r["headline"] or r["rating"] is not None)]
    assert counted["review"] == 4 * len(usable)


def test_training_examples_do_not_depend_on_the_held_out_items(gaps, families):
    """Were held-out items kept out of the negatives, their absence there would give them away."""
    rng = np.random.default_rng(5)
    items, offsets = gaps.sequence_items.copy(), gaps.offsets
    for user in range(gaps.num_users):
        train = items[offsets[user] : offsets[user + 1] - 2]
        others = np.setdiff1d(np.arange(gaps.num_items), train)
        items[offsets[user + 1] - 2 : offsets[user + 1]] = rng.choice(others, 2, replace=False)
    assert (items != gaps.sequence_items).any()
    changed = copy.copy(gaps)
    changed.sequence_items = items
    for name, other in make_families(
        changed, AMAZON, Thirds(), FamilyConfig(), ("sequential", "direct")
    ).items():
        for ours, theirs in zip(epoch(families[name]), epoch(other), strict=True):
            assert (ours.inputs, ours.targets) == (theirs.inputs, theirs.targets)


def test_no_held_out_pair_in_the_synthetic_world(world, world_vocabulary):
    families = make_families(world, AMAZON, world_vocabulary, FamilyConfig())
    assert tuple(families) == tuple(FAMILIES)
    config = FamilyConfig()
    counted = check_no_leak(world, families, epochs=1)
    assert counted["direct"] == config.direct_per_user * world.num_users
    for family in families.values():
        for example in epoch(family, 1, count=300):
            assert len(world_vocabulary.encode(example.inputs)) + 1 <= config.max_source


def test_same_index_epoch_and_seed_give_the_same_example(gaps, families):
    again = make_families(gaps, load_templates("amazon"), Thirds(), FamilyConfig())
    for name, family in families.items():
        first = list(epoch(family, 3, seed=5, count=60))
        second = list(reversed([again[name].example("train", i, example_rng(5, 3, name, i))
                                for i in reversed(range(60))]))  # fmt: skip
        for a, b in zip(first, second, strict=True):
            assert (a.inputs, a.targets, a.prompt_id) == (b.inputs, b.targets, b.prompt_id)
        other = list(epoch(family, 4, seed=5, count=60))
        assert [a.inputs for a in first] != [b.inputs for b in other]


def test_sequential_prompts_show_the_window(gaps, families):
    sequences = [gaps.sequence(user).tolist() for user in range(USERS)]
    separators, starts = Counter(), Counter()
    for example in epoch(families["sequential"], 2):
        template = AMAZON[example.prompt_id]
        reading = Reading(gaps, template, example)
        sequence, shown = sequences[example.user], reading.history
        start = sequence.index(shown[0])
        assert shown == sequence[start : start + len(shown)]
        if not reading.negative:
            target = start + len(shown)
            assert sequence[target] == example.item
            assert target in range(len(sequence) - 5, len(sequence) - 2)
        starts[start] += len(sequence) > 8
        hist = parse(template, example.inputs)["hist"]
        separators.update({s for s in (" , ", " -> ") if s in hist})
        assert not (" , " in hist and " -> " in hist)
    assert set(starts) == {0, 1, 2}
    assert stats.binomtest(separators[" , "], separators.total()).pvalue > 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_training_draws_all_seen_prompts_and_no_other(families, name):
    family = families[name]
    draws = Counter(e.prompt_id for number in range(3) for e in epoch(family, number))
    seen = {id for id, t in AMAZON.items() if t.family == name and t.seen}
    assert set(draws) == seen
    if name in ("rating", "sequential", "direct"):  # the others depend on what a record has
        assert stats.chisquare(list(draws.values())).pvalue > 1e-4


@pytest.mark.parametrize(("name", "ids"), [("sequential", "2-11 2-12"), ("direct", "5-1 5-4")])
def test_yes_and_no_are_equally_frequent(families, name, ids):
    family = families[name]
    answers = Counter(
        family.example("train", index, example_rng(0, 0, name, index), id).targets
        for index in range(600)
        for id in ids.split()
    )
    assert set(answers) == {"yes", "no"}
    assert stats.binomtest(answers["yes"], 1200).pvalue > 1e-4


def test_star_questions_tell_the_truth_half_of_the_time(gaps, families):
    family = families["rating"]
    truth = {(row["user"], row["item"]): row["rating"] for row in gaps.interactions.to_pylist()}
    answers = Counter()
    for index in range(family.size("train")):
        for number in range(4):
            rng = example_rng(0, number, "rating", index)
            example = family.example("train", index, rng, "1-3")
            star = int(parse(AMAZON["1-3"], example.inputs)["star"])
            right = truth[example.user, example.item] == star
            assert star in range(1, 6)
            assert example.targets == example.answer == ("yes" if right else "no")
            answers[right] += 1
    assert stats.binomtest(answers[True], answers.total()).pvalue > 1e-4


def test_targets_say_what_the_records_say(gaps, families):
    records = {(row["user"], row["item"]): row for row in gaps.interactions.to_pylist()}
    for row in gaps.reviews.to_pylist():
        records[row["user"], row["item"]] = row
    for name in ("rating", "explanation", "review"):
        for example in epoch(families[name], 1):
            row = records[example.user, example.item]
            target = AMAZON[example.prompt_id].targets
            rating, text = example.targets, row.get("sentence")
            if target == "{rating} , {explanation}":
                rating, _, rest = rating.partition(" , ")
                assert rest == example.answer == text
            elif target == "{rating}":
                assert example.answer == row["rating"]
            if "{rating}" in target and name != "review":
                assert re.fullmatch(r"[1-5]\.\d", rating)
                assert abs(float(rating) - row["rating"]) <= 1.1
            elif "{rating}" in target:
                assert rating == str(int(row["rating"]))
            elif target == "{like}":
                assert example.targets == ("like" if row["rating"] >= 4 else "dislike")
            elif target == "{explanation}":
                assert example.targets == example.answer == text
            elif target == "{headline}":
                assert example.targets == example.answer == row["headline"]


def test_missing_names_titles_brands_and_prices_have_a_word(gaps, families):
    said = {"udesc": set(), "title": set(), "brand": set(), "price": set()}
    for id in ("1-7", "Z-4"):
        for index in range(families["rating"].size("train", id)):
            rng = example_rng(0, 0, "rating", index)
            example = families["rating"].example("train", index, rng, id)
            shown = parse(AMAZON[id], example.inputs)
            name, title = gaps.user_names[example.user], gaps.titles[example.item]
            assert shown["udesc"] == name
            assert name == (f"Name {example.user}" if example.user % 3 else f"A{example.user}")
            item = example.item
            expected = f"thing {item} < c0_{item}>" if item % 7 else "unknown title"
            assert title is None or shown["title"] == expected
            for key in shown:
                said[key].add(shown[key])
    assert "unknown title" in said["title"]
    assert "unknown" in said["brand"]
    assert "unknown" in said["price"]


def test_free_text_has_no_id_tokens_and_one_line():
    assert prompt_text(" a\n<c0_3><d1_22>\tb <b> <extra ") == "a < c0_3>< d1_22> b <b> <extra"
    assert prompt_text(None) == prompt_text(" \n") == ""


def test_candidate_lists_that_do_not_fit_are_refused_at_once(gaps):
    # 100 ids of two pieces and 99 commas, instruction aside
    with pytest.raises(UserError, match=r"prompt 2-7: needs \d+ tokens, 290 are allowed"):
        make_families(gaps, AMAZON, Thirds(), FamilyConfig(max_source=290))
    plain = {id: t for id, t in AMAZON.items() if "cand" not in t.fields}
    assert len(make_families(gaps, plain, Thirds(), FamilyConfig(max_source=290))) == 5


def test_long_reviews_keep_their_instruction(gaps):
    families = make_families(gaps, AMAZON, Thirds(), FamilyConfig(max_source=48), names=["review"])
    cut = 0
    for index in range(families["review"].size("train", "4-2")):
        rng = example_rng(0, 0, "review", index)
        example = families["review"].example("train", index, rng, "4-2")
        assert len(Thirds().encode(example.inputs)) + 1 <= 48
        said = parse(AMAZON["4-2"], example.inputs)["review"]
        assert said.startswith(f"body {example.user} {example.item}")
        cut += len(said.split()) > 10
    assert cut > 20


def test_jitter_can_be_turned_off(gaps):
    families = make_families(gaps, AMAZON, Thirds(), FamilyConfig(jitter=False))
    for index in range(20):
        rng = example_rng(0, 0, "rating", index)
        assert families["rating"].example("train", index, rng, "1-1").targets in set("12345")


def test_families_without_data_are_absent(tmp_path):
    bare = write_world(tmp_path / "bare", ratings=False, texts=False)
    families = make_families(bare, AMAZON, Thirds(), FamilyConfig())
    assert list(families) == ["sequential", "direct"]
    for name, what in [("rating", "ratings"), ("review", "texts"), ("explanation", "sentences")]:
        with pytest.raises(UserError, match=f"{name} asked for, but .* has no .*{what}"):
            make_families(bare, AMAZON, Thirds(), FamilyConfig(), names=["direct", name])
    unrated = write_world(tmp_path / "unrated", ratings=False)
    families = make_families(unrated, AMAZON, Thirds(), FamilyConfig())
    assert list(families) == ["sequential", "explanation", "review", "direct"]
    drawn = {e.prompt_id for e in epoch(families["explanation"])}
    assert drawn <= {"3-1", "3-2", "3-4", "3-5", "3-9", "3-10"}
    assert {e.prompt_id for e in epoch(families["review"])} == {"4-1", "4-3"}
    plain = write_world(tmp_path / "plain", sentences=False)
    assert "explanation" not in make_families(plain, AMAZON, Thirds(), FamilyConfig())


def test_families_without_prompts_are_absent(gaps):
    only = {"1-1": PromptTemplate("1-1", "rating", "{uid} {iid}", "{rating}")}
    assert list(make_families(gaps, only, Thirds(), FamilyConfig())) == ["rating"]
    with pytest.raises(UserError, match="direct asked for, but the templates have no seen prompt"):
        make_families(gaps, only, Thirds(), FamilyConfig(), names=["direct"])
    with pytest.raises(UserError, match="found 'ratings', expected rating, sequential"):
        make_families(gaps, only, Thirds(), FamilyConfig(), names=["ratings"])


def test_families_travel_to_other_processes(families):
    for name, family in families.items():
        there = pickle.loads(pickle.dumps(family))
        a, b = (f.example("train", 7, example_rng(1, 1, name, 7)) for f in (family, there))
        assert (a.inputs, a.targets) == (b.inputs, b.targets)


class Latest(UserFamily):
    """A family of its own: the last training item of a user."""

    name = "latest"

    @staticmethod
    def training_examples(config, lengths):
        return np.where(lengths >= 3, 1, 0)

    def _draw(self, template, split, user, ordinal, rng):
        item = int(self.source.dataset.history(user, split)[-1])
        return self._example(template, user, item, self.source.fields.of(user, item), None)


def test_a_family_is_a_class_and_a_line(gaps, monkeypatch):
    kind = FamilyKind(family=f"{__name__}:Latest", targets=frozenset({"item"}), usual=("9-2",))
    monkeypatch.setitem(FAMILIES, "latest", kind)
    texts = {"9-1": "What did {udesc} take ?", "9-2": "What did {uid} take ?"}
    templates = {id: PromptTemplate(id, "latest", text, "{item}") for id, text in texts.items()}
    assert Dataset.load(gaps.path).families[-1] == "latest"
    family = make_families(gaps, templates, Thirds(), FamilyConfig())["latest"]
    assert default_prompts(family, "test") == ("9-2",)
    assert kind_of(templates["9-1"]) == "catalogue"
    example = family.example("test", 3, prompt_id="9-2")
    assert example.inputs == f"What did user_{example.user + 1} take ?"
    assert example.targets == gaps.item_ids[gaps.sequence(example.user)[-2]]
    with pytest.raises(UserError, match="found {cand} in inputs"):
        PromptTemplate("9-3", "latest", "Which of {cand} ?", "{item}")
    monkeypatch.setitem(FAMILIES, "latest", replace(kind, needs=Needed("items", "price", "prices")))
    assert "latest" in Dataset.load(gaps.path).families


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_the_table_is_the_class_of_its_name(name):
    assert resolve_name(FAMILIES[name].family).name == name


def test_the_table_of_families_is_quick_to_import():
    program = "import sys, p5jax.prompts.template; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
