"""A disk that is full, said the same way whoever met it: an operating system, DuckDB, sqlite, or MLflow over it.

Nothing here frees anything. What was being written is the caller's to leave out: everything on disk is written under
another name first, or in a transaction.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_core.errors import DiskFullError, ModelFlowError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_SAID = ("no space left on device", "disk is full", "disk quota exceeded", "out of disk space")


def is_full(error: BaseException) -> bool:
    """Say whether an error, or one it was raised from, is that of a full disk."""
    seen: BaseException | None = error
    while seen is not None:
        said = "" if isinstance(seen, ModelFlowError) else str(seen).lower()  # what ours say of disks is advice
        if (isinstance(seen, OSError) and seen.errno in _FULL) or any(words in said for words in _SAID):
            return True
        seen = seen.__cause__ or seen.__context__  # a rollback may fail as well, and raise its own
    return False


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
            f"{place}: expected room for {what}, found the disk full ({str(error).splitlines()[0][:200]}). What was"
            " there before is whole, and nothing half-written is read: free some space (`modelflow gc` lets old"
            " versions go; docs/operations.md says what grows), then run the same command again"
        ) from error
