"""Strings found by their bytes: many columns at once, without an object for any of them.

A batch of Arrow strings, or of JSON that has not been taken apart, is one buffer and the places of its strings in it.
What each is worth is looked up in a hash table that lies in NumPy arrays: a dozen operations over all strings of a
batch, some 30 ns each. The bytes themselves are compared, so a look-up is exact; what is not found, or too long for the
table, is worked out from the string itself.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_core.arrays import present

_WORD: Final = 8
_MOST_WORDS: Final = 4
LONGEST: Final = _WORD * _MOST_WORDS
"""How many bytes a string may have that is looked up here."""

_BLOCK: Final = 1 << 14
"""Strings that are looked up at once: the dozen arrays of as many entries stay near to the processor."""

_BITS: Final = 16
_PROBES: Final = 4
_MOST_HELD: Final = 1 << (_BITS - 2)
# what of each 8 bytes belongs to a string, by its length
_MASKS: Final = np.array(
    [
        [(1 << 8 * min(max(length - start, 0), _WORD)) - 1 for length in range(LONGEST + 1)]
        for start in range(0, LONGEST, _WORD)
    ],
    np.uint64,
)

Keys = list[NDArray[np.uint64]]
"""A string's column and length, then its bytes, eight at a time, zeros behind its end; each shape (n_strings,)."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Strings where they lie.

    Attributes
    ----------
    words : ndarray of uint64
        The bytes of all strings, in UTF-8, and `LONGEST` more.
    starts, lengths : ndarray of int64, shape (n_columns, n_rows)
        In bytes.
    """

    words: NDArray[np.uint64]
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
        return cls(padded(parts), places[:, :-1], lengths)

    def of(self, columns: Sequence[int], rows: slice = slice(None)) -> "Texts":
        """Return some of the columns, and of the rows."""
        return Texts(self.words, self.starts[columns, rows], self.lengths[columns, rows])

    def strings(self, places: NDArray[np.intp]) -> Iterator[str]:
        """Yield the strings at flat places; raise UnicodeDecodeError where one is not valid."""
        content = self.words.view(np.uint8).data
        starts, lengths = self.starts.ravel()[places].tolist(), self.lengths.ravel()[places].tolist()
        return (str(content[start : start + length], "utf-8") for start, length in zip(starts, lengths, strict=True))

    def keys(self, columns: Sequence[int], most_words: int) -> Keys:
        """Return what each string is looked up by, its column known by a number.

        Parameters
        ----------
        columns : sequence of int
        most_words : int
            1 where no string has more than 8 bytes, or 4, with which one of more than 32 is nobody's.
        """
        starts, lengths = self.starts.ravel(), self.lengths.ravel()
        tags = (self.lengths | ((np.array(columns, np.int64) + 1) << 32).reshape(-1, 1)).ravel()
        if most_words == _MOST_WORDS:
            tags[lengths > LONGEST] = -1
            lengths = np.minimum(lengths, LONGEST)
        keys = [tags.view(np.uint64)]
        at, shift = starts >> 3, ((starts & 7) << 3).view(np.uint64)
        back = np.uint64(63) - shift
        low = self.words.take(at)
        for mask in _MASKS[:most_words]:
            at += 1
            high = self.words.take(at)
            word = low >> shift
            word |= (high << np.uint64(1)) << back
            word &= mask.take(lengths)
            keys.append(word)
            low = high
        return keys


def padded(parts: Sequence[Any]) -> NDArray[np.uint64]:
    """Return bytes one after another, as words that may be read beyond their end."""
    sizes = [len(part) for part in parts]
    words = np.zeros(sum(sizes) // _WORD + _MOST_WORDS + 2, np.uint64)
    content, end = words.view(np.uint8), 0
    for part, size in zip(parts, sizes, strict=True):
        content[end : end + size] = np.frombuffer(part, np.uint8)
        end += size
    return words


class _Entries:
    """An open hash table: a slot, the string's own or one of the next, holds the place of what is known of it.

    An entry is written before its slot, and neither is changed afterwards, so that a reader finds all of it or nothing,
    and that the words which a short string does not have are zero in its entry, by however many it was learned.
    What is looked up often lies together, and stays near to the processor.
    """

    def __init__(self) -> None:
        self.held = 0
        self._slots = np.zeros(1 << _BITS, np.intp)
        self._keys: Keys = [np.zeros(_MOST_HELD + 1, np.uint64) for _ in range(1 + _MOST_WORDS)]
        self._worths = np.zeros(_MOST_HELD + 1)

    def find(self, keys: Keys, slots: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Return what each string is worth, and which are not here, ascending."""
        places = self._slots.take(slots)
        left = np.flatnonzero(self._differ(keys, places))
        worths = self._worths.take(places)
        for step in range(1, _PROBES):
            if not left.size:
                break
            places = self._slots.take(_after(slots[left], step))
            differ = self._differ([key[left] for key in keys], places)
            here = ~differ
            worths[left[here]] = self._worths[places[here]]
            left = left[differ]
        return worths, left

    def fill(self, keys: Keys, slots: NDArray[np.intp], worths: NDArray[np.float64]) -> None:
        """Take strings in whose own slots differ, as far as one of their slots is free."""
        for step in range(_PROBES):
            at = _after(slots, step)
            free = self._slots[at] == 0
            places = np.arange(self.held + 1, self.held + 1 + np.count_nonzero(free))
            self._worths[places] = worths[free]
            for held, key in zip(self._keys, keys, strict=False):
                held[places] = key[free]
            self._slots[at[free]] = places
            self.held += places.size
            keys, slots, worths = [key[~free] for key in keys], slots[~free], worths[~free]

    def _differ(self, keys: Keys, places: NDArray[np.intp]) -> NDArray[np.bool_]:
        differ = self._keys[0].take(places)
        differ ^= keys[0]
        for held, key in zip(self._keys[1:], keys[1:], strict=False):
            word = held.take(places)
            word ^= key
            differ |= word
        found: NDArray[np.bool_] = differ != 0
        return found


class TextMemory:
    """What the strings of some columns are worth, as far as it is remembered; safe to share between threads.

    It holds at most 16,384 strings in 1.3 MB, and starts anew where they have become more. Nobody waits for anybody: of
    two threads that have something new, one may keep it.
    """

    def __init__(self) -> None:
        draw = np.random.default_rng()  # so that nobody can send strings that all want one slot
        self._odd = [np.uint64(odd | 1) for odd in draw.integers(0, 2**63, _MOST_WORDS + 2).tolist()]
        self._entries = _Entries()
        self._learning = Lock()

    def look_up(
        self, texts: Texts, columns: Sequence[int], work_out: Callable[[int, list[str]], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Return what each string is worth, shape (n_columns, n_rows).

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
        rows = len(texts.lengths.T)
        worths = np.empty((len(columns), rows))
        longest = texts.lengths.max(axis=1, initial=0)
        for some, most_words in ((longest <= _WORD, 1), (longest > _WORD, _MOST_WORDS)):
            places = np.flatnonzero(some).tolist()
            known_by, step = [columns[place] for place in places], 1 + _BLOCK // (1 + len(places))
            for start in range(0, rows if places else 0, step):
                block = slice(start, start + step)
                worths[places, block] = self._look_up(texts.of(places, block), known_by, most_words, work_out)
        return worths

    def _look_up(
        self,
        texts: Texts,
        columns: Sequence[int],
        most_words: int,
        work_out: Callable[[int, list[str]], NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        entries, keys = self._entries, texts.keys(columns, most_words)
        slots = self._slots(keys)
        worths, unknown = entries.find(keys, slots)
        if unknown.size:
            strings, rows = list(texts.strings(unknown)), texts.starts.shape[1]
            ends = np.searchsorted(unknown, np.arange(len(columns) + 1) * rows).tolist()
            for column, (start, end) in zip(columns, pairwise(ends), strict=True):
                if start < end:
                    worths[unknown[start:end]] = work_out(column, strings[start:end])
            short = unknown[texts.lengths.ravel()[unknown] <= LONGEST]
            new = short[np.unique(slots[short], return_index=True)[1]]
            self._learn(entries, [key[new] for key in keys], slots[new], worths[new])
        return worths.reshape(texts.starts.shape)

    def _slots(self, keys: Keys) -> NDArray[np.intp]:
        mixed = keys[0] * self._odd[0]
        for key, odd in zip(keys[1:], self._odd[1:], strict=False):
            mixed ^= key * odd
        mixed ^= mixed >> np.uint64(32)
        mixed *= self._odd[-1]
        mixed >>= np.uint64(64 - _BITS)
        return mixed.view(np.intp)

    def _learn(self, entries: _Entries, keys: Keys, slots: NDArray[np.intp], worths: NDArray[np.float64]) -> None:
        if not self._learning.acquire(blocking=False):
            return
        try:
            if entries is self._entries:
                if entries.held + slots.size > _MOST_HELD:
                    self._entries = entries = _Entries()
                entries.fill([key[:_MOST_HELD] for key in keys], slots[:_MOST_HELD], worths[:_MOST_HELD])
        finally:
            self._learning.release()


def _after(slots: NDArray[np.intp], step: int) -> NDArray[np.intp]:
    return (slots + step) & ((1 << _BITS) - 1)
