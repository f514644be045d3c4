"""The examples as they are read back."""

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from ml_core.data import examples, words

COUNT = 5_000


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """Return a store of examples whose feature tells their offset."""
    with duckdb.connect() as connection:
        rows = pa.table(
            {
                "offset": np.arange(COUNT),
                "label": np.zeros(COUNT, np.float32),
                "shop": [f"s{offset % 7}" for offset in range(COUNT)],
                "place": np.arange(COUNT, dtype=np.float32),
            }
        )
        coded = words.encode(connection, rows, ["shop"])  # noqa: F841 - DuckDB finds it by name
        connection.execute("create table features as select '' as key, now() as request_time, shop, place from rows")
        connection.execute("create table examples as from coded")
        yield connection


@pytest.mark.parametrize("order", ['"offset"', '"offset" desc', 'hash("offset")'])
def test_they_come_in_order_however_they_lie(connection, order):
    """Learned in another order, the same examples give another model."""
    connection.execute(f"create or replace table examples as from examples order by {order}")
    batches = list(examples.read(connection, 100, 4_900, named=(), rows=2_048))
    assert all(batch.num_rows <= 2_048 for batch in batches)
    read = pa.Table.from_batches(batches)
    assert read.column("offset").to_pylist() == list(range(100, 4_900))
    assert read.column("place").to_pylist() == list(range(100, 4_900))
    assert read.column("shop").to_pylist() == [f"s{offset % 7}" for offset in range(100, 4_900)]


def test_reading_may_stop_anywhere_and_begin_again(connection):
    """What was read half holds nothing up."""
    for _ in range(3):
        reading = examples.read(connection, 0, COUNT, named=(), rows=1_024)
        assert next(reading).column("offset")[0].as_py() == 0
        reading.close()
    assert sum(batch.num_rows for batch in examples.read(connection, 0, COUNT, named=(), rows=1_024)) == COUNT
