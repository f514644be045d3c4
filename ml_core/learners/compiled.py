"""How kernels are compiled: by numba, when first called, without the GIL, and kept on disk where there is a place.

The cache lies beside the source, or, where that cannot be written, in the user's cache directory; where neither can,
kernels are compiled anew in each process. `NUMBA_CACHE_DIR` moves it.
"""

from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function`, whose arguments are arrays and numbers."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba found no directory it may write to
        return numba.njit(nogil=True)(function)
