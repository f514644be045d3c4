"""What DuckDB itself says of types and constants: an empty database with the tables features.sql reads.

The type of every expression is DuckDB's own answer rather than a guess, which is what lets a rule choose between, say,
the two divisions. A database in memory, closed with its context; no rows are ever put into it.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import duckdb

from ml_core.data.tables import quoted
from ml_core.errors import FeatureError
from ml_core.places import sql_line


class Probe:
    """An empty DuckDB database.

    Parameters
    ----------
    tables : mapping
        Per table its columns, each with DuckDB's name of its type.
    """

    def __init__(self, tables: Mapping[str, Mapping[str, str]]) -> None:
        self._connection = duckdb.connect()
        self._kept = 0
        self._connection.execute("set TimeZone = 'UTC'")
        self._connection.execute("set threads = 1")
        for name, columns in tables.items():
            described = ", ".join(f"{quoted(column)} {kind}" for column, kind in columns.items())
            self._connection.execute(f"create table {quoted(name)} ({described})")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def columns(self, sql: str) -> dict[str, str]:
        """Return the columns of a query by name; raise FeatureError with DuckDB's own words where it has none."""
        try:
            return {row[0]: row[1] for row in self._connection.execute(f"describe {sql}").fetchall()}
        except duckdb.Error as error:
            line = sql_line(str(error))
            raise FeatureError(f"{f', line {line}' if line else ''}: {error}") from error

    def keep(self, sql: str) -> str:
        """Make an empty table of a query's columns; return its name."""
        self._kept += 1
        name = f"__kept_{self._kept}"
        described = ", ".join(f"{quoted(column)} {kind}" for column, kind in self.columns(sql).items())
        self._connection.execute(f"create table {name} ({described})".replace('"NULL"', "INTEGER"))
        return name

    def lowered(self, name: str) -> dict[str, str]:
        """Return the columns of a kept table, their names in lower case."""
        return {column.lower(): kind for column, kind in self.columns(f"from {name}").items()}

    def value(self, sql: str) -> Any:
        """Return the value of a constant expression."""
        try:
            return self._connection.execute(f"select {sql}").fetchall()[0][0]
        except duckdb.Error as error:
            raise FeatureError(f": {error}") from error
