"""Readers' way to DuckDB files: attached to an instance that the process keeps, rather than each opened as its own.

Making an instance takes DuckDB 25 to 50 ms, attaching a file to one 2. The instance computes in the thread that asks:
a reader's other cores learn meanwhile. It may see the whole disk, so only SQL of the platform's own runs here; that of
a project runs in its owner's instance (`ml_core.data.file`).

Sessions of one file share it, and the last one lets it go, whatever became of them: a file that stayed attached could
not be owned any more in this process. To attach it once more would not do, for the kernel takes a process's lock on a
file away with the first of its handles that closes.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from threading import Lock

import duckdb

_TURN = Lock()
_NUMBERS = count()
_ATTACHED: dict[Path, tuple[str, int]] = {}  # to a file the name it has here, and how many sessions


@contextmanager
def attached(file: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a session that reads a DuckDB file, with its tables by their plain names and times in UTC.

    A result that is kept beyond the session keeps the file: close readers, or read them to their end.

    Raises
    ------
    duckdb.Error
        The file is none that DuckDB reads, or another process holds it for writing.
    """
    path = file.resolve()
    with _TURN:
        session = _instance().cursor()
        name, sessions = _ATTACHED.get(path) or (_attach(path), 0)
        _ATTACHED[path] = name, sessions + 1
    try:
        with session:
            _settle(session, name)
            yield session
    finally:
        with _TURN:
            name, sessions = _ATTACHED.pop(path)
            if sessions > 1:
                _ATTACHED[path] = name, sessions - 1
            else:
                _instance().execute(f"detach {name}")


@contextmanager
def beside(session: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a second session with the same tables, to ask while a result of the first is being read."""
    ((name,),) = session.execute("select current_database()").fetchall()
    with session.cursor() as second:
        _settle(second, name)
        yield second


def _attach(path: Path) -> str:
    name = f"file_{next(_NUMBERS)}"
    quoted = str(path).replace("'", "''")
    _instance().execute(f"attach '{quoted}' as {name} (read_only)")
    return name


def _settle(session: duckdb.DuckDBPyConnection, database: str) -> None:
    """Give a new session what it takes over from none: its database, and UTC for the machine's zone."""
    session.execute(f"use \"{database}\"; set TimeZone = 'UTC'; set enable_progress_bar = false")


@cache
def _instance() -> duckdb.DuckDBPyConnection:
    # what does not fit into memory would go to where the process was started, which may be read-only
    spilled = Path(tempfile.gettempdir(), f"modelflow-duckdb-{os.getuid()}")
    return duckdb.connect(config={"threads": 1, "temp_directory": str(spilled)})
