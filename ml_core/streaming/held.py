"""The right to do something alone; the kernel takes it back from a process that dies."""

import fcntl
from pathlib import Path
from typing import Self

from ml_core.errors import StreamError


class Held:
    """A lock on a file for as long as the block runs.

    Parameters
    ----------
    file : Path
        Made, with its folder, where it is missing.
    what : str
        What another process is doing that has it, for the message.

    Raises
    ------
    StreamError
        On entering: another process holds it.
    """

    def __init__(self, file: Path, what: str) -> None:
        self._path, self._what = file, what

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise StreamError(f"{self._path.parent}: another process {self._what}; stop it first") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
