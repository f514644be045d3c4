"""How kernels are compiled: by numba, when first called, without the GIL, and kept on disk where there is a place.

The cache lies beside the source, or, where that cannot be written, in the user's cache directory; where neither can,
kernels are compiled anew in each process. `NUMBA_CACHE_DIR` moves it. Numbers follow IEEE 754 to the letter: nothing is
reordered or fused, so the same rows give the same bits on every machine, and a division by zero is an infinity.
"""

from collections.abc import Callable
from typing import Any

import numba

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function`, whose arguments are arrays and numbers."""
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # numba found no directory it may write to
        return numba.njit(**_OPTIONS)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile `function` into each kernel of the same file that calls it."""
    return numba.njit(forceinline=True, **_OPTIONS)(function)
