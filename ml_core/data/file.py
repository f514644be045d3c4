"""The DuckDB file of a flow: one owner at a time or many readers, whole whenever it is there (docs/adr/0002).

Who owns it runs the flow's own `features.sql` in it, so an owner's instance sees nothing of the disk but the folders
it is given. What one thread of an object owns, that thread reads without opening anything.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

import duckdb

from ml_core.data.attached import attached
from ml_core.data.lock import locked, wanted
from ml_core.disk import room_for
from ml_core.errors import DataError, StoreBusyError

Connection: TypeAlias = duckdb.DuckDBPyConnection

_LIMITING = threading.Lock()


class StoreFile:
    """A file that processes take turns to own.

    Parameters
    ----------
    path : Path
        Its lock lies beside it.
    log : Path
        Where the facts are that it was made of.
    seen : sequence of Path
        The folders, the log among them, that SQL may read in an owner's session.
    wait_s : float
        How long to wait for whoever holds it.

    Attributes
    ----------
    waited_s : float
        For how long all sessions waited.

    Sessions raise StoreBusyError where the file was held for too long, and DataError where it is none to read.
    """

    def __init__(self, path: Path, *, log: Path, seen: Sequence[Path], wait_s: float) -> None:
        self.waited_s = 0.0
        self._path = path
        self._log = log
        self._seen = [str(folder.absolute()) for folder in seen]
        self._wait_s = wait_s
        self._owned: Connection | None = None
        self._thread = threading.RLock()

    @property
    def owned(self) -> bool:
        """Whether an owner's session of this object is open."""
        return self._owned is not None

    def wanted(self) -> bool:
        """Say whether another process waits for the file."""
        return wanted(self._path.parent)

    @contextmanager
    def owner(self) -> Iterator[Connection]:
        """Own the file, made where there is none."""
        with self._thread:
            if self._owned is not None:
                yield self._owned
                return
            with (
                room_for("the feature store", self._path),
                self._held(),
                self._limited(read_only=False) as connection,
            ):
                self._owned = connection
                try:
                    yield connection
                finally:
                    self._owned = None

    @contextmanager
    def reader(self, *, with_all_cores: bool = False) -> Iterator[Connection]:
        """Read the file: in the owner's session where one is open, else in one that computes on one core, or on all."""
        with self._thread:
            if self._owned is not None:
                yield self._owned
                return
            with self.shared(with_all_cores=with_all_cores) as connection:
                yield connection

    @contextmanager
    def shared(self, *, with_all_cores: bool = False) -> Iterator[Connection]:
        """Read the file in any thread, waiting in bounded time, and never for what this object's owner does next."""
        if not self._path.exists():
            raise DataError(f"{self._path}: expected facts that were absorbed, found none yet; ingest some first")
        with locked(self._path.parent, exclusive=False, wait_s=self._wait_s) as waited, ExitStack() as session:
            self.waited_s += waited
            with self._told_apart():
                opening = self._limited(read_only=True) if with_all_cores else attached(self._path)
                connection = session.enter_context(opening)
            yield connection

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Keep everybody else out; meanwhile the file is whole on disk, with nothing beside it, and may be copied."""
        with self._thread, locked(self._path.parent, exclusive=True, wait_s=self._wait_s):
            if self._path.exists():
                with self._limited(read_only=False) as connection:
                    connection.execute("checkpoint")
            yield

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the lock; make the file where there is none, under another name first, as it takes several writes."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._path.parent, exclusive=True, wait_s=self._wait_s) as waited:
            self.waited_s += waited
            if not self._path.exists():
                fresh = self._path.with_suffix(".part")
                fresh.unlink(missing_ok=True)
                try:
                    duckdb.connect(str(fresh)).close()
                    fresh.rename(self._path)
                finally:
                    fresh.unlink(missing_ok=True)
            yield

    @contextmanager
    def _limited(self, *, read_only: bool) -> Iterator[Connection]:
        with self._told_apart():
            opened = duckdb.connect(str(self._path), read_only=read_only)
        with opened as connection:
            with _LIMITING:  # connections of one process to one file share what is set
                if connection.execute("select current_setting('enable_external_access')").fetchall()[0][0]:
                    connection.execute("set allowed_directories = $1", [self._seen])
                    connection.execute("set enable_external_access = false")
            connection.execute("set TimeZone = 'UTC'")
            connection.execute("set enable_progress_bar = false")
            yield connection

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        """Say of an error of DuckDB's at opening the file whose it is."""
        try:
            yield
        except duckdb.Error as error:
            if "Could not set lock" in str(error):
                raise StoreBusyError(
                    f"{self._path}: a process that is none of the platform's has it open: {error}; close it there"
                ) from error
            raise DataError(
                f"{self._path}: expected a file that DuckDB {duckdb.__version__} reads, found: {error}. Where a later"
                " release wrote it, use that release; else see whether the disk is full, or restore a backup. The facts"
                f" are in {self._log} all the same"
            ) from error
