"""Arrow arrays by where and how they lie in memory, without a copy of their values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def location(array: Any) -> tuple[Any, ...]:
    """Return where an Arrow array lies, and what as: equal for two that are held at one time only if their values are.

    An empty buffer is false and has an address all the same, which is nobody's.
    """
    return array.type, len(array), array.offset, [part.address if part else None for part in array.buffers()]


def present(array: Any) -> NDArray[np.uint8] | None:
    """Return 1 for each value of an Arrow array and 0 for each null, shape (n,); None where it has no null."""
    if not array.null_count:
        return None
    first, last = array.offset // 8, (array.offset + len(array) + 7) // 8  # its own bytes, of a slice of a long array
    bits = np.unpackbits(np.frombuffer(array.buffers()[0], np.uint8)[first:last], bitorder="little")
    return bits[array.offset % 8 :][: len(array)]
