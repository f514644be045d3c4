"""Number columns of many rows: read into one matrix, and worth one multiply-add each where they are straight."""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.rows import FLOAT32_MAX, float_array, number_column
from serving.scorer.arrays import ARRAYS
from serving.scorer.expression import Expression, NotCoveredError, constant
from serving.scorer.piecewise import Piece, Piecewise, piecewise
from serving.scorer.terms import evaluator


def read_numbers(columns: Mapping[str, Any], names: Sequence[str], rows: int) -> NDArray[np.float64] | None:
    """Return columns as a matrix, shape (n_columns, n_rows), NaN where missing; None where float32 cannot hold one.

    Raises
    ------
    InputError
        A value is no number.
    """
    numbers = np.empty((len(names), rows))
    for row, name in zip(numbers, names, strict=True):
        values = float_array(columns[name])
        row[:] = number_column(name, columns[name]) if values is None else values
    return rounded(numbers)


def rounded(numbers: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return numbers as float32 holds them; None where it cannot hold one."""
    if np.fmax.reduce(np.abs(numbers), axis=None, initial=0.0) > FLOAT32_MAX:
        return None
    return numbers.astype(np.float32).astype(np.float64)


class NumberTerms:
    """What number columns are worth together.

    Parameters
    ----------
    names : sequence of str
        The rows of the matrix.
    terms : mapping of column names to Expression
        A column without one is worth nothing.
    """

    def __init__(self, names: Sequence[str], terms: Mapping[tuple[str, ...], Expression]) -> None:
        self._terms = [_NumberTerm(name, terms.get((name,), constant(0.0))) for name in names]
        self._missing = np.array([term.missing for term in self._terms]).reshape(-1, 1)

    def worth(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum over the columns, shape (n_rows,)."""
        ends = zip(np.fmin.reduce(numbers, axis=1).tolist(), np.fmax.reduce(numbers, axis=1).tolist(), strict=True)
        pieces = [term.piece(*within) for term, within in zip(self._terms, ends, strict=True)]
        lines = np.array([piece or (0.0, 0.0) for piece in pieces], np.float64).reshape(-1, 2)
        worths = lines[:, :1] * numbers
        worths += lines[:, 1:]
        for place, piece in enumerate(pieces):
            if piece is None:
                worths[place] = self._terms[place].worth(numbers[place])
        absent = np.isnan(numbers)
        if absent.any():
            worths = np.where(absent, self._missing, worths)
        total: NDArray[np.float64] = worths.sum(axis=0)
        return total


class _NumberTerm:
    """What one number column is worth."""

    def __init__(self, name: str, term: Expression) -> None:
        self.missing = float(evaluator(term)({name: math.nan}))
        self._line: Piecewise | None = None
        try:
            self._line = piecewise(term)
        except NotCoveredError:
            curve = evaluator(term, ARRAYS)
            self.worth: Callable[[NDArray[np.float64]], Any] = lambda numbers: curve({name: numbers})
        else:
            breaks = np.array(self._line.breaks, np.float64)
            slopes, levels = np.array(self._line.pieces, np.float64).T.copy()
            self.worth = lambda numbers: _along(np.searchsorted(breaks, numbers), slopes, levels, numbers)

    def piece(self, least: float, most: float) -> Piece | None:
        """Return the one straight piece that numbers lie on; None where there are several, or it is bent."""
        if self._line is None:
            return None
        place = bisect_left(self._line.breaks, least)
        return self._line.pieces[place] if place == bisect_left(self._line.breaks, most) else None


def _along(
    pieces: NDArray[np.intp], slopes: NDArray[np.float64], levels: NDArray[np.float64], numbers: NDArray[np.float64]
) -> NDArray[np.float64]:
    worths: NDArray[np.float64] = slopes[pieces] * numbers + levels[pieces]
    return worths
