"""What the workers of one sidecar tell each other: a slot of shared memory each, written by its owner alone.

A slot holds the version its worker has ready to swap to, and a page of JSON about the worker that is a second old at
most. Nobody waits for a lock: the marks are single words, and a page that is being rewritten is read again.
"""

import mmap
import struct
import time
import zlib
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import orjson

from ml_core.flow.read import VersionRef

_SLOT_BYTES = 64 * 1024
_MARK = struct.Struct("<Q")  # at 0: the version that is prepared; at 8: whether the worker serves any
_PAGE = struct.Struct("<II")  # at 16: the page's length and checksum
_PAGE_AT = 24
_PAUSE_S = 0.002
_REFUSED = 1 << 63


class Board:
    """Shared memory for `workers` processes that are forked after it was made."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._memory = mmap.mmap(-1, workers * _SLOT_BYTES)

    def clear_marks(self, worker: int) -> None:
        """Forget what a worker that has ended had prepared, so that nobody waits for it; its page stays."""
        self._memory[worker * _SLOT_BYTES : worker * _SLOT_BYTES + 2 * _MARK.size] = bytes(2 * _MARK.size)

    def write_page(self, worker: int, content: Any) -> None:
        """Replace a worker's page."""
        page, start = orjson.dumps(content), worker * _SLOT_BYTES
        if len(page) > _SLOT_BYTES - _PAGE_AT:
            raise ValueError(f"expected a page of at most {_SLOT_BYTES - _PAGE_AT} bytes, found {len(page)}")
        self._memory[start + _PAGE_AT : start + _PAGE_AT + len(page)] = page
        _PAGE.pack_into(self._memory, start + 2 * _MARK.size, len(page), zlib.crc32(page))

    def read_page(self, worker: int) -> Any:
        """Return a worker's page; None while it has none, or rewrites it without end."""
        start = worker * _SLOT_BYTES
        for _ in range(100):
            length, checksum = _PAGE.unpack_from(self._memory, start + 2 * _MARK.size)
            page = self._memory[start + _PAGE_AT : start + _PAGE_AT + length]
            if length and zlib.crc32(page) == checksum:
                return orjson.loads(page)
            time.sleep(0)
        return None

    def mark(self, worker: int, place: int, value: int | None = None) -> int:
        """Return one of a worker's two marks, after setting it where a value is given."""
        at = worker * _SLOT_BYTES + place * _MARK.size
        if value is not None:
            _MARK.pack_into(self._memory, at, value)
        return int(_MARK.unpack_from(self._memory, at)[0])


class Peers:
    """One worker's view of the others; a follower asks it before it swaps.

    Parameters
    ----------
    board : Board
    worker : int
        Its own slot.
    patience_s : float
        How long it waits for the others to have a version ready, or to have refused it: longer than they need to see
        it and load it. A worker that has not by then is left behind.
    """

    def __init__(
        self, board: Board, worker: int, *, patience_s: float, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._board = board
        self._worker = worker
        self._patience_s = patience_s
        self._sleep = sleep

    def swap_together(self, ref: VersionRef) -> None:
        """Return when all workers that serve have this version ready, so that they swap within milliseconds."""
        board, wanted = self._board, _mark_of(ref)
        board.mark(self._worker, 0, wanted)
        if board.mark(self._worker, 1):  # the first version is served at once: somebody is waiting for an answer
            deadline = time.monotonic() + self._patience_s
            while self._waits_for(wanted) and time.monotonic() < deadline:
                self._sleep(_PAUSE_S)
        board.mark(self._worker, 1, 1)

    def refuse(self, ref: VersionRef) -> None:
        """Tell the others not to wait for this worker to load a version."""
        self._board.mark(self._worker, 0, _mark_of(ref) | _REFUSED)

    def write_page(self, content: Any) -> None:
        """Replace this worker's page."""
        self._board.write_page(self._worker, content)

    def own_page(self) -> Any:
        """Return the page of this worker, or of the one whose place it took; None at first."""
        return self._board.read_page(self._worker)

    def others(self) -> list[Any]:
        """Return the pages of the other workers."""
        pages = (self._board.read_page(other) for other in range(self._board.workers) if other != self._worker)
        return [page for page in pages if page is not None]

    def _waits_for(self, wanted: int) -> bool:
        others = (other for other in range(self._board.workers) if self._board.mark(other, 1))
        return any(self._board.mark(other, 0) & ~_REFUSED != wanted for other in others)


def _mark_of(ref: VersionRef) -> int:
    digest = sha256(f"{ref.version} {ref.manifest_sha256}".encode()).digest()
    return int.from_bytes(digest[:8], "little") & ~_REFUSED | 1
