"""Readers' way to DuckDB files: attached to an instance that the process keeps, rather than each opened as its own.

Making an instance takes DuckDB 25 to 50 ms, attaching a file to one 2. The instance computes in the thread that asks:
a reader's other cores learn meanwhile. It may see the whole disk, so only SQL of the platform's own runs here; that of
a project runs in its owner's instance (`ml_core.data.file`). A session ends with its file let go.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from threading import Lock

import duckdb

_MAKING = Lock()
_NUMBERS = count()


@contextmanager
def attached(file: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a session that reads a DuckDB file, with its tables by their plain names and times in UTC.

    Raises
    ------
    duckdb.Error
        The file is none that DuckDB reads, or another process holds it for writing.
    """
    with _MAKING:
        session = _instance().cursor()
    with session:
        name = f"file_{next(_NUMBERS)}"
        quoted = str(file).replace("'", "''")
        session.execute(f"attach '{quoted}' as {name} (read_only)")
        try:
            _settle(session, name)
            yield session
        finally:
            session.execute("use memory")
            session.execute(f"detach {name}")


@contextmanager
def beside(session: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a second session with the same tables, to ask while a result of the first is being read."""
    ((name,),) = session.execute("select current_database()").fetchall()
    with session.cursor() as second:
        _settle(second, name)
        yield second


def _settle(session: duckdb.DuckDBPyConnection, database: str) -> None:
    """Give a new session what it takes over from none: its database, and UTC for the machine's zone."""
    session.execute(f'use "{database}"')
    session.execute("set TimeZone = 'UTC'")
    session.execute("set enable_progress_bar = false")


@cache
def _instance() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})
