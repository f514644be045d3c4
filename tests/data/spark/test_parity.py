"""The same rows from DuckDB and from Spark, for every construct that is translated."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ml_core.data.spark.session import MEANING, session
from ml_core.data.spark.translate import translation
from tests.data.spark import cases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def edges() -> Iterator[duckdb.DuckDBPyConnection]:
    """Return DuckDB with the tables of edge cases."""
    with cases.edges() as connection:
        yield connection


@pytest.fixture(scope="module")
def handed(pyspark: None, edges: duckdb.DuckDBPyConnection, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a local Spark that reads the same tables."""
    del pyspark
    folder = tmp_path_factory.mktemp("edges")
    spark = session("local[2]", {"spark.sql.shuffle.partitions": "2"})
    for name in cases.TABLES:
        edges.execute(f"copy {name} to '{folder / name}.parquet'")
        spark.read.parquet(str(folder / f"{name}.parquet")).createOrReplaceTempView(name)
    return spark


@pytest.mark.parametrize("name", cases.TRANSLATED)
def test_both_engines_give_the_same_rows(
    name: str, handed: Any, edges: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    """A feature that Spark computes otherwise would train a model on what nobody serves."""
    query = translation(cases.TRANSLATED[name], cases.TABLES)
    handed.sql(query.sql).write.parquet(str(tmp_path / "rows"))
    found = f"from read_parquet('{tmp_path}/rows/*.parquet')"
    kinds = {row[0]: row[1] for row in edges.execute(f"describe {found}").fetchall()}
    as_stored = {"HUGEINT": "BIGINT", '"NULL"': "INTEGER"}
    assert kinds == {column: as_stored.get(kind, kind) for column, kind in query.columns.items()}
    assert rows(edges, found) == rows(edges, cases.TRANSLATED[name])


def test_the_session_has_the_settings_the_translation_relies_on(handed: Any) -> None:
    """On a machine whose own zone or Spark's own defaults are others, rows would be too."""
    assert {name: handed.conf.get(name) for name in MEANING} == MEANING


def rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[str, ...]]:
    """Return the rows of a query in an order of their own, numbers by their bits."""
    return sorted(tuple(map(written, row)) for row in connection.execute(sql).fetchall())


def written(value: object) -> str:
    """Return a value so that only equal ones look equal: every bit of a number, NaN like NaN."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else f"{value!r} {struct.pack('>d', value).hex()}"
    if isinstance(value, dict):
        return str({name: written(field) for name, field in value.items()})
    return repr(value)
