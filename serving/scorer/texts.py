"""Strings found by their bytes: many columns at once, without an object for any of them.

A batch of Arrow strings, or of JSON that has not been taken apart, is one buffer and the places of its strings in it.
What each is worth is looked up in a table of compiled code (`serving.scorer.stringtable`), some 10 ns each. The bytes
themselves are compared, so a look-up is exact; what is not found, or too long for the table, is worked out from the
string itself.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_core.arrays import present

try:
    # `from serving.scorer import` would not tell what is missing from what is broken
    import serving.scorer.jsonrows as jsonrows  # noqa: PLR0402
    import serving.scorer.stringtable as stringtable  # noqa: PLR0402
except ModuleNotFoundError:  # installed where there was no C compiler
    jsonrows = stringtable = None  # type: ignore[assignment]

_BITS: Final = 16
_MOST_HELD: Final = 1 << (_BITS - 2)
_KEY_PARTS: Final = 6

_Where = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

COMPILED: Final = None not in {jsonrows, stringtable}
"""Whether strings can be found by their bytes at all."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Strings where they lie.

    Attributes
    ----------
    content : ndarray of uint8
        The bytes of all strings, in UTF-8.
    starts, lengths : ndarray of int64, shape (n_columns, n_rows)
        In bytes.
    """

    content: NDArray[np.uint8]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def of_arrow(cls, arrays: Sequence[pa.Array]) -> "Texts":
        """Return columns of Arrow's strings, all of one length; null is the empty string."""
        rows, ends, parts = len(arrays[0]), [], []
        for array in arrays:
            _, offsets, data = array.buffers()
            wide = np.int64 if isinstance(array, pa.LargeStringArray) else np.int32
            ends.append(np.frombuffer(offsets, wide, rows + 1, array.offset * np.dtype(wide).itemsize))
            parts.append(memoryview(data or b"")[ends[-1][0] : ends[-1][-1]])
        places = np.array(ends, np.int64)
        lengths = np.diff(places)
        places += np.cumsum([0, *map(len, parts[:-1])]).reshape(-1, 1) - places[:, :1]
        for length, array in zip(lengths, arrays, strict=True):
            there = present(array)
            if there is not None:
                np.multiply(length, there, out=length)
        return cls(np.frombuffer(b"".join(parts), np.uint8), places[:, :-1], lengths)

    def of(self, columns: Sequence[int]) -> "Texts":
        """Return some of the columns."""
        return Texts(self.content, self.starts[columns], self.lengths[columns])

    def strings(self, places: NDArray[np.int64]) -> Iterator[str]:
        """Yield the strings at flat places; raise UnicodeDecodeError where one is not valid."""
        content = self.content.data
        starts, lengths = self.starts.ravel()[places].tolist(), self.lengths.ravel()[places].tolist()
        return (str(content[start : start + length], "utf-8") for start, length in zip(starts, lengths, strict=True))


class TextMemory:
    """What the strings of some columns are worth, as far as it is remembered; safe to share between threads.

    It holds at most 16,384 strings in 1.3 MB, and starts anew where they have become more. Nobody waits for anybody: of
    two threads that have something new, one may keep it.
    """

    def __init__(self) -> None:
        self._table = _new_table()
        self._learning = Lock()

    def look_up(
        self, texts: Texts, columns: Sequence[int], work_out: Callable[[int, list[str]], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Return what the strings of each row are worth together, shape (n_rows,).

        Parameters
        ----------
        texts : Texts
        columns : sequence of int
            The number that each of its columns is known by.
        work_out : callable
            Is given a column's number and strings of it that are not remembered; returns what each is worth.

        Raises
        ------
        UnicodeDecodeError
        """
        table, rows = self._table, texts.starts.shape[1]
        where = texts.content, texts.starts, texts.lengths, np.array(columns, np.int64) + 1
        totals = np.zeros(rows)
        unknown = table.add_worths(*where, totals)
        if unknown.size:
            strings = list(texts.strings(unknown))
            ends = np.searchsorted(unknown, np.arange(len(columns) + 1) * rows).tolist()
            worths = np.concatenate(
                [
                    work_out(column, strings[start:end])
                    for column, (start, end) in zip(columns, pairwise(ends), strict=True)
                    if start < end
                ]
            )
            np.add.at(totals, unknown % rows, worths)
            self._learn(where, unknown, worths)
        return totals

    def _learn(self, where: _Where, places: NDArray[np.int64], worths: NDArray[np.float64]) -> None:
        if not self._learning.acquire(blocking=False):
            return
        try:
            if self._table.held == _MOST_HELD:
                self._table = _new_table()
            self._table.learn(*where, places, worths)
        finally:
            self._learning.release()


def _new_table() -> "stringtable.Table":
    odds = np.random.default_rng().integers(0, 2**63, _KEY_PARTS)  # drawn anew, so that nobody can guess them
    return stringtable.Table(_BITS, _MOST_HELD, odds.astype(np.uint64))
