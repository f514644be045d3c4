"""What is taken for a full disk, and what only speaks of one."""

import errno

import duckdb
import pytest

from ml_core.disk import room_for
from ml_core.errors import DiskFullError


def test_a_full_disk_behind_an_error_without_words_is_named() -> None:
    """Libraries wrap the system's error in one of theirs, some without a text."""
    with pytest.raises(DiskFullError, match="a segment"), room_for("a segment", "/data"):
        raise RuntimeError from OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DiskFullError, match="No space left"), room_for("the store", "/data"):
        raise duckdb.IOException("Could not write file: No space left on device")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("column 'msg' has the value 'disk is full'"),
        duckdb.ConversionException("Could not convert string 'no space left on device' to INT32"),
        OSError(errno.EACCES, "Permission denied"),
    ],
    ids=repr,
)
def test_an_error_that_quotes_data_is_left_alone(error: Exception) -> None:
    """A fact may hold any words; a retryable error would have it tried for ever."""
    with pytest.raises(type(error)), room_for("the store", "/data"):
        raise error
