"""Rows as callers send them, turned into the inputs of the graph, or refused by name.

========================================  ==================================================================
a column is missing                       refused: InputError names it
a column is not in the signature          ignored: a caller may send more than one model needs
null, in a string column                  the empty string, as in training
null or NaN, in a number column           missing, as in training: the pipeline's own policy handles it
a number in a string column, or reverse   refused: InputError names row and column
true or false in a number column          refused
infinity                                  refused
an integer beyond 2**53                   refused in a number column: float32 would quietly change it
an unseen string                          scored: it hashes to a slot like any other
========================================  ==================================================================
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_core.errors import InputError
from ml_core.project import nearest

_EXACT_INTEGER = 2**53
_FLOAT32_MAX = float(np.finfo(np.float32).max)

Columns = Mapping[str, Sequence[Any]]


def columns_of(rows: Any) -> Columns:  # noqa: ANN401 - whatever the caller has
    """Return rows, columns or an Arrow table as columns."""
    if hasattr(rows, "column_names"):
        return {name: rows.column(name).to_pylist() for name in rows.column_names}
    if isinstance(rows, Mapping):
        return rows
    names = dict.fromkeys(name for row in rows for name in row)
    for index, row in enumerate(rows):
        if len(row) != len(names):
            missing = next(name for name in names if name not in row)
            raise InputError(f"row {index}: no value for column {missing!r}, which other rows have")
    return {name: [row[name] for row in rows] for name in names}


def feed_of(columns: Columns, signature: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Return the graph's inputs, one array of shape (n_rows,) per column; raise InputError for what does not fit."""
    feed: dict[str, NDArray[Any]] = {}
    rows: int | None = None
    for name, kind in signature.items():
        values = columns.get(name)
        if values is None:
            raise InputError(f"missing column {name!r} ({kind}): {nearest(name, columns)}")
        if rows is not None and len(values) != rows:
            raise InputError(f"column {name!r}: expected {rows} values, found {len(values)}")
        rows = len(values)
        feed[name] = _strings(name, values) if kind == "string" else _numbers(name, values)
    return feed


def _strings(name: str, values: Sequence[Any]) -> NDArray[Any]:
    array = np.empty(len(values), object)
    for index, value in enumerate(values):
        if value is None:
            array[index] = ""
        elif isinstance(value, str):
            array[index] = value
        else:
            raise InputError(f"row {index}, column {name!r}: expected a string or null, found {_shown(value)}")
    return array


def _numbers(name: str, values: Sequence[Any]) -> NDArray[np.float32]:
    array = np.empty(len(values), np.float32)
    for index, value in enumerate(values):
        if value is None:
            array[index] = np.nan
        elif type(value) is float or type(value) is int:
            if abs(value) > (_EXACT_INTEGER if type(value) is int else _FLOAT32_MAX):
                found = "an infinite number" if math.isinf(value) else f"{value!r:.40}, too large to be exact"
                raise InputError(f"row {index}, column {name!r}: expected a finite number, found {found}")
            array[index] = value
        elif isinstance(value, np.floating | np.integer):
            array[index] = value
        else:
            raise InputError(f"row {index}, column {name!r}: expected a number or null, found {_shown(value)}")
    return array


def _shown(value: Any) -> str:  # noqa: ANN401 - anything a caller sent
    return f"{type(value).__name__} {value!r:.40}"
