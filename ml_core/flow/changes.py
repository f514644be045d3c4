"""What differs between two arrays of one shape, bit for bit, in blocks of bytes that compress well.

Weights of a model that learns change in two ways: some of those that were there move, told by a bit for each that was
there, and some that were 0 appear, told by the gaps between their places. Those one row makes appear have one gradient
and so often one value: each distinct value is written once, and then the numbers of those that come again.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BLOCKS: Final = 5


def difference(base: NDArray[Any], array: NDArray[Any]) -> tuple[int, list[bytes]]:
    """Return how many entries of `array` differ from those of `base`, and `BLOCKS` blocks that say how.

    Parameters
    ----------
    base, array : ndarray
        Of one shape and one dtype.
    """
    old, new = _bits(np.ascontiguousarray(base)), _bits(np.ascontiguousarray(array))
    there = np.flatnonzero(old)
    moved = new[there] != old[there]
    appeared = np.flatnonzero((new != 0) & (old == 0))
    values = new[np.concatenate([there[moved], appeared])]
    distinct, where, inverse = np.unique(values, return_index=True, return_inverse=True)
    first = np.zeros(values.size, bool)
    first[where] = True
    number = np.empty(distinct.size, np.uint32)
    number[np.argsort(where)] = np.arange(distinct.size, dtype=np.uint32)
    return values.size, [
        np.packbits(moved).tobytes(),
        _regrouped(np.diff(appeared, prepend=0).astype(np.uint32)),
        _regrouped(values[first]),
        np.packbits(first).tobytes(),
        _regrouped(number[inverse[~first]]),
    ]


def apply(base: NDArray[Any], count: int, blocks: Iterator[bytes]) -> None:
    """Change `base` in place as the next `BLOCKS` blocks say; `count` entries are changed.

    Raises
    ------
    IndexError, ValueError
        The blocks do not fit one another, or `base`.
    """
    bits = _bits(base)
    there = np.flatnonzero(bits)
    moved = there[_flags(next(blocks), there.size)]
    appeared = np.cumsum(_back(next(blocks), np.dtype(np.uint32)), dtype=np.int64)
    distinct = _back(next(blocks), bits.dtype)
    first = _flags(next(blocks), count)
    if distinct.size != np.count_nonzero(first):
        raise ValueError(f"expected {np.count_nonzero(first)} distinct values, found {distinct.size}")
    number = np.cumsum(first) - 1
    number[~first] = _back(next(blocks), np.dtype(np.uint32))
    bits[np.concatenate([moved, appeared])] = distinct[number]


def apply_format_1(base: NDArray[Any], blocks: Iterator[bytes]) -> None:
    """Change `base` in place as the next two blocks say: gaps between the places of what changed, and its values."""
    bits = _bits(base)
    gaps = _back(next(blocks), np.dtype(np.uint32))
    bits[np.cumsum(gaps, dtype=np.int64)] = _back(next(blocks), bits.dtype)


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(-1).view(np.dtype(f"u{array.dtype.itemsize}"))


def _flags(block: bytes, count: int) -> NDArray[np.bool_]:
    if len(block) != -(-count // 8):
        raise ValueError(f"expected flags of {count} entries, found {len(block)} bytes")
    return np.unpackbits(np.frombuffer(block, np.uint8), count=count).astype(bool)


def _regrouped(array: NDArray[Any]) -> bytes:
    """Return the first byte of each number, then the second of each, ...: like bytes lie together and compress."""
    return np.ascontiguousarray(array.view(np.uint8).reshape(-1, array.itemsize).T).tobytes()


def _back(block: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    grouped = np.frombuffer(block, np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(grouped.T).reshape(-1).view(dtype)
