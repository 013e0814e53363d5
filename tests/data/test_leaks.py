"""Every way in which a dataset can leak is found, and a sound one passes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from damaged_world import (
    DAMAGES,
    ITEMS,
    SEED,
    USERS,
    copy_test_pair_into_training_rows,
    sound,
)

from p5jax.data.dataset import TEST
from p5jax.data.item_ids import IdSource, assign_item_ids
from p5jax.data.leaks import find_leaks
from p5jax.data.schemes import SCHEMES


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_sound_dataset_has_no_leaks(tmp_path, scheme):
    assert find_leaks(sound(scheme).write(tmp_path / "d")) == []


@pytest.mark.parametrize(
    ("damage", "line"), DAMAGES, ids=lambda value: getattr(value, "__name__", "")
)
def test_damage_is_found(tmp_path, damage, line):
    parts = sound()
    assert len(parts.tables["items"]["item"]) == ITEMS
    damage(parts)
    leaks = find_leaks(parts.write(tmp_path / "d"))
    assert any(re.search(line, leak) for leak in leaks), leaks


@pytest.mark.parametrize("scheme", ["collaborative", "semantic"])
def test_ids_from_whole_sequences_are_noticed(tmp_path, scheme):
    parts = sound(scheme)
    interactions = parts.tables["interactions"]
    users, items = np.array(interactions["user"]), np.array(interactions["item"])
    whole = [items[users == user] for user in range(USERS)]
    parts.tables["items"]["item_id"] = assign_item_ids(scheme, IdSource(whole, ITEMS, SEED))
    leaks = find_leaks(parts.write(tmp_path / "d"))
    assert len(leaks) == 1
    assert f"differ from {scheme} ids" in leaks[0]


def test_the_example_of_a_leak_is_the_pair(tmp_path):
    parts = sound()
    row = parts.row("interactions", parts.find("interactions", TEST))
    copy_test_pair_into_training_rows(parts)
    leaks = find_leaks(parts.write(tmp_path / "d"))
    assert any(f"user U{row['user']}, item I{row['item']}" in leak for leak in leaks)
