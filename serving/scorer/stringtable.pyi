"""A table of strings, known by their column and their bytes, in compiled code that lets other threads run."""

import numpy as np
from numpy.typing import NDArray

LONGEST: int
"""How many bytes a string may have that a table takes."""

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
