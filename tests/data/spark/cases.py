"""The cases as they stand in the SQL files beside this one, and the tables they read."""

import re
from pathlib import Path

import duckdb

HERE = Path(__file__).resolve().parent
_CASE = re.compile(r"^-- case: (?P<name>[^\n|]+?)(?: \| (?P<words>[^\n]*))?\n(?P<sql>.*?);$", re.MULTILINE | re.DOTALL)


def edges() -> duckdb.DuckDBPyConnection:
    """Return a DuckDB database with the tables of edge cases."""
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    connection.execute((HERE / "edges.sql").read_text(encoding="utf-8"))
    return connection


def _cases(file: str) -> list[tuple[str, str, str]]:
    found = _CASE.finditer((HERE / file).read_text(encoding="utf-8"))
    return [(case["name"], case["sql"], case["words"] or "") for case in found]


def _tables() -> dict[str, dict[str, str]]:
    with edges() as connection:
        names = [row[0] for row in connection.execute("select table_name from duckdb_tables()").fetchall()]
        return {name: {row[0]: row[1] for row in connection.execute(f"describe {name}").fetchall()} for name in names}


TABLES = _tables()
TRANSLATED = {name: sql for name, sql, _ in _cases("translated.sql")}
REFUSED = {name: (sql, words) for name, sql, words in _cases("refused.sql")}
