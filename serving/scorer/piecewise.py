"""A number column's term as straight pieces: found by bisection, worth one multiply-add.

Scaling, clipping and cutting into buckets all make straight pieces of a number, so their sum is a function that is
straight between its breaks. A value on a break belongs to the piece on its left, which is how "exceeds" is meant; where
a break is a jump it is exact, because jumps are taken from comparisons with the raw value only.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.scorer.expression import Expression, NotCoveredError
from serving.scorer.terms import clip, evaluator

Piece = tuple[float, float]
"""Slope and intercept."""


@dataclass(frozen=True, slots=True)
class Piecewise:
    """A function of one number that is not NaN.

    Attributes
    ----------
    breaks : list of float, ascending
    pieces : list of (slope, intercept), one more than breaks
    """

    breaks: list[float]
    pieces: list[Piece]

    def at(self, value: float) -> float:
        """Return the function's value."""
        slope, intercept = self.pieces[bisect_left(self.breaks, value)]
        return slope * value + intercept


def piecewise(expression: Expression) -> Piecewise:
    """Return an expression of one number column as straight pieces.

    Raises
    ------
    NotCoveredError
        It is not straight between breaks (a logarithm), or jumps where a scaled value reaches a bound.
    """
    if expression.operator == "constant" or not expression.columns:
        return Piecewise([], [(0.0, evaluator(expression)({}))])
    if expression.operator == "number":
        return Piecewise([], [(1.0, 0.0)])
    if expression.operator == "IsNaN":
        return Piecewise([], [(0.0, False)])
    make = _MAKERS.get(expression.operator)
    if make is None:
        raise NotCoveredError(f"{expression.operator} of a number is not piecewise straight")
    return _merged(make(expression.constant, [piecewise(given) for given in expression.inputs]))


def _merged(function: Piecewise) -> Piecewise:
    """Join neighbours that are the same piece."""
    breaks, pieces = [], [function.pieces[0]]
    for place, piece in zip(function.breaks, function.pieces[1:], strict=True):
        if piece != pieces[-1]:
            breaks.append(place)
            pieces.append(piece)
    return Piecewise(breaks, pieces)


def _joined(functions: Sequence[Piecewise], combine: Callable[..., Piece]) -> Piecewise:
    """Combine functions piece by piece."""
    breaks = sorted({place for function in functions for place in function.breaks})
    # the piece left of each break, and the last one
    probes = [*breaks, math.inf]
    pieces = [
        combine(*(function.pieces[bisect_left(function.breaks, probe)] for function in functions)) for probe in probes
    ]
    return Piecewise(breaks, pieces)


def _add(_: Any, functions: Sequence[Piecewise]) -> Piecewise:
    return _joined(functions, lambda *pieces: (sum(slope for slope, _ in pieces), sum(level for _, level in pieces)))


def _subtract(_: Any, functions: Sequence[Piecewise]) -> Piecewise:
    return _joined(functions, lambda left, right: (left[0] - right[0], left[1] - right[1]))


def _multiply(_: Any, functions: Sequence[Piecewise]) -> Piecewise:
    def product(left: Piece, right: Piece) -> Piece:
        if left[0] and right[0]:
            raise NotCoveredError("a product of two numbers that vary is not straight")
        (slope, level), (_, factor) = (left, right) if not right[0] else (right, left)
        return slope * factor, level * factor

    return _joined(functions, product)


def _where(_: Any, functions: Sequence[Piecewise]) -> Piecewise:
    return _joined(functions, lambda condition, yes, no: yes if condition[1] else no)


def _cast(kind: type, functions: Sequence[Piecewise]) -> Piecewise:
    def cast(piece: Piece) -> Piece:
        if piece[0] and kind is not float:
            raise NotCoveredError("a number that varies is cut off")
        return piece[0], kind(piece[1])

    return _joined(functions, cast)


def _gather(table: Any, functions: Sequence[Piecewise]) -> Piecewise:
    return _joined(functions, lambda slot: (0.0, table.pick(_level(slot))))


def _level(piece: Piece) -> Any:
    if piece[0]:
        raise NotCoveredError("a slot that varies with a number")
    return piece[1]


def _compare(greater: bool) -> Callable[[Any, Sequence[Piecewise]], Piecewise]:
    def compare(_: Any, functions: Sequence[Piecewise]) -> Piecewise:
        value, bound = functions
        limit = _level(bound.pieces[0])
        if bound.breaks:
            raise NotCoveredError("a bound that varies with a number")
        edge = limit if greater else math.nextafter(limit, -math.inf)
        cut = Piecewise([edge], value.pieces[:1] * 2) if math.isfinite(edge) else Piecewise([], value.pieces[:1])
        breaks = _joined([value, cut], lambda piece, _: piece)
        pieces: list[Piece] = []
        for place, (slope, level) in zip([*breaks.breaks, math.inf], breaks.pieces, strict=True):
            if slope and (slope, level) != (1.0, 0.0):
                raise NotCoveredError("a jump where a scaled number reaches a bound")
            # all of a piece lies on one side of the bound, and its right end belongs to it
            inside = place if slope else level
            pieces.append((0.0, inside > limit if greater else inside < limit))
        return Piecewise(breaks.breaks, pieces)

    return compare


def _clip(_: Any, functions: Sequence[Piecewise]) -> Piecewise:
    value = functions[0]
    low, high = (_level(bound.pieces[0]) for bound in functions[1:])
    breaks: list[float] = []
    pieces: list[Piece] = []
    for start, end, (slope, level) in _spans(value):
        crossings = sorted((bound - level) / slope for bound in (low, high)) if slope else []
        inner = [place for place in crossings if start < place < end]
        for left, right in zip([start, *inner], [*inner, end], strict=True):
            middle = _between(left, right)
            held = clip(slope * middle + level, low, high) if slope else clip(level, low, high)
            flat = not slope or held in {low, high}
            pieces.append((0.0, held) if flat else (slope, level))
            breaks.append(right)
    return Piecewise(breaks[:-1], pieces)


def _spans(function: Piecewise) -> Iterable[tuple[float, float, Piece]]:
    return zip([-math.inf, *function.breaks], [*function.breaks, math.inf], function.pieces, strict=True)


def _between(left: float, right: float) -> float:
    """Return a place inside a span."""
    if math.isinf(left) and math.isinf(right):
        return 0.0
    if math.isinf(left):
        return right - max(1.0, abs(right))
    if math.isinf(right):
        return left + max(1.0, abs(left))
    return left + (right - left) / 2


_MAKERS: Mapping[str, Callable[[Any, Sequence[Piecewise]], Piecewise]] = {
    "Add": _add,
    "Sub": _subtract,
    "Mul": _multiply,
    "Where": _where,
    "Cast": _cast,
    "Gather": _gather,
    "Greater": _compare(greater=True),
    "Less": _compare(greater=False),
    "Clip": _clip,
}
