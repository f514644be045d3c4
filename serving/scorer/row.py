"""One row to its score in a microsecond or two: the terms of the margin, remembered by value.

Derived from the graph a package holds, and from nothing else, so it can only say what the graph says; it is proved
against it before it is used, and whatever it does not cover is scored by the graph. A row costs one look-up a column;
a value that is not remembered is worked out (strings: a few microseconds; numbers: less than one) and remembered.

The sum is in double like the graph's, in another order, and the score is not rounded to float32 as the graph's is: the
two lie within 1e-7 of each other. What is remembered is bounded by `MOST_REMEMBERED` values in all (a few dozen MB); a
column's memory that is full starts anew, so a stream of ever new strings costs time, never memory. Remembering is the
only thing that changes, by single operations on dictionaries, so any number of threads may score at once without a
lock.
"""

import math
from collections.abc import Callable, Mapping
from operator import getitem
from struct import Struct
from typing import Any, Final

import numpy as np

from serving.rows import picker, read_number, read_string
from serving.scorer.expression import Expression, NotCoveredError
from serving.scorer.piecewise import piecewise
from serving.scorer.terms import Sum, evaluator

MOST_REMEMBERED: Final = 1 << 17
"""Values remembered by one scorer, all columns together."""

_LONGEST_REMEMBERED: Final = 128
_LARGEST_REMEMBERED: Final = 2.0**53
# a boolean equals 1 or 0, so it would find what is remembered for a number
_NUMBERS: Final = frozenset({float, int, type(None), np.float64})
_FLOAT32: Final = Struct("f")


class Memory(dict[Any, float]):
    """What the values of a column, or pairs of two columns, are worth, as far as they are remembered.

    Looking up a value that is not remembered works it out.
    """

    __slots__ = ("_limit", "_work_out")

    def __init__(self, work_out: Callable[[Any], tuple[float, bool]], limit: int) -> None:
        super().__init__()
        self._work_out = work_out
        self._limit = limit

    def __missing__(self, value: Any) -> float:
        worth, lasting = self._work_out(value)
        if lasting:
            if len(self) >= self._limit:
                self.clear()
            self[value] = worth
        return worth

    def learn(self, worths: Mapping[Any, float]) -> None:
        """Remember the worths of strings that others worked out, as far as there is room for them."""
        lasting = {value: worth for value, worth in worths.items() if _lasting(value)}
        if len(lasting) > self._limit:
            return
        if len(self) + len(lasting) > self._limit:
            self.clear()
        self.update(lasting)


class RowScorer:
    """Scores single rows as one graph does.

    Parameters
    ----------
    total : Sum
        The score, taken apart.
    signature : mapping of str to str
        Raw column to ``string`` or ``float``.
    refuse_extra : bool
        Whether a row with a column more is none of ours.
    most_remembered : int
        How many values are remembered, all columns together.
    """

    def __init__(
        self,
        total: Sum,
        signature: Mapping[str, str],
        *,
        refuse_extra: bool = False,
        most_remembered: int = MOST_REMEMBERED,
    ) -> None:
        order = sorted(signature, key=lambda name: signature[name] == "float")
        texts = [name for name in order if signature[name] == "string"]
        pairs = [columns for columns in total.terms if len(columns) > 1]
        limit = max(most_remembered // (len(order) + len(pairs)), 1)
        self.columns = tuple(order)
        self._texts = len(texts)
        self._bias = total.bias
        self._logistic = total.logistic
        self._width = len(order) if refuse_extra else 0
        self._pick = picker(order)
        kinds = {"string": _text_term, "float": _number_term}
        self.memories = tuple(Memory(kinds[signature[name]](name, total.terms.get((name,))), limit) for name in order)
        self.words = dict(zip(texts, self.memories, strict=False))
        self.pairs = tuple(Memory(_pair_term(pair, total.terms[pair]), limit) for pair in pairs)
        self._lefts, self._rights = (picker([order.index(pair[side]) for pair in pairs]) for side in (0, 1))

    def score(self, row: Mapping[str, Any]) -> float | None:
        """Return the score of a row; None where it does not fit, and the graph's way of reading it says why."""
        try:
            values = self._pick(row)
            if self._width and len(row) != self._width:
                return None
            if not _NUMBERS.issuperset(map(type, values[self._texts :])):
                return None
            margin = sum(map(getitem, self.memories, values), self._bias)
            if self.pairs:
                margin = sum(map(getitem, self.pairs, zip(self._lefts(values), self._rights(values))), margin)  # noqa: B905 - of one length, and on the way of every row
        except (KeyError, TypeError, ValueError):  # a column is missing, or no value of any kind of column
            return None
        if not self._logistic:
            return margin if math.isfinite(margin) else None
        if margin >= 0.0:
            return 1.0 / (1.0 + math.exp(-margin))
        odds = math.exp(margin)
        return odds / (1.0 + odds) if margin == margin else None  # noqa: PLR0124 - NaN


def _text_term(name: str, term: Expression | None) -> Callable[[Any], tuple[float, bool]]:
    """Return what works a value of a string column out, and says whether to remember it."""
    worth = evaluator(term) if term is not None else None

    def work_out(value: Any) -> tuple[float, bool]:
        text = read_string(name, 0, value)
        text.encode()  # half of a surrogate pair has no hash, and no other stage may take it either
        return (worth({name: text}) if worth else 0.0), _lasting(value)

    return work_out


def _pair_term(names: tuple[str, ...], term: Expression) -> Callable[[Any], tuple[float, bool]]:
    worth = evaluator(term)

    def work_out(values: tuple[Any, Any]) -> tuple[float, bool]:
        row = {name: read_string(name, 0, value) for name, value in zip(names, values, strict=True)}
        return worth(row), all(map(_lasting, values))

    return work_out


def _lasting(value: Any) -> bool:
    return value is None or (type(value) is str and len(value) <= _LONGEST_REMEMBERED)


def _number_term(name: str, term: Expression | None) -> Callable[[Any], tuple[float, bool]]:
    if term is None:
        return lambda value: (read_number(name, 0, value) * 0.0, False)
    exact = evaluator(term)
    missing = exact({name: math.nan})
    try:
        straight = piecewise(term)
    except NotCoveredError:
        worth: Callable[[float], float] = lambda number: exact({name: number})  # noqa: E731 - one of two
    else:
        worth = straight.at

    def work_out(value: Any) -> tuple[float, bool]:
        (number,) = _FLOAT32.unpack(_FLOAT32.pack(read_number(name, 0, value)))
        if number != number:  # noqa: PLR0124 - NaN
            return missing, value is None
        return worth(number), -_LARGEST_REMEMBERED < number < _LARGEST_REMEMBERED

    return work_out
