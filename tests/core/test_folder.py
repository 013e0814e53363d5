"""The folder protocol: claimed once, resumed by the same, refused to others, never half-written."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.core.folder import OutputFolder, as_json, differences
from p5jax.core.lock import LOCK

KIND = OutputFolder("study", "study.json", 3, "p5jax ppr study", begun=("words",))
MADE_FROM = {"data": "abc", "settings": {"seeds": 5, "widths": (8, 16)}, "path": "/a"}


def files(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_new_folder_is_claimed_and_the_same_call_resumes_it(tmp_path):
    folder = tmp_path / "a" / "b"
    assert KIND.claim(folder, MADE_FROM) is None
    assert [p.name for p in folder.iterdir()] == [LOCK]
    KIND.write(folder, MADE_FROM)
    assert sorted(p.name for p in folder.iterdir()) == [LOCK, "study.json"]
    there = KIND.claim(folder, MADE_FROM)
    assert there == KIND.read(folder)
    assert there == {"format_version": 3, **as_json(MADE_FROM)}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"data": "abd"}, "found data = 'abc', expected 'abd'; choose another folder"),
        ({"settings": {"seeds": 4, "widths": (8, 16)}}, "found settings.seeds = 5, expected 4;"),
        ({"settings": {"seeds": 5, "widths": (8,)}}, "settings.widths = [8, 16], expected [8];"),
        ({"settings": {"seeds": 5}}, "found settings.widths = [8, 16], expected None;"),
        ({"data": 1, "settings": {"seeds": 5}, "x": 2}, "found data = 'abc', expected 1 (and 2"),
        ({"data": "long" * 99}, "...; choose another folder"),
    ],
)
def test_other_things_are_refused_with_the_first_difference(tmp_path, change, found):
    KIND.write(tmp_path, MADE_FROM)
    before = files(tmp_path)
    with pytest.raises(UserError) as caught:
        KIND.claim(tmp_path, {**MADE_FROM, **change})
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'study.json'}: found ")
    assert found in message
    assert len(message) < len(str(tmp_path)) + 300
    assert files(tmp_path) == before


def test_the_number_of_steps_is_left_to_the_training(tmp_path):
    kind = replace(KIND, steps="settings.training.steps")
    there = {"settings": {"training": {"steps": 3, "seed": 0}, "steps": 3}}
    kind.write(tmp_path, there)
    more = {"settings": {"training": {"steps": 4, "seed": 0}, "steps": 3}}
    assert kind.look(tmp_path, more) == {"format_version": 3} | there
    with pytest.raises(UserError, match=r"found settings.training.steps = 3, expected 4; choose"):
        KIND.look(tmp_path, more)
    with pytest.raises(UserError, match=r"found settings.steps = 3, expected 4; choose"):
        kind.look(tmp_path, {"settings": {"training": {"steps": 4, "seed": 0}, "steps": 4}})


def test_a_moved_folder_is_the_same(tmp_path):
    KIND.write(tmp_path, MADE_FROM)
    assert KIND.claim(tmp_path, {**MADE_FROM, "path": "/elsewhere"})


def test_what_failed_before_anything_was_kept_gives_way(tmp_path):
    KIND.write(tmp_path, MADE_FROM)
    assert KIND.claim(tmp_path, {**MADE_FROM, "data": "abd"}, started=False)["data"] == "abc"


def test_a_making_that_was_cut_short_may_be_claimed(tmp_path):
    for name in ("words", ".words.partial", "study.json.partial", ".study.json.partial"):
        (tmp_path / name).write_text("half")
    assert KIND.claim(tmp_path, MADE_FROM) is None
    assert not list(tmp_path.glob(".*.partial"))  # what a killed process was writing is removed


def test_folders_and_files_of_other_things_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match="exists and is not a study; choose another folder"):
            KIND.claim(path, MADE_FROM)
    assert files(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected what p5jax ppr study writes"),
        ("[]", "expected what p5jax ppr study writes"),
        ('{"data": 1}', "expected what p5jax ppr study writes"),
        ("\xff", "expected what p5jax ppr study writes"),
        ('{"format_version": 2}', "found format_version 2, expected 3; p5jax ppr study makes it"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_one_line(tmp_path, text, message):
    (tmp_path / "study.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as caught:
        KIND.read(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        KIND.claim(tmp_path, MADE_FROM)


def test_a_folder_that_is_none_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"not a study \(no study.json\); see p5jax ppr study"):
        KIND.read(tmp_path / "nowhere")


def test_a_kind_without_a_version_writes_none(tmp_path):
    kind = OutputFolder("ranking", "_ranking.json", 1, "p5jax rank", version_key="")
    kind.write(tmp_path, {"k": 10})
    assert json.loads((tmp_path / "_ranking.json").read_text()) == {"k": 10}
    assert kind.read(tmp_path) == {"k": 10}


VALUES = st.recursive(
    st.integers() | st.text() | st.none() | st.booleans(),
    lambda inner: st.dictionaries(st.text(min_size=1), inner) | st.lists(inner),
)
KEYS = st.text(min_size=1).filter(lambda key: key not in ("path", "relative"))


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(KEYS, VALUES), KEYS, st.integers())
def test_there_is_a_difference_exactly_where_one_value_is_another(tree, key, value):
    assert not list(differences(as_json(tree), tree))
    found = [name for name, *_ in differences(as_json(tree), {**tree, key: value})]
    assert found == ([] if tree.get(key) == value else [key])
