"""The keys of rows as texts, by which the prediction log's readers find a row's label.

No model has looked at this column, so it may hold anything. Only strings and numbers are keys, and none of more than
`LONGEST_KEY` characters: a longer one is no key, and is never made, since a dictionary may hold it once for many rows.
"""

from typing import Any, Final

import pyarrow as pa

from serving.wire import Rows, column_of

LONGEST_KEY: Final = 256
"""In characters. A longer one is left out, not cut: what is left of it could be another row's."""


def keys_of(rows: Rows, column: str, count: int) -> pa.Array:
    """Return the keys of rows that have been read, shape (count,), of strings; null where there is none.

    Parameters
    ----------
    rows : Rows
    column : str
        The column of keys, of the model's or not. Where it is missing, or not one a row, there are no keys.
    count : int
        How many rows there are.
    """
    found = column_of(rows, column)
    if found is None or len(found) != count:
        return pa.nulls(count, pa.string())
    if isinstance(found, pa.ChunkedArray):
        return pa.concat_arrays([_of_arrow(piece) for piece in found.chunks]) if count else pa.nulls(0, pa.string())
    if isinstance(found, pa.Array):
        return _of_arrow(found)
    return pa.array([_of_value(value) for value in found], pa.string())


def _of_value(value: Any) -> str | None:
    if value is None:
        return None
    key = str(value)
    return key if len(key) <= LONGEST_KEY else None


def _of_arrow(values: pa.Array) -> pa.Array:
    import pyarrow.compute as pc  # here, because it costs a start a tenth of a second

    folded = isinstance(values, pa.DictionaryArray)
    distinct = values.dictionary if folded else values
    kind = distinct.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        fits = pc.less_equal(pc.utf8_length(distinct), LONGEST_KEY)
        short = pc.if_else(fits, distinct, pa.scalar(None, kind)).cast(pa.string())
        return short.take(values.indices) if folded else short
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        each = distinct.take(values.indices) if folded else distinct
        return pa.array([_of_value(value) for value in each.to_pylist()], pa.string())
    return pa.nulls(len(values), pa.string())
