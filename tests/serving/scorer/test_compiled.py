"""What is compiled reads what Python reads, to the bit, never beyond what it is given, and can be done without."""

import json
import os
import shutil
import struct
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.scorer.texts import COMPILED

if not COMPILED and shutil.which("cc") is None:
    pytest.skip("there was no C compiler to build it", allow_module_level=True)

from serving.scorer.jsonrows import read_rows
from serving.scorer.stringtable import LONGEST, Table

NUMBER = np.array([0], np.uint8)
ODDS = np.random.default_rng(0).integers(0, 2**63, 6).astype(np.uint64)


def read(rows: str | bytes, kinds: Any) -> Any:
    content = rows.encode() if isinstance(rows, str) else rows
    return read_rows(np.frombuffer(content, np.uint8), 0, len(content), kinds)


def halfway(digits: int, power: int) -> str:
    """Return the number in the middle between two doubles, in as many digits as it takes."""
    middle = Fraction(2 * digits + 1) * Fraction(2) ** power
    places = -power
    return f"{middle.numerator * 10**places // middle.denominator}e-{places}"


DECIMALS = st.one_of(
    st.floats(1e-45, 2**52).map(repr),
    st.floats(2.0**-100, 2**52, width=32).map(lambda number: repr(float(number))),
    st.builds("{}.{}e{}".format, st.integers(0, 10**9), st.from_regex(r"\A[0-9]{1,10}\Z"), st.integers(-40, 5)),
    st.builds(halfway, st.integers(2**52, 2**53 - 1), st.integers(-8, -1)),
    st.integers(0, 10**15).map(str),
)


@settings(max_examples=1000, deadline=None)
@given(DECIMALS, st.sampled_from(["", "-"]))
@example("0.000000000000000000000000000001234567890123456789", "")
@example("9007199254740991.4999", "-")
@example("8.5", "")
@example("18446744073709551616.5", "")
@example("36893488147419103232.25", "-")
@example(f"{1e36:f}", "")
@example("184467440737095516160000.0e-5", "")
@example("0.18446744073709551616", "")
@example("4503599627370497.5", "")
def test_a_number_is_the_double_nearest_to_it(decimal: str, sign: str) -> None:
    """Python's own reader, which is right, is the oracle; one of too many digits is not read."""
    found = read(f"[{sign}{decimal}]", NUMBER)
    if found is None:
        digits = decimal.partition("e")[0].replace(".", "").lstrip("0")
        assert len(digits) > 19 or float(decimal) >= 2**53 or 0 < float(decimal) < 1e-44
    else:
        assert struct.pack("d", found[2][0, 0]) == struct.pack("d", float(sign + decimal))


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from([*'[],"\\nule.+- \n019\0x', "null", '"abcdefgh', "12345678", "é"]), max_size=60),
    st.integers(-3, 70),
    st.integers(-3, 70),
    st.lists(st.integers(0, 1), max_size=4),
)
@example(["],[n"], 2, 3, [])
def test_whatever_it_is_given_it_stays_within(pieces: list[str], first: int, last: int, kinds: list[int]) -> None:
    """Rows that end too early, or begin before the beginning: what is read is JSON, and lies in it."""
    content = "".join(pieces).encode()
    found = read_rows(np.frombuffer(content, np.uint8), first, last, np.array(kinds, np.uint8))
    if found is not None:
        starts, lengths, numbers = found
        assert first >= 0
        assert last <= len(content)
        assert ((starts >= first) & (starts + lengths <= last)).all()
        rows = json.loads(b"[" + content[first:last] + b"]")
        assert [len(row) for row in rows] == [len(kinds)] * numbers.shape[1]


def test_a_string_is_known_by_all_of_its_bytes() -> None:
    """Also of two that lie side by side, are cut off by the end of what is given, or begin before it."""
    table = Table(8, 100, ODDS)
    content = np.frombuffer(b"abcdefghijabcdefghik" + b"x" * 40, np.uint8)
    starts = np.array([[0, 10, 9, 20, 59, 60, -5]])
    lengths = np.array([[10, 10, 10, LONGEST + 1, 1, 0, 3]])
    column, worths = np.array([1]), np.arange(7) + 1.0
    for known in ([], [0, 1, 2, 4, 5, 6]):
        totals = np.zeros(7)
        unknown = table.add_worths(content, starts, lengths, column, totals)
        assert unknown.tolist() == [place for place in range(7) if place not in known]
        assert totals.tolist() == [worths[place] if place in known else 0.0 for place in range(7)]
        table.learn(content, starts, lengths, column, unknown, worths[unknown])
    assert table.held == 6
    assert table.add_worths(content, starts, lengths, np.array([2]), np.zeros(7)).size == 7


@pytest.mark.parametrize(
    "written",
    ["sensor-{:d}-depot-{:d}", "{:07d}x{:d}", "key-{:012d}", "{:d}"],
)
def test_strings_that_differ_in_few_bytes_have_slots_of_their_own(written: str) -> None:
    """Numbered things are what most columns hold; nearly all of them find room."""
    strings = [written.format(place // 10, place % 10).encode() for place in range(3_000)]
    content, lengths = np.frombuffer(b"".join(strings), np.uint8), np.array([[*map(len, strings)]])
    starts, column = np.cumsum(lengths) - lengths, np.array([1])
    table = Table(16, 16_384, ODDS)
    table.learn(content, starts, lengths, column, np.arange(3_000), np.ones(3_000))
    assert table.held > 0.99 * len(set(strings))


def test_places_that_do_not_go_together_are_refused() -> None:
    """They would be read beyond their end."""
    table, content = Table(4, 8, ODDS), np.zeros(8, np.uint8)
    places, columns = np.zeros((2, 3), np.int64), np.ones(2, np.int64)
    with pytest.raises(ValueError, match="expected the places of strings in 2 columns and 4 rows"):
        table.add_worths(content, places, places, columns, np.zeros(4))
    with pytest.raises(ValueError, match="expected the places of strings in 2 columns and 3 rows"):
        table.learn(content, places, places[:, :2], columns, np.zeros(1, np.int64), np.zeros(1))
    with pytest.raises(ValueError, match="expected the place of a string, found 6"):
        table.learn(content, places, places, columns, np.array([6]), np.zeros(1))
    with pytest.raises(ValueError, match="fewer entries than slots"):
        Table(4, 16, ODDS)


def test_a_table_that_is_full_takes_no_more() -> None:
    """And goes on finding what it holds."""
    table = Table(10, 5, ODDS)
    content, starts = np.arange(200, dtype=np.uint8), np.arange(100).reshape(1, -1)
    lengths, column = np.full((1, 100), 4), np.array([1])
    table.learn(content, starts, lengths, column, np.arange(100), np.ones(100))
    totals = np.zeros(100)
    assert (table.held, table.add_worths(content, starts, lengths, column, totals).size) == (5, 95)
    assert totals.sum() == 5


_WITHOUT = """
import sys
sys.modules["serving.scorer.stringtable"] = None  # as if it had not been built; tests/docker does not build it
import pyarrow as pa
from tests.pipeline.examples import ESTIMATORS, STAGES, rows
from tests.serving.scorer.test_columns import column_scores, graph_scores, trained
from serving.scorer.texts import COMPILED
assert not COMPILED
model = trained(ESTIMATORS[0], [stage for stage in STAGES if stage["stage"] != "cross"])
table = rows().select(list(model.signature))
found = column_scores(model, dict(zip(table.column_names, table.columns)))
assert abs(found - graph_scores(model, table)).max() < 1e-6
"""


def test_batches_are_scored_without_it() -> None:
    """Where the project was installed without a C compiler."""
    subprocess.run([sys.executable, "-c", _WITHOUT], check=True, timeout=120, env=os.environ, cwd=os.curdir)
