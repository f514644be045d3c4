"""The column of keys in the prediction log: whatever comes in it, a key is short, and nothing large is ever made."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.follower import Follower
from serving.http import Sidecar
from serving.keys import LONGEST_KEY, keys_of
from serving.log import LogSettings, PredictionLog
from serving.wire import columns_read
from tests.serving.asking import ROW, ask_application

LONG = "k" * (LONGEST_KEY + 1)


def folded(places: list[int | None], values: Any) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), pa.array(values))


@pytest.mark.parametrize(
    ("column", "keys"),
    [
        (["a", 12, None, LONG], ["a", "12", None, None]),
        (np.array([1.5, 2.0, 3.0, 4.0]), ["1.5", "2.0", "3.0", "4.0"]),
        (pa.array(["a", LONG[1:], None, LONG]), ["a", LONG[1:], None, None]),
        (pa.array(["a", "é" * LONGEST_KEY, None, ""], pa.large_string()), ["a", "é" * LONGEST_KEY, None, ""]),
        (pa.array([1, None, 3, 4]), ["1", None, "3", "4"]),
        (folded([1, 0, None, 1], ["a", LONG]), [None, "a", None, None]),
        (folded([1, 0, None, 1], [7, 8]), ["8", "7", None, "8"]),
        (pa.chunked_array([["a", "b"], [LONG, None]]), ["a", "b", None, None]),
        (pa.chunked_array([folded([0, 0], ["a"]), folded([0, None], ["b"])]), ["a", "a", "b", None]),
        (pa.array([["a"], [], None, ["b"]]), [None] * 4),
        (pa.array([1, 2, 2**62, None], pa.timestamp("s")), [None] * 4),
        (["a", "b"], [None] * 4),
    ],
    ids=str,
)
def test_a_key_is_a_string_or_a_number_and_a_long_one_is_none(column: Any, keys: list[str | None]) -> None:
    """A label is found by its row's key; a key that was cut could find another row's."""
    assert keys_of(columns_read({"key": column}), "key", 4).to_pylist() == keys


def test_no_rows_have_no_keys() -> None:
    """An empty partition comes as no batch at all."""
    for column in (pa.array([], pa.string()), pa.chunked_array([], pa.string()), []):
        assert keys_of(columns_read({"key": column}), "key", 0).to_pylist() == []


def test_a_folded_key_is_never_unfolded(follower: Follower, tmp_path: Path) -> None:
    """A key column is none of the model's, so nothing has refused a small body whose keys unfold into gigabytes."""
    rows = 300
    features = {name: folded([0] * rows, [value]) for name, value in ROW.items()}
    table = pa.table({**features, "key": folded([0] * rows, ["k" * 1_000_000])})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    log = PredictionLog(LogSettings(tmp_path))
    application = Sidecar(follower, log=log)
    headers = {"content-type": "application/vnd.apache.arrow.stream"}
    status, _, _ = ask_application(application, "/invocations", sink.getvalue().to_pybytes(), headers=headers)
    application.close()
    assert (status, log.written, log.dropped) == (200, rows, 0)
    (file,) = tmp_path.glob("*.parquet")
    assert pq.read_table(file).column("key").null_count == rows
