"""A column of strings as a dictionary and codes: what is looked up or worked out once per distinct string.

Of each column the last dictionary is kept with what was made of it, because batches of one table share theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_core.arrays import location, present

_PLAIN_STRINGS = frozenset({str, type(None)})
_STRINGS = pa.StringArray | pa.LargeStringArray | pa.StringViewArray
_MOST_UNUSED = 8
"""A dictionary of more strings than this for each row is cut down to those that occur."""


class Dictionary:
    """The strings that occur in a column, with null as "" last, and what has been made of them."""

    __slots__ = ("_made", "arrow", "strings")

    def __init__(self, arrow: pa.Array) -> None:
        self.arrow = arrow  # held, so that no other array can come to lie where it does
        self.strings = np.append(arrow.to_numpy(zero_copy_only=False), "")
        self._made: dict[Any, NDArray[Any]] = {}

    def is_of(self, arrow: pa.Array) -> bool:
        """Say whether these are the strings of an array."""
        return self.arrow is arrow or location(self.arrow) == location(arrow) or bool(self.arrow.equals(arrow))

    def made(self, name: Any, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return what was made of the strings under a name, making it the first time."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """A string column: a dictionary, and which of its strings each row has, shape (n_rows,)."""

    dictionary: Dictionary
    codes: NDArray[np.integer[Any]]

    @classmethod
    def of(cls, values: Any, last: Dictionary | None = None) -> Self | None:
        """Read a column; None where it holds anything but strings and nulls.

        Parameters
        ----------
        last : Dictionary, optional
            The one this column had before, which is used again where it is the same.
        """
        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        if isinstance(array, pa.ChunkedArray):  # dictionaries that differ from chunk to chunk
            array = pa.concat_arrays(array.unify_dictionaries().chunks)
        if not isinstance(array, pa.Array):
            listed = array.tolist() if isinstance(array, np.ndarray) else array
            if not _PLAIN_STRINGS.issuperset(map(type, listed)):
                return None
            array = pa.array(listed, pa.large_string())
        if not isinstance(array, pa.DictionaryArray):
            array = array.dictionary_encode()
        if len(array.dictionary) > _MOST_UNUSED * len(array):
            array = array.dictionary_decode().dictionary_encode()
        strings = array.dictionary
        if not isinstance(strings, _STRINGS) or strings.null_count:
            return None
        if last is None or not last.is_of(strings):
            last = Dictionary(strings)
        return cls(last, _codes(array.indices, len(strings)))

    def spread(self, name: Any, work_out: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
        """Return what a function, known by a name, makes of each row's string; it is asked once per distinct one."""
        dictionary = self.dictionary
        made: NDArray[Any] = dictionary.made(name, lambda: work_out(dictionary.strings))[self.codes]
        return made

    def distinct(self) -> "Words":
        """Return each string of the dictionary once."""
        return Words(self.dictionary, np.arange(len(self.dictionary.strings)))


def _codes(indices: pa.Array, absent: int) -> NDArray[np.integer[Any]]:
    """Return indices, with `absent` for null."""
    there = present(indices)
    if there is not None:
        parts = [None, indices.buffers()[1]]
        indices = pa.Array.from_buffers(indices.type, len(indices), parts, offset=indices.offset)
    codes: NDArray[np.integer[Any]] = indices.to_numpy()
    return codes if there is None else np.where(there, codes.astype(np.int64), absent)
