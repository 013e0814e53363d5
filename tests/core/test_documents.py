"""Documents that are damaged, endless or something else: one line, and no memory or time."""

from __future__ import annotations

import json

import pytest

from p5jax.core import documents
from p5jax.core.documents import parse_json, read_json, read_json_lines, read_toml
from p5jax.core.errors import UserError


def one_line(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[" * 100_000, "values within values without end"),
        (b'{"a":' * 100_000, "values within values without end"),
        (b"[" * 60 + b"]" * 60, "values within values, more than 50 levels deep"),
        (b"9" * 5000, "Exceeds the limit"),
        (b"NaN", "the number NaN, which JSON does not have"),
        (b'{"a": -Infinity}', "the number -Infinity, which JSON does not have"),
        (b'{"a": 1, "a": 2}', "key 'a' twice"),
        (b"\xff\xfe{}", "can't decode byte 0xff"),
        (b'{"a": "\x00"}', "Invalid control character"),
        (b"{} {}", "Extra data"),
    ],
)
def test_a_document_that_is_none(tmp_path, content, found):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    message = one_line(read_json, file, dict, "a thing")
    assert message.startswith(f"{file}: found ")
    assert found in message
    assert message.endswith("expected a thing")


def test_a_document_of_another_kind(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("[]")
    assert one_line(read_json, file, dict[str, int], "a thing").endswith(
        "found [], expected a thing"
    )
    file.write_text('{"a": "\\ud800"}')
    assert "a: found '\\ud800', expected text" in one_line(read_json, file, dict[str, str], "x")
    file.write_text('{"a": 1e999}')
    assert "a: found inf, expected a number" in one_line(read_json, file, dict[str, float], "x")


def test_absent_folders_and_large_files(tmp_path):
    assert "No such file" in one_line(read_json, tmp_path / "no", dict, "a thing")
    assert "Is a directory" in one_line(read_json, tmp_path, dict, "a thing")
    assert "null" in one_line(read_json, f"{tmp_path}/a\0b", dict, "a thing")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 33)
    assert "more than 67108864 bytes" in one_line(read_json, tmp_path / "large", dict, "a thing")


def test_a_sound_document_is_what_json_says(tmp_path):
    value = {"a": [1, 2.5, None, True, "é\U0001f600"], "b": {"c": -(2**62)}}
    file = tmp_path / "a.json"
    for encoding in ("utf-8", "utf-8-sig"):
        file.write_text(json.dumps(value, ensure_ascii=False), encoding=encoding)
        assert read_json(file, dict[str, object], "a thing") == value


def test_lines(tmp_path):
    file = tmp_path / "a.jsonl"
    assert read_json_lines(file, dict[str, int], "a record") == []
    file.write_text('{"a": 1}\n{"a": 2}\n{"a": 3')  # a kill cut the last one
    assert read_json_lines(file, dict[str, int], "a record") == [{"a": 1}, {"a": 2}]
    file.write_text('{"a": 1}\n{"a": 2}')  # only its end is missing
    assert read_json_lines(file, dict[str, int], "a record") == [{"a": 1}, {"a": 2}]
    file.write_text('{"a": 1}\n-5.4')
    assert f"{file}:2: found -5.4, expected" in one_line(read_json_lines, file, dict, "a record")
    file.write_text('{"a": 1}\n\0\0\0\n{"a": 3}\n')
    assert f"{file}:2: found Expecting" in one_line(read_json_lines, file, dict, "a record")
    file.write_text('{"a": 1}\n{"a": "x"}\n')
    assert f"{file}:2: a: found 'x'" in one_line(read_json_lines, file, dict[str, int], "a record")
    file.write_bytes(b'{"a": 1}\n{"\xc3')  # cut within a character
    assert read_json_lines(file, dict[str, int], "a record") == [{"a": 1}]
    for wrong in (b'{"a": 1}\n{"\xff": 2}\n', b'{"a": 1}\n\x1f\x8b\x08 a gzip file'):
        file.write_bytes(wrong)
        assert f"{file}:2: found 'utf-8' codec" in one_line(read_json_lines, file, dict, "a thing")


def test_a_limit_is_on_a_line_and_not_on_all_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LARGEST", 20)
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n' * 50)
    assert read_json_lines(file, dict[str, int], "a record") == [{"a": 1}] * 50
    file.write_text('{"a": 1}\n{"a": ' + " " * 20 + "1}\n")
    assert f"{file}:2: found more than 20 bytes" in one_line(read_json_lines, file, dict, "a thing")


@pytest.mark.parametrize("text", ["[" * 9000, '{"a":' * 9000, "9" * 5000, "{'a': 1}"])
def test_a_line_of_raw_data_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=" + "[" * 3000, "values within values without end"),
        ("a = " + "9" * 5000, "Exceeds the limit"),
        ("a = ", "Invalid value"),
        ("a = 1\na = 2", "Cannot overwrite"),
        ('a = "\\ud800"', "not a Unicode scalar value"),
        ("a." * 60 + "a = 1", "more than 50 levels deep"),
    ],
)
def test_toml_that_is_none(tmp_path, text, found):
    file = tmp_path / "a.toml"
    file.write_text(text)
    assert found in one_line(read_toml, file, "a thing")
