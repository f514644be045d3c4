"""What differs between two arrays of one shape, bit for bit, in blocks of bytes that compress well.

Weights of a model that learns change in two ways: some of those that were there move, told by a bit for each that was
there, and some that were 0 appear, told by the gaps between their places. Those one row makes appear have one gradient
and so often one value: each distinct value is written once, and then the numbers of those that come again.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BLOCKS: Final = 5
_PLACE: Final = np.dtype(np.uint32)


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
    _, where, inverse = np.unique(values, return_index=True, return_inverse=True)
    first = np.zeros(values.size, bool)
    first[where] = True
    number = np.cumsum(first) - 1
    return values.size, [
        np.packbits(moved).tobytes(),
        _regrouped(np.diff(appeared, prepend=0).astype(np.uint32)),
        _regrouped(values[first]),
        np.packbits(first).tobytes(),
        _regrouped(number[where[inverse[~first]]].astype(np.uint32)),
    ]


def apply(base: NDArray[Any], count: int, blocks: Sequence[bytes]) -> None:
    """Change `base` in place as `BLOCKS` blocks say; `count` entries are changed.

    Raises
    ------
    IndexError, ValueError
        The blocks do not fit one another, or `base`, which is unchanged.
    """
    moved_flags, gaps, values, first_flags, numbers = blocks
    bits = _bits(base)
    there = np.flatnonzero(bits)
    moved = there[_flags(moved_flags, there.size)]
    appeared = np.cumsum(_back(gaps, _PLACE, count - moved.size), dtype=np.int64)
    first = _flags(first_flags, count)
    number = np.cumsum(first) - 1
    distinct = _back(values, bits.dtype, int(np.count_nonzero(first)))
    number[~first] = _back(numbers, _PLACE, count - distinct.size)
    if (np.diff(appeared) == 0).any() or bits[appeared].any():
        raise ValueError("expected entries that were 0 to appear, each once")
    bits[np.concatenate([moved, appeared])] = distinct[number]


def apply_format_1(base: NDArray[Any], count: int, blocks: Sequence[bytes]) -> None:
    """Change `base` in place as two blocks say: gaps between the places of what changed, and its values."""
    gaps, values = blocks
    bits = _bits(base)
    bits[np.cumsum(_back(gaps, _PLACE, count), dtype=np.int64)] = _back(values, bits.dtype, count)


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(-1).view(np.dtype(f"u{array.dtype.itemsize}"))


def _flags(block: bytes, count: int) -> NDArray[np.bool_]:
    if len(block) != -(-count // 8):
        raise ValueError(f"expected flags of {count} entries, found {len(block)} bytes")
    return np.unpackbits(np.frombuffer(block, np.uint8), count=count).astype(bool)


def _regrouped(array: NDArray[Any]) -> bytes:
    """Return the first byte of each number, then the second of each, ...: like bytes lie together and compress."""
    return np.ascontiguousarray(array.view(np.uint8).reshape(-1, array.itemsize).T).tobytes()


def _back(block: bytes, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    if len(block) != count * dtype.itemsize:
        raise ValueError(f"expected {count} numbers of {dtype.itemsize} bytes, found {len(block)} bytes")
    grouped = np.frombuffer(block, np.uint8).reshape(dtype.itemsize, count)
    return np.ascontiguousarray(grouped.T).reshape(-1).view(dtype)
