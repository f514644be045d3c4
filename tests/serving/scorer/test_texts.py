"""Strings found by their bytes are worth what they are worth one by one, whatever their bytes are."""

import threading
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.scorer import texts
from serving.scorer.texts import TextMemory, Texts

# where there is a C compiler and no table, tests/serving/scorer/test_compiled.py fails
LONGEST = pytest.importorskip("serving.scorer.stringtable").LONGEST
COLUMNS = ["first", "second", "third"]


def worth(column: int, string: str) -> float:
    return zlib.crc32(string.encode()) + column / 8


class Asked:
    """Works strings out, and knows which it was asked for."""

    def __init__(self) -> None:
        self.strings: list[str] = []

    def __call__(self, column: int, strings: list[str]) -> Any:
        self.strings += strings
        return np.array([worth(column, string) for string in strings])


def look_up(
    memory: TextMemory, columns: Sequence[pa.Array], asked: Asked, known_by: Sequence[int] | None = None
) -> None:
    known_by = known_by or range(len(columns))
    found = memory.look_up(Texts.of_arrow(columns), list(known_by), asked)
    expected = [
        [worth(place, value or "") for value in column.to_pylist()]
        for place, column in zip(known_by, columns, strict=True)
    ]
    assert found.tolist() == np.sum(expected, axis=0).tolist()


TEXT = st.one_of(
    st.none(),
    st.text(max_size=50),
    st.sampled_from(["", "\0", "\0\0", "a", "a\0", "é" * 16, "x" * LONGEST, "x" * (LONGEST + 1)]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=20), st.integers(0, 3), st.data())
def test_strings_of_any_bytes_are_found_again(rows: Any, offset: int, data: st.DataObject) -> None:
    """Of any length, null, cut out of larger arrays; a second time from memory."""
    kinds = [data.draw(st.sampled_from([pa.string(), pa.large_string()])) for _ in COLUMNS]
    padding = ["before"] * offset
    columns = [
        pa.array([*padding, *values], kind).slice(offset)
        for values, kind in zip(zip(*rows, strict=True), kinds, strict=True)
    ]
    memory = TextMemory()
    for _ in range(3):  # of two that want one slot, one is remembered at a time
        look_up(memory, columns, Asked())
    again = Asked()
    look_up(memory, columns, again)
    look_up(memory, columns[::-1], again, [2, 1, 0])
    assert all(len(string.encode()) > LONGEST for string in again.strings)


def test_what_was_met_is_not_worked_out_again() -> None:
    """That is what it is for; what is too long for it is asked for each time."""
    memory, asked = TextMemory(), Asked()
    column = pa.array([*(f"s{n}" for n in range(1000)), "l" * (LONGEST + 1)])
    for _ in range(3):
        look_up(memory, [column], asked)
    known = Asked()
    look_up(memory, [column], known)
    assert known.strings == ["l" * (LONGEST + 1)]
    assert len(asked.strings) < 1100


def test_ever_new_strings_do_not_fill_the_memory() -> None:
    """It starts anew, and what is looked up meanwhile is right."""
    memory = TextMemory()
    for start in range(0, 60_000, 5_000):
        look_up(
            memory, [pa.array([f"id{n}" for n in range(start, start + 5_000)]), pa.array(["same"] * 5_000)], Asked()
        )
        assert 0 < memory._table.held <= texts._MOST_HELD
    look_up(memory, [pa.array([f"one batch {n}" for n in range(2 * texts._MOST_HELD)])], Asked())
    assert memory._table.held <= texts._MOST_HELD


def test_what_cannot_be_held_does_not_drive_out_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of long strings, each of them another one, beside one of a few words."""
    monkeypatch.setattr(texts, "_MOST_HELD", 200)
    memory, few = TextMemory(), pa.array([f"s{n % 150}" for n in range(300)])
    for start in range(10):
        look_up(memory, [few, pa.array([f"{'l' * LONGEST}{start}{n}" for n in range(300)])], Asked())
    asked = Asked()
    look_up(memory, [few], asked)
    assert asked.strings == []


def test_strings_that_want_one_slot_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a table this small every string has neighbours in its place."""
    monkeypatch.setattr(texts, "_BITS", 6)
    monkeypatch.setattr(texts, "_MOST_HELD", 48)
    memory, column = TextMemory(), pa.array([f"s{n % 40}" for n in range(400)])
    for _ in range(10):
        look_up(memory, [column, column], Asked(), [0, 1])
    known = Asked()
    look_up(memory, [column], known)
    assert len(known.strings) < 400


def test_threads_that_learn_and_look_up_at_once_find_what_is_right() -> None:
    """There is no lock on the way of a request."""
    memory, failed = TextMemory(), []

    def run(seed: int) -> None:
        draw = np.random.default_rng(seed)
        try:
            for _ in range(60):
                names = [f"n{n}" for n in draw.integers(0, 30_000, 500)]
                look_up(memory, [pa.array(names), pa.array([f"{name} and more" for name in names])], Asked())
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
