"""Rows of JSON in one pass over their bytes, in compiled code that makes no objects and lets other threads run."""

import numpy as np
from numpy.typing import NDArray

def read_rows(
    content: NDArray[np.uint8], first: int, last: int, textual: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]] | None:
    """Read JSON's ``[…], […]``: rows of strings without escapes, of numbers and of null.

    Parameters
    ----------
    content : ndarray of uint8
        UTF-8, which is not checked.
    first, last : int
        Where in it the rows begin and end.
    textual : ndarray of uint8, shape (n_columns,)
        1 for a column of strings, 0 for one of numbers.

    Returns
    -------
    starts, lengths, numbers : ndarray, shape (n_columns of their kind, n_rows)
        Where in `content` the strings lie, and the numbers, NaN for null; or None where anything else was found, or a
        number of 2**53 or more, of more than 19 digits, or below 1e-64.
    """
