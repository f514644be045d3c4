"""A large body read by its bytes is what orjson reads, or is left to it."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ml_core.pipeline import PipelineModel
from ml_core.project import PipelineSettings
from serving.http import Sidecar
from serving.rows import EXACT_INTEGER
from serving.settings import Limits
from serving.split import SplitBody, read_split
from serving.wire import json_codec
from tests.serving.asking import OTHER, ROW, ask_application, scores_of

# where there is a C compiler and no reader, tests/serving/scorer/test_compiled.py fails
pytest.importorskip("serving.scorer.jsonrows")

SIGNATURE = {"carrier": "string", "origin": "string", "delay": "float", "hour": "float"}
NAMES = ["delay", "carrier", "hour", "origin"]
DATA: list[list[Any]] = [
    [1.5, "UA", 7, "EWR"],
    [None, "", -0.25, None],
    [1e-7, "Zürich ✈", 0, "a.e5"],
    [3, "x", None, "y"],
    [-0.30000001192092896, "U, A", 1234567890, "][null,"],
]


def body(data: str, names: Any = NAMES) -> bytes:
    return f'{{"dataframe_split": {{"columns": {json.dumps(names)}, "data": {data}}}}}'.encode()


def written(rows: Any, **options: Any) -> str:
    return json.dumps(rows, ensure_ascii=False, **options)


def values_of(split: SplitBody) -> list[list[Any]]:
    """Return what was read, row by row."""
    strings = [name for name in NAMES if SIGNATURE[name] == "string"]
    floats = [name for name in NAMES if SIGNATURE[name] == "float"]
    texts, numbers = split.texts(strings), split.numbers(floats)
    count = len(strings) * split.rows
    told = np.array([*texts.strings(np.arange(count))], object).reshape(len(strings), split.rows)
    columns = dict(zip([*strings, *floats], [*told.tolist(), *(numbers + 0.0).tolist()], strict=True))  # -0 is 0
    return [list(row) for row in zip(*(columns[name] for name in NAMES), strict=True)]


def meant(rows: Any) -> list[list[Any]]:
    """Return rows as strings and floats, the empty string and NaN where missing."""
    return [
        [
            ("" if value is None else value)
            if SIGNATURE[name] == "string"
            else float("nan")
            if value is None
            else float(value) + 0.0
            for name, value in zip(NAMES, row, strict=True)
        ]
        for row in rows
    ]


@pytest.mark.parametrize("separators", [None, (",", ":"), (", ", ":"), (",", ": "), (" ,\t", ":"), ("\r\n,\n", ":")])
def test_what_writers_of_json_write_is_read_by_its_bytes(separators: Any) -> None:
    """Python's own writer leaves a space after a comma; most others do not; some put a value on a line."""
    split = read_split(body(written(DATA, separators=separators)), SIGNATURE)
    assert split is not None
    assert repr(values_of(split)) == repr(meant(DATA))
    assert (split.rows, list(split), split["carrier"]) == (5, NAMES, ("UA", "", "Zürich ✈", "x", "U, A"))


@pytest.mark.parametrize(
    "content",
    [
        body(written(DATA)).replace(b'"UA"', b'"U\\u0041"'),
        body(written(DATA), ["delay", "carrier", "hour", "elsewhere"]),
        body(written([[*row, 1] for row in DATA]), [*NAMES, "more"]),
        body(written([row[:3] for row in DATA]), NAMES[:3]),
        body(written([]), NAMES),
        body(written([[], []]), []),
        body("[[[1]]]"),
        body('[["UA"]]', "delay"),
        body(written(DATA), ["delay", "carrier", "hour", "hour"]),
        body(written([[2**53, "UA", 7, "EWR"]])),
        b'{"inputs": [[1]], "dataframe_split": {"columns": ["delay"], "data": []}}',
        b'{"dataframe_split": {"columns": ["delay", "carrier", "hour", "origin"], "data": []}, "x": [[1, "a", 2]]}',
        body(written(DATA))[:-1] + b', "inputs": []}',
        b'{"dataframe_split": {"columns": ["delay"], "data": [[1]], "data": "rows"}}',
        b'{"x": [[1]], "dataframe_split": {"columns": ["delay"], "data": "rows"}}',
        b'[["a"]]',
    ],
)
def test_what_is_not_plain_is_left_to_orjson(content: bytes) -> None:
    """It is read all the same, or refused in its own words."""
    assert read_split(content, SIGNATURE, ["inputs"]) is None


WRONG_NUMBERS = [
    "01",
    "-01",
    "00",
    ".5",
    "-.5",
    "5.",
    "5.e1",
    "5.E1",
    "1e",
    "1e+",
    "+1",
    "--1",
    "-",
    "1-2",
    "1.2.3",
    "0x10",
]
WRONG_NUMBERS += [
    "NaN",
    "nan",
    "inf",
    "Infinity",
    "-Infinity",
    "1_000",
    "1 2",
    "nul",
    "nulll",
    "n",
    "true",
    "1e999",
    '"1"',
    " ",
]
WRONG_STRINGS = ["UA", '"UA', 'UA"', '"', '""UA"', '"UA""', '"U"A"', "nul", "'UA'", "7", '"\x1f"', '"\\"']


@pytest.mark.parametrize(
    ("place", "value"), [*((0, value) for value in WRONG_NUMBERS), *((1, value) for value in WRONG_STRINGS)]
)
def test_what_is_no_json_of_its_kind_is_left_to_orjson(place: int, value: str) -> None:
    """C reads more kinds of numbers than JSON has."""
    row = ["1.5", '"UA"', "7", '"EWR"']
    assert read_split(body(f"[[{','.join(row)}]]"), SIGNATURE) is not None
    row[place] = value
    assert read_split(body(f"[[{','.join(row)}]]"), SIGNATURE) is None


def test_columns_of_one_kind_are_read_too() -> None:
    """Also where a string looks like the exponent of a number, before the first one and without any."""
    names = ["a", "b"]
    content = body('[["x.example", "y"], ["u", "v.E"]]', names)
    split = read_split(content, dict.fromkeys(names, "string"))
    assert split is not None
    assert [*split.texts(names).strings(np.arange(4))] == ["x.example", "u", "y", "v.E"]
    assert split.numbers([]).shape == (0, 2)
    split = read_split(body("[[1, -2.5e3], [null, 0]]", names), dict.fromkeys(names, "float"))
    assert split is not None
    assert repr(split.numbers(["b", "a"]).tolist()) == "[[-2500.0, 0.0], [1.0, nan]]"
    split = read_split(body('[["x.example", 1.5]]', names), {"a": "string", "b": "float"})
    assert split is not None
    with pytest.raises(KeyError):
        split.texts(["b"])


NUMBERS = st.one_of(
    st.none(),
    st.integers(-EXACT_INTEGER + 1, EXACT_INTEGER - 1),
    st.floats(-1e15, 1e15).map(float),
    st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2**49), max_value=2**49),
)
STRINGS = st.one_of(st.none(), st.text(max_size=40))
PIECES = st.sampled_from(
    ['"', ",", "]", "[", "null", " ", "-", "0", ".", "e", "E", "+", "\\", "],[", '","', "\n", "é", "1", ":", "{"]
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(NUMBERS, STRINGS, NUMBERS, STRINGS), min_size=1, max_size=6),
    st.booleans(),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), PIECES), max_size=3),
)
@example([(None, None, None, None)], False, [])
@example([(1.0, ",", 2.0, ",")], False, [])
@example([(0.0, '","', 1e15, "]")], True, [])
def test_whatever_is_read_by_its_bytes_is_what_orjson_reads(rows: Any, spaced: bool, changes: Any) -> None:
    """Also where the body was damaged on its way: only valid JSON is taken."""
    data = written([list(row) for row in rows], separators=None if spaced else (",", ":"))
    for where, size, piece in changes:
        at = int(where * len(data))
        data = data[:at] + piece + data[at + size :]
    content = body(data)
    split = read_split(content, SIGNATURE)
    if split is not None:
        assert repr(values_of(split)) == repr(meant(orjson.loads(content)["dataframe_split"]["data"]))
    elif not changes:
        strings = [value for row in rows for value in (row[1], row[3]) if value]
        plain = all(value.isprintable() and not set(value) & set('\\"') for value in strings)
        plain &= not any(0 < abs(value) < 1e-45 for row in rows for value in (row[0], row[2]) if value)
        assert not plain, "a plain body has to be read by its bytes"


def linear_graph() -> bytes:
    """Return the graph of a small pipeline whose scores are sums over columns."""
    stages = (
        {"stage": "hash", "columns": ["carrier", "origin"], "bits": 8},
        {"stage": "standardise", "columns": ["delay", "hour"]},
    )
    model = PipelineModel.build(PipelineSettings(stages=stages, estimator={"name": "FTRLClassifier"}), SIGNATURE)
    count = np.arange(200)
    columns = {"carrier": [f"c{n % 50}" for n in count], "origin": ["EWR", "JFK"] * 100, "delay": count, "hour": count}
    model.learn(pa.table(columns), count % 3 == 0)
    return model.to_onnx()


def test_a_large_body_gets_the_scores_that_its_rows_get(follower: Any, registry: Any) -> None:
    """By its bytes; by orjson because one string has a quote, or the model has only its graph; and row by row."""
    registry.add(8, graph=linear_graph())
    registry.promote(8)
    follower.step()
    rows = [{**ROW, "carrier": f"c{n % 50}", "delay": n / 7} for n in range(1000)] + [OTHER]
    data = [[row[name] for name in NAMES] for row in rows]
    plain, odd = body(written(data)), body(written([*data, [1, '"', 2, "x"]]))
    by_its_graph, one_by_one = replace(follower.current, scorers=None), scores_of(follower, *rows)
    for content, model, by_bytes in (
        (plain, follower.current, True),
        (odd, follower.current, False),
        (plain, by_its_graph, False),
    ):
        read = json_codec({}).read(content, {}, model, 10_000)[1]
        assert isinstance(read[1], SplitBody) == by_bytes
        np.testing.assert_allclose(read[0](model, read[1])[: len(rows)], one_by_one, rtol=0, atol=1e-6)
    for content in (plain, odd):
        status, _, answer = ask_application(Sidecar(follower), "/invocations", content)
        assert status == 200
        np.testing.assert_allclose(answer["predictions"][: len(rows)], one_by_one, rtol=0, atol=1e-6)


def test_a_large_body_is_refused_like_a_small_one(follower: Any) -> None:
    """Too many rows, or a number that float32 cannot hold: by name and row."""
    data = [[row[name] for name in NAMES] for row in [ROW] * 2000]
    status, _, answer = ask_application(
        Sidecar(follower, limits=Limits(rows=1999)), "/invocations", body(written(data))
    )
    assert (status, answer["error_code"]) == (413, "TOO_LARGE")
    data[1234][0] = 1e39
    status, _, answer = ask_application(Sidecar(follower), "/invocations", body(written(data)))
    assert (status, answer["row"], answer["column"]) == (400, 1234, "delay")


def test_columns_that_are_asked_for_by_name_are_made() -> None:
    """The prediction log, another version and pipelines that are no sum take values as ever."""
    split = read_split(body(written(DATA)), SIGNATURE)
    assert split is not None
    assert {name: list(split[name]) for name in split} == {
        name: [row[place] for row in DATA] for place, name in enumerate(NAMES)
    }
    with pytest.raises(KeyError):
        split["elsewhere"]
