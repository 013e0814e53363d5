"""Texts in a temporary file: what is appended comes back, in any order and in any parts."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5jax.data.readers import texts as module
from p5jax.data.readers.texts import SCHEMA, OrderedTexts, Texts

text = st.none() | st.text(alphabet="aé\n 🎻", max_size=5)


@st.composite
def stored(draw) -> tuple[list[dict], Texts, np.ndarray]:
    """Rows, the texts of them in batches of any size, and some rows in any order."""
    rows = draw(st.lists(st.fixed_dictionaries({"headline": text, "text": text}), max_size=12))
    texts = Texts(draw(st.sampled_from([0, 1e-8, 2])))  # some, none or all of them are in a file
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        for batch in pa.Table.from_pylist(rows[start:stop], SCHEMA).to_batches():
            texts.append(batch)
    order = draw(st.permutations(range(len(rows))))
    return rows, texts, np.array(order[: draw(st.integers(0, len(rows)))], np.int64)


@given(stored())
@settings(max_examples=50, deadline=None)
def test_rows_come_back_in_the_order_asked_for(given):
    rows, texts, chosen = given
    assert len(texts) == len(rows)
    assert texts.take(chosen).to_pylist() == [rows[row] for row in chosen]
    assert texts.written.tolist() == [row != {"headline": None, "text": None} for row in rows]


@given(stored(), st.data())
@settings(max_examples=50, deadline=None)
def test_parts_are_the_rows_in_their_new_order(given, data):
    rows, texts, chosen = given
    ends = sorted(data.draw(st.lists(st.integers(0, len(chosen)), max_size=3)))
    parts = OrderedTexts(texts, chosen, [*ends, len(chosen)])
    assert parts.ends == ([len(chosen)] if texts.all_in_memory else [*ends, len(chosen)])
    bounds = [*itertools.pairwise([0, *parts.ends])]
    sizes = [stop - start for start, stop in bounds]
    found = [parts.part(n).take(np.arange(size)).to_pylist() for n, size in enumerate(sizes)]
    assert found == [[rows[row] for row in chosen[start:stop]] for start, stop in bounds]


@pytest.mark.parametrize("memory", [0, 2])
def test_a_table_comes_back_from_memory_and_from_a_file(memory, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    table = pa.table({"headline": [None] * 10, "text": [*map(str, range(9)), None]}, SCHEMA)
    texts = Texts.of(table, memory)
    assert texts.all_in_memory == bool(memory)
    assert texts.take(np.arange(10)).equals(table)


def test_threads_may_read_while_others_append():
    texts = Texts(0)

    def there_and_back(number: int) -> list[str]:
        rows = pa.Table.from_pylist([{"headline": None, "text": f"{number}"}] * 9, SCHEMA)
        return texts.batch(texts.append(rows.to_batches()[0]))["text"].to_pylist()

    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(there_and_back, range(200))]
    assert found == [[f"{number}"] * 9 for number in range(200)]
