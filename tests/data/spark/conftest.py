"""Spark for the slow tests: installed where it is missing, as `make spark` does."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tests.data.spark.cases import ROWS, TABLES

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def pyspark() -> Iterator[None]:
    """Have pyspark in this environment, and no Spark left when the session ends."""
    subprocess.run([sys.executable, ROOT / "scripts" / "install_spark.py"], check=True, timeout=600)
    from ml_core.data.spark.session import stop

    yield
    stop()


@pytest.fixture(scope="session")
def edges() -> Iterator[duckdb.DuckDBPyConnection]:
    """Return a DuckDB database with the tables of edge cases."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        for name, columns in TABLES.items():
            listed = ", ".join(f"{column} {kind}" for column, kind in columns.items())
            connection.execute(f"create table {name} ({listed})")
            connection.execute(f"insert into {name} values {ROWS[name]}")
        yield connection
