"""Arrow IPC streams as bodies: the scores that JSON gets, and nothing small that unfolds into something large."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_core.flow.read import ModelAddress
from serving import arrow
from serving.follower import Follower
from serving.http import Sidecar
from serving.settings import Limits
from tests.serving.asking import OTHER, ROW, ask_application, scores_of

STREAM = "application/vnd.apache.arrow.stream"
TABLE = pa.table(
    {
        "carrier": pa.array([ROW["carrier"], OTHER["carrier"]]),
        "origin": pa.array([ROW["origin"], OTHER["origin"]]),
        "delay": pa.array([ROW["delay"], OTHER["delay"]], pa.float32()),
        "hour": pa.array([ROW["hour"], OTHER["hour"]], pa.int64()),
    }
)


def stream(table: pa.Table, *, chunk: int | None = None, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, chunk)
    return bytes(sink.getvalue().to_pybytes())


def post(application: Sidecar, body: bytes, **headers: str) -> Any:
    """Send a stream; the answer's body is read by its own media type."""
    told = {"content-type": STREAM, "content-length": str(len(body)), **headers}
    return ask_application(application, "/invocations", body, headers=told)


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("encoded", [False, True])
def test_a_stream_gets_the_scores_that_rows_get(follower: Any, chunk: int | None, encoded: bool) -> None:
    """One data plane under every protocol, whatever way a writer cuts and encodes its columns."""
    table = TABLE
    if encoded:
        table = table.set_column(0, "carrier", table.column(0).dictionary_encode())
    status, headers, answer = post(Sidecar(follower), stream(table, chunk=chunk))
    assert (status, headers["x-model-version"], headers["content-type"]) == (200, "7", STREAM)
    scores = pa.ipc.open_stream(io.BytesIO(answer)).read_all()
    assert scores.schema.metadata == {b"model_version": b"7"}
    assert scores.column("score").to_pylist() == scores_of(follower, ROW, OTHER)


def test_a_caller_that_accepts_json_only_gets_json(follower: Any) -> None:
    """A script may write Arrow and read JSON."""
    answer = post(Sidecar(follower), stream(TABLE), accept="application/json")[2]
    assert answer == {"predictions": scores_of(follower, ROW, OTHER)}


def test_no_rows_get_no_scores(follower: Any) -> None:
    """An empty partition is no mistake."""
    for table in (TABLE.slice(0, 0), pa.Table.from_batches([], TABLE.schema)):
        status, _, answer = post(Sidecar(follower), stream(table))
        assert status == 200
        assert pa.ipc.open_stream(io.BytesIO(answer)).read_all().num_rows == 0


def test_extra_columns_of_any_type_are_ignored(follower: Any) -> None:
    """A feature table holds keys and times beside what the model takes."""
    table = TABLE.append_column("key", pa.array([[1], [2]])).append_column("at", pa.array([1, 2], pa.timestamp("us")))
    assert post(Sidecar(follower), stream(table))[0] == 200


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "Arrow IPC stream"),
        (b'{"inputs": []}', "Arrow IPC stream"),
        (stream(TABLE)[:-20], "Arrow IPC stream"),
        (stream(TABLE)[:200], "Arrow IPC stream"),
        (stream(TABLE, compression="zstd"), "uncompressed"),
        (stream(TABLE, compression="lz4"), "uncompressed"),
        (stream(TABLE.drop_columns("hour")), "column 'hour' is missing"),
        (stream(TABLE.append_column("hour", TABLE.column("hour"))), "a name of its own"),
        (stream(TABLE.set_column(2, "delay", pa.array(["1.5", "2"]))), "row 0, column 'delay'"),
        (stream(TABLE.set_column(3, "hour", pa.array([7, 2**60]))), "row 1, column 'hour'"),
        (stream(TABLE.set_column(0, "carrier", pa.array([1, 2]))), "row 0, column 'carrier'"),
        (stream(TABLE.set_column(0, "carrier", pa.array([["a"], ["b"]]))), "column 'carrier': expected strings"),
        (stream(TABLE.set_column(0, "carrier", pa.array([b"\xff", b"a"]).view(pa.string()))), "UTF8"),
        (
            stream(TABLE.set_column(3, "hour", pa.array([1, 2], pa.timestamp("us", "Foo/Bar")))),
            "column 'hour': expected",
        ),
        (stream(TABLE.set_column(3, "hour", pa.array([1, 2**62], pa.timestamp("s")))), "column 'hour': expected"),
    ],
)
def test_a_stream_that_does_not_fit_is_a_400(follower: Any, body: bytes, told: str) -> None:
    """Told as clearly as in JSON, by column and row."""
    status, _, answer = post(Sidecar(follower), body)
    assert (status, answer["error_code"]) == (400, "BAD_REQUEST")
    assert told in answer["message"]


def test_what_unfolds_into_too_much_is_refused_before_it_does(follower: Any) -> None:
    """A few megabytes of indices into one long string would be a hundred gigabytes of rows."""
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int8)), pa.array(["x" * 1_000_000]))
    table = pa.table({**{name: pa.nulls(10_000, TABLE.schema.field(name).type) for name in ROW}, "carrier": long})
    status, _, answer = post(Sidecar(follower), stream(table))
    assert (status, answer["error_code"]) == (413, "TOO_LARGE")
    assert "column 'carrier'" in answer["message"]
    many = pa.table({name: pa.nulls(4) for name in ROW})
    assert post(Sidecar(follower, limits=Limits(rows=3)), stream(many))[0] == 413


def folded(rows: int, text: str) -> pa.DictionaryArray:
    """Return a column whose rows all refer to one string."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array([text]))


def test_the_bound_of_what_unfolds_is_one_for_all_columns_of_a_request(registry: Any) -> None:
    """A dozen columns, each just within a bound of its own, would be gigabytes together."""
    registry.add(8, signature={f"c{place}": "string" for place in range(12)})
    registry.promote(8)
    follower = Follower(ModelAddress("f", stage="Production"), "", registry=registry)
    follower.load_first()
    table = pa.table({name: folded(60, "x" * 200_000) for name in follower.current.signature})
    status, _, answer = post(Sidecar(follower), stream(table))
    assert (status, answer["error_code"]) == (413, "TOO_LARGE")
    assert f"found {12 * 60 * 200_000}" in answer["message"]
    assert post(Sidecar(follower), stream(table.slice(0, 10)))[0] == 200


def test_a_long_string_that_few_rows_refer_to_is_no_reason_to_refuse(follower: Any) -> None:
    """A bound that costs no look at the rows is too large where they refer to other strings."""
    words = pa.array([ROW["carrier"], "x" * 1_000_000])
    carriers = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100, np.int8)), words)
    table = pa.table({**{name: [value] * 100 for name, value in ROW.items()}, "carrier": carriers})
    status, _, answer = post(Sidecar(follower), stream(table), accept="application/json")
    assert (status, answer["predictions"]) == (200, scores_of(follower, ROW) * 100)


@pytest.mark.parametrize(
    "headers", [{"content-encoding": "gzip"}, {"content-type": "application/vnd.apache.arrow.file"}]
)
def test_other_kinds_of_bodies_are_refused_by_name(follower: Any, headers: dict[str, str]) -> None:
    """What is not read must not be guessed at."""
    assert post(Sidecar(follower), stream(TABLE), **headers)[0] == 415


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damaged_stream_is_a_5xx(follower: Any, data: st.DataObject) -> None:
    """Every byte of a stream may come wrong, and the reader is a foreign one."""
    body = bytearray(data.draw(st.sampled_from([stream(TABLE), stream(TABLE, chunk=1), ENCODED])))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert post(Sidecar(follower), bytes(body[: data.draw(st.integers(0, len(body)))]))[0] in {200, 400, 413}


ENCODED = stream(TABLE.set_column(0, "carrier", TABLE.column(0).dictionary_encode()))


def test_the_stream_is_read_as_it_was_written() -> None:
    """A reader that loses a batch would score the wrong rows."""
    assert pa.table(arrow.read_stream(stream(TABLE, chunk=1), most_rows=2)).equals(TABLE)
