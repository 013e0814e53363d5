"""The audit reports leaks, counts and baselines, of a sound dataset and of damaged ones."""

from __future__ import annotations

import json

import pytest
from damaged_world import DAMAGES, USERS, sound

from p5jax.data.dataset import TEST, TRAIN, Dataset
from p5jax.data.held_out import with_other_held_out
from p5jax.data.leaks import find_leaks
from p5jax.data.schemes import SCHEMES
from p5jax.evaluation.audit import audit, format_audit
from p5jax.evaluation.baselines.ranking import BASELINES
from p5jax.evaluation.fitted import FITTED, find_fitted_leaks


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_sound_dataset_has_no_leaks(tmp_path, scheme):
    result = audit(sound(scheme).write(tmp_path / "d"))
    assert result["leaks"] == []
    assert result["item_ids"] == {"scheme": scheme, "leaky": scheme == "released"}
    assert result["n"] == USERS
    assert set(result["baselines"]) == set(BASELINES)
    numeric = not SCHEMES[scheme].in_tokens
    assert (result["baselines"]["id_arithmetic"] is not None) == numeric
    for table in result["baselines"].values():
        assert table is None or {"HR@5", "NDCG@5", "HR@10", "NDCG@10"} <= set(table)
    assert json.loads(json.dumps(result)) == result
    counts = result["counts"]
    assert counts["interactions_test"] == counts["interactions_validation"] == USERS
    assert counts["interactions"] == counts["interactions_train"] + 2 * USERS
    text = format_audit(result)
    assert "leaks: none" in text
    assert ("not leaky" in text) == (scheme != "released")


def test_a_prepared_world_has_no_leaks(world):
    assert audit(world)["leaks"] == []


@pytest.mark.parametrize("damage", [damage for damage, _ in DAMAGES], ids=lambda d: d.__name__)
def test_damage_is_reported(tmp_path, damage):
    parts = sound()
    damage(parts)
    dataset = parts.write(tmp_path / "d")
    result = audit(dataset)
    assert result["leaks"] == find_leaks(dataset) != []
    assert f"leaks: {len(result['leaks'])}" in format_audit(result)
    json.dumps(result)


def test_three_interactions_per_user_rank_nothing_in_training(tmp_path):
    """A user with one training item has none to rank; a mean of nothing is no JSON."""
    parts = sound("random")
    for name in ("interactions", "reviews"):
        users = parts.tables[name]["user"]
        for row in reversed(range(len(users))):
            if parts.tables[name]["split"][row] == TRAIN and users[:row].count(users[row]):
                parts.remove(name, row)
    result = audit(parts.write(tmp_path / "d"))
    assert result["baselines"]["id_arithmetic"] is not None
    assert result["information"]["id_arithmetic_in_training"] is None
    json.dumps(result, allow_nan=False)
    (line,) = [line for line in format_audit(result).splitlines() if "in training " in line]
    assert line.split() == ["in", "training", *"----"]


def test_repeated_words_are_information(tmp_path):
    parts = sound()
    reviews = parts.tables["reviews"]
    reviews["headline"][parts.find("reviews", TEST)] = reviews["headline"][0]
    result = audit(parts.write(tmp_path / "d"))
    assert result["leaks"] == []
    repeated = result["information"]["held_out_reviews_repeating_a_training_review"]
    assert repeated == {"headline": 1, "text": 0}
    assert "1 headlines, 0 texts" in format_audit(result)


READS = {
    "item": lambda dataset: [dataset.sequence(user)[-1] for user in range(dataset.num_users)],
    "rating": lambda dataset: [dataset.interactions["rating"].to_numpy().mean()],
    "time": lambda dataset: [dataset.interactions["timestamp"].to_numpy().max()],
    "headline": lambda dataset: dataset.reviews["headline"].to_pylist(),
    "text": lambda dataset: dataset.reviews["text"].to_pylist(),
    "feature": lambda dataset: dataset.reviews["feature"].to_pylist(),
    "sentence": lambda dataset: dataset.reviews["sentence"].to_pylist(),
}


def test_what_reads_a_held_out_field_is_a_leak(world, monkeypatch):
    for name, reads in READS.items():
        monkeypatch.setitem(FITTED, name, reads)
    leaks = audit(world)["leaks"]
    assert [leak.split(":")[0] for leak in leaks] == list(READS)


def test_negatives_that_know_the_held_out_items_are_a_leak(world, monkeypatch):
    """In P5's published sampling an item that is never a negative is a held-out one."""
    monkeypatch.setattr(Dataset, "history", lambda self, user, split: self.sequence(user))
    (leak,) = find_fitted_leaks(world, with_other_held_out(world))
    assert leak.startswith("training prompts: ")
