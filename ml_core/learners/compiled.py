"""How kernels are compiled: by numba, when first called, without the GIL, and kept on disk where there is a place.

The cache lies beside the source, or, where that cannot be written, in the user's cache directory; where neither can,
kernels are compiled anew in each process. `NUMBA_CACHE_DIR` moves it. Numbers follow IEEE 754 to the letter: nothing is
reordered or fused, so the same rows give the same bits on every machine, and a division by zero is an infinity.
"""

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

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


def _fetching(_, array, index):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        kind = signature.args[0]
        filled = context.make_array(kind)(context, builder, given[0])
        place = cgutils.get_item_pointer(context, builder, kind, filled, [given[1]], wraparound=False)  # type: ignore[no-untyped-call]
        number, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        to_call = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, to_call, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        # to be read, soon, as data
        builder.call(fetch, [builder.bitcast(place, pointer), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, index), generate


prefetch: Any = intrinsic(_fetching)
"""`prefetch(array, index)` in a kernel: send for what will soon be read there; changes when it arrives, and no more."""
