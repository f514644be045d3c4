"""Batches gone over byte by byte, in compiled code that makes no objects and lets other threads run.

It is built where the project is installed, if there is a C compiler; without it batches are read and scored value by
value (`serving.scorer.texts.COMPILED`).
"""

import numpy as np
from numpy.typing import NDArray

LONGEST: int
"""How many bytes a string may have that a table takes."""

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

class Table:
    """What strings are worth, known by their column and their bytes, as far as they have been learned.

    Nobody waits for anybody: while one thread learns, others may look up. They may see what it writes in any order; an
    entry's seal, made of the hash and the worth, tells them that it is whole. Only one thread may learn at a time.

    Parameters
    ----------
    bits : int
        There are 2**bits slots.
    most : int
        How many strings it takes.
    odds : ndarray of uint64, shape (6,)
        Numbers drawn for this table alone, so that nobody can send strings that all want one slot.

    Attributes
    ----------
    held : int
        How many strings it holds.
    """

    held: int

    def __init__(self, bits: int, most: int, odds: NDArray[np.uint64]) -> None: ...
    def add_worths(
        self,
        content: NDArray[np.uint8],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        columns: NDArray[np.int64],
        totals: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Add what each row's strings are worth to its total; return the flat places of those that are not held.

        Parameters
        ----------
        content : ndarray of uint8
        starts, lengths : ndarray of int64, shape (n_columns, n_rows)
            Where in it the strings lie, in bytes.
        columns : ndarray of int64, shape (n_columns,)
            The number, from 1 on, that each column is known by.
        totals : ndarray of float64, shape (n_rows,)
        """

    def learn(
        self,
        content: NDArray[np.uint8],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        columns: NDArray[np.int64],
        places: NDArray[np.int64],
        worths: NDArray[np.float64],
    ) -> None:
        """Take in strings at flat places, except those of more than 32 bytes and those that find no free slot."""
