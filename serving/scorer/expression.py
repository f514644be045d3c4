"""One number of one row, as an expression over that row's raw columns. Nothing is looked up or computed here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class NotCoveredError(Exception):
    """A graph, or a part of one, that expressions cannot stand for; its message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """One number of one row.

    Attributes
    ----------
    operator : str
        An ONNX operator, or ``text`` and ``number`` for a raw column, or ``constant``.
    inputs : tuple of Expression
    constant : Any
        What else the operator needs: a number, a table, a column's name, a kind to cast to.
    columns : frozenset of str
        The raw columns it depends on.
    """

    operator: str
    inputs: tuple["Expression", ...]
    constant: Any
    columns: frozenset[str]


@dataclass(frozen=True, slots=True)
class Table:
    """One column of weights, of which only those that are not zero are held where the package stores it so.

    Attributes
    ----------
    slots : ndarray of int64, ascending, or None
        The slots that are held; None: all of them.
    """

    weights: NDArray[Any]
    slots: NDArray[np.int64] | None = None

    def take(self, slots: NDArray[np.int64]) -> NDArray[Any]:
        """Return the weight of each slot."""
        if self.slots is None:
            return self.weights[slots]
        if not self.slots.size:
            return np.zeros(len(slots))
        places = np.searchsorted(self.slots, slots).clip(max=self.slots.size - 1)
        return np.where(self.slots[places] == slots, self.weights[places], 0.0)

    def pick(self, slot: int) -> Any:
        """Return the weight of one slot."""
        if self.slots is None:
            return self.weights.item(slot)
        place = int(np.searchsorted(self.slots, slot))
        return self.weights.item(place) if place < self.slots.size and self.slots[place] == slot else 0.0


def constant(value: Any) -> Expression:
    """Return a number as an expression."""
    return Expression("constant", (), value, frozenset())


def combine(operator: str, inputs: Sequence[Expression], extra: Any = None) -> Expression:
    """Return an operator over expressions."""
    return Expression(operator, tuple(inputs), extra, frozenset().union(*(given.columns for given in inputs)))
