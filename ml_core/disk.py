"""A disk that is full, said the same way whoever met it: an operating system, DuckDB, sqlite, or MLflow over it.

Nothing here frees anything. What was being written is the caller's to leave out: everything on disk is written under
another name first, or in a transaction.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_core.errors import DiskFullError

_FULL = {errno.ENOSPC, errno.EDQUOT}
# whose errors tell a full disk by their text alone; what others say may quote anybody's data
_TOLD_BY = {
    *("OSError", "IOException", "OutOfMemoryException", "FatalException", "TransactionException"),
    *("OperationalError", "MlflowException", "ArrowException"),
}
_SAID = ("no space left on device", "disk is full", "disk quota exceeded", "out of disk space")


def is_full(error: BaseException) -> bool:
    """Say whether an error, or one it was raised from, is that of a full disk."""
    seen: BaseException | None = error
    while seen is not None:
        told = bool(_TOLD_BY & {kind.__name__ for kind in type(seen).__mro__}) and str(seen).lower()
        if (isinstance(seen, OSError) and seen.errno in _FULL) or (told and any(words in told for words in _SAID)):
            return True
        seen = seen.__cause__ or seen.__context__  # a rollback may fail as well, and raise its own
    return False


def said(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error) or repr(error)).splitlines()[0][:200]


@contextmanager
def room_for(what: str, place: Path | str) -> Iterator[None]:
    """Raise DiskFullError, naming what was written and where, in place of whatever a full disk raises."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        raise DiskFullError(
            f"{place}: expected room for {what}, found the disk full ({said(error)}). What was"
            " there before is whole, and nothing half-written is read: free some space (`modelflow gc` lets old"
            " versions go; docs/operations.md says what grows), then run the same command again"
        ) from error
