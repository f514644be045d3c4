"""What a caller may send, value by value: each case has one defined answer."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.errors import InputError
from serving.rows import RowReader

SIGNATURE = {"carrier": "string", "delay": "float", "origin": "string", "hour": "float"}
ROW: dict[str, Any] = {"carrier": "UA", "delay": 12.5, "origin": "EWR", "hour": 7}


def as_lists(feed: Any) -> dict[str, list[Any]]:
    """Return the inputs of a graph as columns by name."""
    reader = RowReader(SIGNATURE)
    named = [*zip(reader.strings, feed["strings"], strict=True), *zip(reader.numbers, feed["numbers"], strict=True)]
    return {name: [None if isinstance(v, float) and math.isnan(v) else v for v in a.tolist()] for name, a in named}


def all_ways(rows: list[dict[str, Any]]) -> list[dict[str, list[Any]]]:
    """Read the same rows in every shape a caller may choose, repeated rows included."""
    reader = RowReader(SIGNATURE)
    names = ["hour", "extra", "carrier", "delay", "origin"]
    complete = [{"extra": 1, **row} for row in rows]
    return [
        as_lists(feed)
        for feed in (
            reader.records(rows),
            reader.split(names, [[row[name] for name in names] for row in complete]),
            reader.columns({name: [row[name] for row in rows] for name in SIGNATURE}),
        )
    ]


@pytest.mark.parametrize(
    ("column", "value", "read"),
    [
        ("carrier", None, ""),
        ("carrier", "", ""),
        ("carrier", float("nan"), ""),
        ("carrier", "never seen before", "never seen before"),
        ("carrier", "ünïcode ✈", "ünïcode ✈"),
        ("carrier", np.str_("AA"), "AA"),
        ("delay", None, None),
        ("delay", float("nan"), None),
        ("delay", 3, 3.0),
        ("delay", -0.1, float(np.float32(-0.1))),
        ("delay", 2**53, float(2**53)),
        ("delay", 1e30, float(np.float32(1e30))),
        ("delay", np.float32(1.5), 1.5),
        ("delay", np.int64(4), 4.0),
    ],
)
@pytest.mark.parametrize("others", [0, 2])
def test_a_value_is_read_alike_in_every_shape(column: str, value: Any, read: Any, others: int) -> None:
    """A caller that changes from rows to columns must not change its scores."""
    for found in all_ways([{**ROW, column: value}] + [ROW] * others):
        assert found[column][0] == read
        assert found["hour"][0] == 7.0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("carrier", 12),
        ("carrier", 1.5),
        ("carrier", True),
        ("carrier", ["UA"]),
        ("carrier", {"a": 1}),
        ("delay", "12.5"),
        ("delay", ""),
        ("delay", True),
        ("delay", [1.0]),
        ("delay", float("inf")),
        ("delay", -float("inf")),
        ("delay", 1e39),
        ("delay", 2**53 + 1),
        ("delay", -(2**53) - 1),
        ("delay", 10**400),
        ("delay", np.bool_(True)),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
def test_a_value_that_does_not_fit_is_refused_by_row_and_column(column: str, value: Any, before: int) -> None:
    """A caller has to find the one bad row of its batch."""
    rows = [ROW] * before + [{**ROW, column: value}] + [ROW] * before
    reader = RowReader(SIGNATURE)
    for read in (
        lambda: reader.records(rows),
        lambda: reader.split(list(ROW), [list(row.values()) for row in rows]),
        lambda: reader.columns({name: [row[name] for row in rows] for name in ROW}),
    ):
        with pytest.raises(InputError) as refused:
            read()
        assert (refused.value.column, refused.value.row) == (column, before)
        assert f"row {before}, column {column!r}" in str(refused.value)
        assert len(str(refused.value)) < 200


def test_a_missing_column_is_named_with_the_nearest_one_sent() -> None:
    """A misspelt column is the commonest mistake of a first call."""
    reader = RowReader(SIGNATURE)
    sent = {"carier": "UA", "delay": 1.0, "origin": "EWR", "hour": 7}
    for read in (
        lambda: reader.split(list(sent), [list(sent.values())]),
        lambda: reader.columns({name: [value] for name, value in sent.items()}),
        lambda: reader.records([ROW, sent]),
    ):
        with pytest.raises(InputError, match="'carrier' is missing; did you mean 'carier'"):
            read()
    with pytest.raises(InputError) as refused:
        reader.records([ROW, sent])
    assert (refused.value.column, refused.value.row) == ("carrier", 1)


def test_extra_columns_are_ignored_unless_they_are_refused() -> None:
    """A feature row holds more than one model needs, and some services want to hear about it."""
    sent = {**ROW, "note": "x"}
    assert as_lists(RowReader(SIGNATURE).records([sent]))["carrier"] == ["UA"]
    strict = RowReader(SIGNATURE, refuse_extra=True)
    for read in (
        lambda: strict.records([sent]),
        lambda: strict.split(list(sent), [list(sent.values())]),
        lambda: strict.columns({name: [value] for name, value in sent.items()}),
    ):
        with pytest.raises(InputError, match="'note': not one the model takes"):
            read()


@pytest.mark.parametrize(
    ("names", "data", "told"),
    [
        (["carrier", "delay", "origin"], [["UA", 1.0, "EWR"]], "'hour' is missing"),
        ([*ROW, "delay"], [[*ROW.values(), 1.0]], "'delay': named twice"),
        ([*ROW, ["delay"]], [[*ROW.values(), 1.0]], "names of columns to be strings"),
        (list(ROW), [["UA", 1.0]], "row 0: expected 4 values"),
        (list(ROW), [list(ROW.values()), []], "row 1: expected 4 values"),
        ([], [[]], "is missing; found none"),
    ],
)
def test_a_split_of_the_wrong_form_is_refused(names: list[Any], data: list[list[Any]], told: str) -> None:
    """A row that is too short must never be filled from its neighbour."""
    with pytest.raises(InputError, match=told):
        RowReader(SIGNATURE).split(names, data)


def test_columns_of_unequal_length_are_refused() -> None:
    """Values would be scored beside another row's."""
    with pytest.raises(InputError, match="expected 2 values"):
        RowReader(SIGNATURE).columns({"carrier": ["UA", "AA"], "origin": ["A"], "delay": [1.0, 2.0], "hour": [1, 2]})


def test_numpy_and_arrow_columns_read_like_lists() -> None:
    """A batch that already lies in columns need not become rows first."""
    lists = {"carrier": ["UA", None], "origin": ["EWR", "x"], "delay": [1.5, None], "hour": [7.0, 8.0]}
    expected = as_lists(RowReader(SIGNATURE).columns(lists))
    arrow = {
        "carrier": pa.array(lists["carrier"]).dictionary_encode(),
        "origin": pa.chunked_array([["EWR"], ["x"]]),
        "delay": pa.array(lists["delay"], pa.float32()),
        "hour": pa.array([7, 8], pa.int64()),
    }
    numpy = {
        "carrier": np.array(["UA", None], object),
        "origin": np.array(["EWR", "x"]),
        "delay": np.array([1.5, np.nan], np.float32),
        "hour": np.array([7, 8], np.int32),
    }
    assert as_lists(RowReader(SIGNATURE).columns(arrow)) == expected
    assert as_lists(RowReader(SIGNATURE).columns(numpy)) == expected


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_numpy_column_with_an_infinity_names_its_row(kind: Any) -> None:
    """The short way for arrays must not skip the check; half floats have no number as large as its limit."""
    columns = {"carrier": ["a", "b"], "origin": ["a", "b"], "hour": [1, 2], "delay": np.array([1.0, np.inf], kind)}
    with pytest.raises(InputError, match="row 1, column 'delay'"):
        RowReader(SIGNATURE).columns(columns)


def test_layouts_are_kept_within_bounds() -> None:
    """A caller that invents a new order of columns each time must not fill the memory."""
    reader = RowReader(SIGNATURE)
    for extra in range(500):
        reader.split([*ROW, f"extra{extra}"], [[*ROW.values(), 1]])
    assert len(reader._layouts) <= 64


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers(), max_size=2)
)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(ROW, _VALUES)), min_size=1, max_size=4))
def test_any_rows_are_read_alike_in_every_shape_or_refused_in_every_shape(rows: list[dict[str, Any]]) -> None:
    """The short ways are ways to the same answer."""
    answers: list[Any] = []
    reader = RowReader(SIGNATURE)
    for read in (
        lambda: reader.records(rows),
        lambda: reader.split(list(ROW), [[row[name] for name in ROW] for row in rows]),
        lambda: reader.columns({name: [row[name] for row in rows] for name in ROW}),
    ):
        try:
            answers.append(as_lists(read()))
        except InputError:
            answers.append("refused")
    assert answers[0] == answers[1] == answers[2]
