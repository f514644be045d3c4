"""Raw columns as the stages see them: checked, and read once per batch.

The invariant: a batch that passes here can be learned. Strings are `Text`, with a missing one read as ""; numbers are
float64 by way of float32 (the contract of the feature table and of the exported graph), with a missing one as NaN.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml_core.arrays import location
from ml_core.errors import InputError, nearest
from ml_core.learners.compiled import kernel
from ml_core.pipeline.hashing import hash_strings


@kernel
def _widen(numbers, out):  # type: ignore[no-untyped-def]
    """Copy float32 into float64; return how many are infinite."""
    infinite = 0
    for row in range(numbers.size):
        out[row] = numbers[row]
        infinite += abs(out[row]) == np.inf
    return infinite


Rows: TypeAlias = pa.Table | pa.RecordBatch


@dataclass(frozen=True, eq=False)
class Words:
    """The strings of a dictionary, distinct and a missing one as "".

    Parameters
    ----------
    source : pyarrow.Array
        As it came; held, so that no other dictionary can come to lie where it does.
    array : pyarrow.LargeStringArray
    moved : pyarrow.Array or None
        For each string of the source its place in `array`; None where it is the same.
    """

    source: Any
    array: Any
    moved: Any = None

    @classmethod
    def of(cls, source: Any) -> "Words":
        """Read a dictionary, whose strings are distinct but for null and ""."""
        array = source.cast(pa.large_string())
        if not array.null_count:
            return cls(source, array)
        merged = pc.fill_null(array, "").dictionary_encode()
        return cls(source, merged.dictionary, merged.indices if len(merged.dictionary) < len(array) else None)

    def are_of(self, source: Any) -> bool:
        """Say whether these are the strings of a dictionary, by where it lies: batches of one table share theirs."""
        return location(self.source) == location(source)

    @cached_property
    def hashes(self) -> NDArray[np.int64]:
        """The 32-bit hash of each string."""
        return hash_strings(self.array)

    @cached_property
    def with_empty(self) -> tuple["Words", int]:
        """The same strings and "" at the end, unless it is one of them; and the place of ""."""
        place = int(pc.index(self.array, "").as_py())
        if place >= 0:
            return self, place
        return Words(self.source, pa.concat_arrays([self.array, pa.array([""], self.array.type)])), len(self.array)


@dataclass(frozen=True)
class Text:
    """A column of strings; each of its forms is made when first asked for.

    Parameters
    ----------
    array : pyarrow.LargeStringArray or IntegerArray
        The strings, or their places in `words`; without nulls.
    words : Words, optional
        The strings' dictionary.
    """

    array: Any
    words: Words | None = None

    @cached_property
    def hashed(self) -> tuple[NDArray[np.int64], NDArray[np.int32] | None]:
        """The 32-bit hashes of a dictionary's words and each row's place among them; else each row's, and None."""
        return (hash_strings(self.array), None) if self.words is None else (self.words.hashes, self.codes)

    @property
    def hashes(self) -> NDArray[np.int64]:
        """The 32-bit hash of each row's string, shape (n_rows,)."""
        hashes, places = self.hashed
        return hashes if places is None else hashes[places]

    @cached_property
    def codes(self) -> NDArray[np.int32]:
        """For each row, the position of its string in `distinct`, shape (n_rows,); read-only."""
        return _plain(self._encoded[0], np.int32)

    @cached_property
    def distinct(self) -> list[str]:
        """The strings that occur, in no particular order; a dictionary may hold more than occur."""
        return list(self._encoded[1].to_pylist())

    @cached_property
    def _encoded(self) -> tuple[Any, Any]:
        if self.words is not None:
            return self.array, self.words.array
        encoded = self.array.dictionary_encode()
        return encoded.indices, encoded.dictionary


Columns = dict[str, Any]
"""A column's `Text`, or its float64 numbers of shape (n_rows,); a stage may replace what later stages see."""


def read_columns(rows: Rows, signature: Mapping[str, str], known: dict[str, Words] | None = None) -> Columns:
    """Read and check the columns of `signature`.

    Parameters
    ----------
    known : dict of str to Words, optional
        The last dictionary of each column, taken again where this batch has the same, and kept for the next batch.

    Raises
    ------
    InputError
        A column is missing or of the wrong type, or a number is infinite.
    """
    columns: Columns = {}
    known = {} if known is None else known
    names = rows.schema.names
    for name, kind in signature.items():
        if names.count(name) != 1:
            found = names.count(name) or f"none: {nearest(name, names)}"
            raise InputError(f"expected one column {name!r} ({kind}), found {found}")
        column = rows.column(names.index(name))
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        columns[name] = _text(name, array, known) if kind == "string" else _numbers(name, array)
    return columns


def _text(name: str, array: Any, known: dict[str, Words]) -> Text:
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    plain = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if pa.types.is_null(array.type):
        plain = pa.large_string()
        array = array.cast(plain)
    if not (pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain)):
        raise InputError(f"expected strings in column {name!r}, found {array.type}")
    if pa.types.is_dictionary(array.type):
        words = known.get(name)
        if words is None or not words.are_of(array.dictionary):
            words = known[name] = Words.of(array.dictionary)
        return _coded(name, array.indices, words)
    strings = array.cast(pa.large_string())
    return Text(pc.fill_null(strings, "") if strings.null_count else strings)


def _coded(name: str, places: Any, words: Words) -> Text:
    """Return strings by their places in a dictionary; where that is null, "" is meant.

    Arrow checks places only where it is asked to, and kernels look words up without a check of their own.
    """
    lowest, highest = pc.min_max(places).as_py().values()
    if lowest is not None and (lowest < 0 or highest >= len(words.source)):
        raise InputError(
            f"expected places below {len(words.source)} in the dictionary of column {name!r},"
            f" found {lowest} to {highest}"
        )
    if words.moved is not None:
        places = words.moved.take(places)
    if places.null_count:
        words, empty = words.with_empty
        places = pc.fill_null(places.cast(pa.int64()), empty)
    return Text(places, words)


def _numbers(name: str, array: Any) -> NDArray[np.float64]:
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_null(array.type)):
        raise InputError(f"expected numbers in column {name!r}, found {array.type}")
    numbers = _plain(array.cast(pa.float32(), safe=False), np.float32)
    wide = np.empty(numbers.size)
    if _widen(numbers, wide):
        infinite = np.flatnonzero(np.isinf(numbers))[0]
        raise InputError(
            f"expected finite numbers (or NaN for a missing one) in column {name!r}, found {numbers[infinite]} in row"
            f" {infinite}"
        )
    return wide


def _plain(array: Any, kind: type[np.generic]) -> NDArray[Any]:
    """Return an Arrow array as the one kind that kernels are compiled for: contiguous and, like Arrow's, read-only."""
    plain = np.ascontiguousarray(array.to_numpy(zero_copy_only=False), kind)
    plain.flags.writeable = False
    return plain
