"""Rows as callers send them, turned into the inputs of the graph, or refused by name.

========================================  ==================================================================
a column is missing                       refused: InputError names it, and the row where only some lack it
a column is not in the signature          ignored, or refused where `refuse_extra` is set
null, in a string column                  the empty string, as in training
null or NaN, in a number column           missing, as in training: the pipeline's own policy handles it
a number in a string column, or reverse   refused: InputError names row and column; "12" is no number
true or false                             refused in either kind of column
infinity, or beyond float32               refused
an integer beyond 2**53                   refused in a number column: it would quietly become another one
an unseen string                          scored: it hashes to a slot like any other
a string that is not valid Unicode        refused: half of a surrogate pair has no UTF-8
========================================  ==================================================================

The policy is `read_string` and `read_number`, value by value. Whole rows and columns of ordinary types take a shorter
way to the same result. Number columns are float32 by contract; a number that float32 cannot hold exactly is rounded to
it. What a reader of JSON gives for an integer of 2**64 and more is a float already, and is scored as that float.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_core.errors import InputError, nearest
from serving.packing import NUMBERS, STRINGS

# `strings`, shape (n_string_columns, n_rows), of str objects, and `numbers`, shape (n_number_columns, n_rows), float32;
# one of them is absent where the signature has no such column.
Feed = dict[str, NDArray[Any]]

EXACT_INTEGER = 2**53
FLOAT32_MAX = float(np.finfo(np.float32).max)
_ORDINARY_STRINGS, _ORDINARY_NUMBERS = {str}, {float, int, type(None)}
_ARROW_FLOATS = {"halffloat", "float", "double"}
_MOST_LAYOUTS = 64
_TEXT = "a string or null"


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where one order of columns holds the strings and the numbers of the signature."""

    strings: Callable[[Any], Sequence[Any]]
    numbers: Callable[[Any], Sequence[Any]]


class RowReader:
    """Turns rows into the inputs of one packed graph; see `serving.packing`.

    Parameters
    ----------
    signature : mapping of str to str
        Raw column to ``string`` or ``float``, in order.
    refuse_extra : bool
        Whether a column outside the signature is an error.

    Attributes
    ----------
    strings, numbers : tuple of str
        The columns that are the rows of either matrix.
    refuse_extra : bool

    All methods raise InputError and are safe to call from several threads.
    """

    def __init__(self, signature: Mapping[str, str], *, refuse_extra: bool = False) -> None:
        self.signature = dict(signature)
        self.strings = tuple(name for name, kind in signature.items() if kind == "string")
        self.numbers = tuple(name for name, kind in signature.items() if kind == "float")
        self._order = (*self.strings, *self.numbers)
        self.refuse_extra = refuse_extra
        self._layouts: dict[tuple[Any, ...], _Layout] = {}
        self._by_name = _Layout(picker(self.strings), picker(self.numbers))

    def split(self, names: Sequence[Any], data: Sequence[Sequence[Any]]) -> Feed:
        """Read rows that are lists of values in the order of `names`."""
        layout = self._layout(names)
        width = len(names)
        if len(data) == 1 and len(data[0]) == width:
            return self._row(layout.strings(data[0]), layout.numbers(data[0]))
        for index, row in enumerate(data):
            if len(row) != width:
                raise InputError(f"row {index}: expected {width} values, one per column, found {len(row)}", row=index)
        columns = list(zip(*data, strict=True)) if data else [()] * width
        return self._columns([*layout.strings(columns), *layout.numbers(columns)])

    def records(self, rows: Sequence[Mapping[str, Any]]) -> Feed:
        """Read rows that are mappings of column to value."""
        if self.refuse_extra:
            for index, row in enumerate(rows):
                self._check_extra(row, index)
        try:
            if len(rows) == 1:
                return self._row(self._by_name.strings(rows[0]), self._by_name.numbers(rows[0]))
            return self._columns([[row[name] for row in rows] for name in self._order])
        except KeyError:
            raise self._missing_in(rows) from None

    def columns(self, columns: Mapping[str, Any]) -> Feed:
        """Read columns: lists, NumPy arrays or Arrow arrays, all of one length."""
        self._check_names(columns)
        return self._columns([columns[name] for name in self._order])

    def _row(self, strings: Sequence[Any], numbers: Sequence[Any]) -> Feed:
        """Read one row, already picked apart."""
        if not set(map(type, strings)) <= _ORDINARY_STRINGS:
            strings = [read_string(name, 0, value) for name, value in zip(self.strings, strings, strict=True)]
        values = None
        if set(map(type, numbers)) <= _ORDINARY_NUMBERS:
            values = _exact(numbers)
        if values is None:
            values = np.array([read_number(name, 0, value) for name, value in zip(self.numbers, numbers, strict=True)])
        return self._feed(np.array(strings, object).reshape(-1, 1), values.astype(np.float32).reshape(-1, 1))

    def _columns(self, columns: Sequence[Any]) -> Feed:
        rows = len(columns[0])
        strings = np.empty((len(self.strings), rows), object)
        numbers = np.empty((len(self.numbers), rows), np.float32)
        for index, (name, values) in enumerate(zip(self._order, columns, strict=True)):
            if len(values) != rows:
                raise InputError(
                    f"column {name!r}: expected {rows} values, as in {self._order[0]!r}, found {len(values)}",
                    column=name,
                )
            if index < len(strings):
                strings[index] = _string_column(name, values)
            else:
                numbers[index - len(strings)] = number_column(name, values)
        return self._feed(strings, numbers)

    def _feed(self, strings: NDArray[Any], numbers: NDArray[np.float32]) -> Feed:
        feed = {}
        if self.strings:
            feed[STRINGS] = strings
        if self.numbers:
            feed[NUMBERS] = numbers
        return feed

    def _layout(self, names: Sequence[Any]) -> _Layout:
        """Return the layout of an order of columns; callers repeat theirs, so it is worked out once."""
        key = tuple(names)
        try:
            return self._layouts[key]
        except KeyError:
            pass
        except TypeError:
            raise InputError("expected the names of columns to be strings") from None
        position = {name: index for index, name in enumerate(names)}
        if len(position) != len(names):
            twice = next(name for name in names if list(names).count(name) > 1)
            raise InputError(f"column {twice!r}: named twice", column=str(twice))
        self._check_names(position)
        layout = _Layout(*(picker([position[name] for name in part]) for part in (self.strings, self.numbers)))
        if len(self._layouts) >= _MOST_LAYOUTS:
            self._layouts.clear()
        self._layouts[key] = layout
        return layout

    def _check_names(self, names: Iterable[Any]) -> None:
        given = set(names)
        for name in self.signature:
            if name not in given:
                raise InputError(_missing(name, given), column=name)
        if self.refuse_extra:
            self._check_extra(given, None)

    def _check_extra(self, names: Iterable[Any], row: int | None) -> None:
        for name in names:
            if name not in self.signature:
                where = "" if row is None else f"row {row}, "
                hint = nearest(str(name), self.signature)
                raise InputError(f"{where}column {str(name)!r:.80}: not one the model takes; {hint}", row=row)

    def _missing_in(self, rows: Sequence[Mapping[str, Any]]) -> InputError:
        """Say which column is missing in which row."""
        index, name = next((i, name) for i, row in enumerate(rows) for name in self._order if name not in row)
        return InputError(f"row {index}, {_missing(name, rows[index])}", column=name, row=index)


def _missing(name: str, given: Iterable[Any]) -> str:
    found = [str(other)[:80] for other in list(given)[:200]]
    close = get_close_matches(name, found, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"found {', '.join(sorted(found)) or 'none'}"
    return f"column {name!r} is missing; {hint}"


def picker(keys: Sequence[Any]) -> Callable[[Any], Sequence[Any]]:
    """Return a function that picks several items as a sequence; `itemgetter` does so for two and more."""
    if len(keys) > 1:
        return itemgetter(*keys)
    return lambda row: [row[key] for key in keys]


def _exact(values: Sequence[Any]) -> NDArray[np.float64] | None:
    """Return ordinary numbers as float64; None when one is so large that it has to be looked at on its own."""
    try:
        read = np.array(values, np.float64)
    except OverflowError:
        return None
    return None if np.count_nonzero(np.abs(read) >= EXACT_INTEGER) else read


def _string_column(name: str, values: Any) -> Sequence[str]:
    listed = _listed(values)
    if not set(map(type, listed)) <= _ORDINARY_STRINGS:
        listed = [read_string(name, index, value) for index, value in enumerate(listed)]
    return listed


def number_column(name: str, values: Any) -> NDArray[np.floating[Any]]:
    """Return a number column by the policy above, a missing number as NaN, not yet rounded to float32."""
    floats = float_array(values)
    if floats is not None:
        largest = float(np.fmax.reduce(np.abs(floats), initial=0.0))  # half floats know no such limit
        read = floats if largest <= FLOAT32_MAX else None
        listed: Sequence[Any] = floats.tolist() if read is None else ()
    else:
        listed = _listed(values)
        read = _exact(listed) if set(map(type, listed)) <= _ORDINARY_NUMBERS else None
    if read is None:
        read = np.array([read_number(name, index, value) for index, value in enumerate(listed)], np.float64)
    return read


def float_array(values: Any) -> NDArray[np.floating[Any]] | None:
    """Return a column that holds floats as an array, NaN where missing; None for any other."""
    if hasattr(values, "type") and str(values.type) in _ARROW_FLOATS:
        values = values.to_numpy(zero_copy_only=False)
    return values if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim == 1 else None


def _listed(values: Any) -> Sequence[Any]:
    """Return a column as a list of Python values, whatever holds it."""
    if isinstance(values, list | tuple):
        return values
    for method in ("to_pylist", "tolist"):
        if hasattr(values, method):
            listed: Sequence[Any] = getattr(values, method)()
            return listed
    return list(values)


def read_string(name: str, row: int, value: Any) -> str:
    """Return a string column's value by the policy above."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return str(value)
    raise _unfit(name, row, _TEXT, value)


def read_number(name: str, row: int, value: Any) -> float:
    """Return a number column's value by the policy above."""
    if value is None:
        return math.nan
    if isinstance(value, np.floating | np.integer):
        value = value.item()
    if type(value) is int:
        if abs(value) <= EXACT_INTEGER:
            return float(value)
        raise _unfit(name, row, "an integer of at most 2**53 (send identifiers as strings)", value)
    if type(value) is float:
        if math.isnan(value) or abs(value) <= FLOAT32_MAX:
            return value
        raise _unfit(name, row, "a finite number that float32 can hold", value)
    raise _unfit(name, row, "a number or null", value)


def _unfit(name: str, row: int, expected: str, value: Any) -> InputError:
    found = repr(value) if isinstance(value, bool | float) else f"{type(value).__name__} {_shown(value)}"
    if expected == _TEXT and isinstance(value, int | float):
        found += "; send it as a string"
    return InputError(f"row {row}, column {name!r}: expected {expected}, found {found}", column=name, row=row)


def _shown(value: Any) -> str:
    """Return a value so that it fits an error message, whatever its size."""
    if isinstance(value, int):
        return str(value) if abs(value) <= EXACT_INTEGER else f"of {value.bit_length()} bits"
    if isinstance(value, str):
        return ascii(value[:40])
    return f"of {len(value)} items" if isinstance(value, list | dict) else ascii(value)[:40]
