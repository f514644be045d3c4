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


@dataclass(frozen=True)
class Text:
    """A column of strings; each of its forms is made when first asked for.

    Parameters
    ----------
    array : pyarrow.LargeStringArray or DictionaryArray of them
        Without nulls.
    """

    array: Any

    @cached_property
    def hashed(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The 32-bit hashes of strings, and for each row the position of its own: once per word of a dictionary."""
        if isinstance(self.array, pa.DictionaryArray):
            return hash_strings(self.array.dictionary), self.codes
        return hash_strings(self.array), np.arange(len(self.array), dtype=np.int32)

    @property
    def hashes(self) -> NDArray[np.int64]:
        """The 32-bit hash of each row's string, shape (n_rows,)."""
        hashes, places = self.hashed
        return hashes[places]

    @cached_property
    def codes(self) -> NDArray[np.int32]:
        """For each row, the position of its string in `distinct`, shape (n_rows,)."""
        return np.require(self._encoded.indices.to_numpy(zero_copy_only=False), np.int32, ("C", "W"))

    @cached_property
    def distinct(self) -> list[str]:
        """The strings that occur, in no particular order; a dictionary may hold more than occur."""
        return list(self._encoded.dictionary.to_pylist())

    @cached_property
    def _encoded(self) -> Any:
        return self.array if isinstance(self.array, pa.DictionaryArray) else self.array.dictionary_encode()


Columns = dict[str, Any]
"""A column's `Text`, or its float64 numbers of shape (n_rows,); a stage may replace what later stages see."""


def read_columns(rows: Rows, signature: Mapping[str, str]) -> Columns:
    """Read and check the columns of `signature`.

    Raises
    ------
    InputError
        A column is missing or of the wrong type, or a number is infinite.
    """
    columns: Columns = {}
    names = rows.schema.names
    for name, kind in signature.items():
        if names.count(name) != 1:
            found = names.count(name) or f"none: {nearest(name, names)}"
            raise InputError(f"expected one column {name!r} ({kind}), found {found}")
        column = rows.column(names.index(name))
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        columns[name] = _text(name, array) if kind == "string" else _numbers(name, array)
    return columns


def _text(name: str, array: Any) -> Text:
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    plain = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if pa.types.is_null(array.type):
        plain = pa.large_string()
        array = array.cast(plain)
    if not (pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain)):
        raise InputError(f"expected strings in column {name!r}, found {array.type}")
    if pa.types.is_dictionary(array.type):
        return Text(_without_nulls(array))
    strings = array.cast(pa.large_string())
    return Text(pc.fill_null(strings, "") if strings.null_count else strings)


def _without_nulls(array: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return a dictionary array of distinct strings, in which a missing one is "" too."""
    words, places = array.dictionary.cast(pa.large_string()), array.indices
    if words.null_count:
        merged = pc.fill_null(words, "").dictionary_encode()
        if len(merged.dictionary) < len(words):  # it held "" as well
            places = merged.indices.take(places)
        words = merged.dictionary
    if places.null_count:
        empty = pc.index(words, "").as_py()
        if empty < 0:
            empty, words = len(words), pa.concat_arrays([words, pa.array([""], words.type)])
        places = pc.fill_null(places.cast(pa.int64()), empty)
    return pa.DictionaryArray.from_arrays(places, words)


def _numbers(name: str, array: Any) -> NDArray[np.float64]:
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_null(array.type)):
        raise InputError(f"expected numbers in column {name!r}, found {array.type}")
    # kernels are compiled for one kind of array: contiguous, and not a view of what Arrow forbids to write to
    numbers = np.require(array.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False), np.float32, ("C", "W"))
    wide = np.empty(numbers.size)
    if _widen(numbers, wide):
        infinite = np.flatnonzero(np.isinf(numbers))[0]
        raise InputError(
            f"expected finite numbers (or NaN for a missing one) in column {name!r}, found {numbers[infinite]} in row"
            f" {infinite}"
        )
    return wide
