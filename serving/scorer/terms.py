"""A score as a link over a sum of terms, each of them a function of one raw column or of two.

That is what a linear learner over our stages comes to: whatever the stages do to a column, its share of the margin
depends on that column alone, or on a pair where they are crossed. A factorization machine is no such sum.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from serving.scorer.expression import Expression, NotCoveredError, Table, combine, constant
from serving.scorer.murmur3 import murmur3

Term = Callable[[Mapping[str, Any]], Any]
"""What an expression is worth, by the values of its columns: strings, and numbers rounded to float32; or arrays."""

_MOST_COLUMNS: Final = 2


@dataclass(frozen=True, slots=True)
class Sum:
    """A score, taken apart.

    Attributes
    ----------
    logistic : bool
        Whether the score is the logistic function of the sum, rather than the sum.
    bias : float
    terms : mapping of column names, one or two in order, to Expression
    """

    logistic: bool
    bias: float
    terms: Mapping[tuple[str, ...], Expression]


def take_apart(score: Expression, signature: Mapping[str, str]) -> Sum:
    """Return a score as a sum.

    Parameters
    ----------
    signature : mapping of str to str
        Raw column to ``string`` or ``float``.

    Raises
    ------
    NotCoveredError
        Some term of it depends on more than two columns, or on two that are not both strings.
    """
    logistic = score.operator == "Sigmoid"
    margin = score.inputs[0] if logistic else score
    bias = 0.0
    grouped: dict[tuple[str, ...], list[Expression]] = {}
    for scale, term in _addends(margin, 1.0):
        if not term.columns:
            bias += scale * evaluator(term)({})
            continue
        if len(term.columns) > _MOST_COLUMNS:
            raise NotCoveredError(f"a term of {len(term.columns)} columns")
        if len(term.columns) > 1 and {signature[name] for name in term.columns} != {"string"}:
            raise NotCoveredError(f"a term of {' and '.join(sorted(term.columns))}, which are not both strings")
        scaled = term if scale == 1.0 else combine("Mul", (term, constant(scale)))
        grouped.setdefault(tuple(sorted(term.columns)), []).append(scaled)
    return Sum(logistic, bias, {columns: combine("Add", terms) for columns, terms in grouped.items()})


def _addends(expression: Expression, scale: float) -> Iterator[tuple[float, Expression]]:
    """Yield the parts of a sum, each with the number it is multiplied by."""
    inputs = expression.inputs
    if expression.operator == "Add" and len(expression.columns) > 1:
        for given in inputs:
            yield from _addends(given, scale)
    elif expression.operator == "Sub" and len(expression.columns) > 1:
        yield from _addends(inputs[0], scale)
        yield from _addends(inputs[1], -scale)
    else:
        yield scale, expression


def evaluator(expression: Expression, operators: Mapping[str, Callable[..., Term]] | None = None) -> Term:
    """Return a function that evaluates an expression by its columns' values.

    Parameters
    ----------
    operators : mapping of str to maker of terms
        What each operator does; by default `SCALARS`, for the values of one row.
    """
    make = (operators or SCALARS).get(expression.operator)
    if make is None:  # such as a one-hot column that is more than a look-up
        raise NotCoveredError(f"{expression.operator} by itself")
    return make(expression.constant, *(evaluator(given, operators) for given in expression.inputs))


def applied(function: Callable[..., Any]) -> Callable[..., Term]:
    """Return a maker of evaluators that apply a function of one, two or more values."""

    def make(_: Any, *inputs: Term) -> Term:
        if len(inputs) == 1:
            only = inputs[0]
            return lambda row: function(only(row))
        if len(inputs) == 2:  # noqa: PLR2004 - most have two, and a loop over them would be slower
            left, right = inputs
            return lambda row: function(left(row), right(row))
        return lambda row: function(*[given(row) for given in inputs])

    return make


def _add(_: Any, *inputs: Term) -> Term:
    return lambda row: sum(given(row) for given in inputs)


def _constant(value: Any) -> Term:
    return lambda _: value


def _where(_: Any, condition: Term, yes: Term, no: Term) -> Term:
    return lambda row: yes(row) if condition(row) else no(row)


def _gather(table: Table, slot: Term) -> Term:
    return lambda row: table.pick(slot(row))


def _cast(kind: type, given: Term) -> Term:
    return lambda row: kind(given(row))


def _encoded(encoder: tuple[Mapping[str, int], int], text: Term) -> Term:
    places, absent = encoder
    return lambda row: places.get(text(row), absent)


def clip(value: float, low: float, high: float) -> float:
    """Hold a value between two bounds; NaN stays NaN."""
    return low if value < low else min(value, high) if value == value else value  # noqa: PLR0124 - NaN


def sign(value: float) -> float:
    """Return -1, 0 or 1; NaN stays NaN."""
    return (value > 0.0) - (value < 0.0) if value == value else value  # noqa: PLR0124 - NaN


SCALARS: Mapping[str, Callable[..., Term]] = {
    "constant": _constant,
    "text": itemgetter,
    "number": itemgetter,
    "Add": _add,
    "Sub": applied(lambda left, right: left - right),
    "Mul": applied(lambda left, right: left * right),
    "Mod": applied(lambda left, right: left % right),
    "Greater": applied(lambda left, right: left > right),
    "Less": applied(lambda left, right: left < right),
    "IsNaN": applied(math.isnan),
    "Abs": applied(abs),
    "Log": applied(math.log),
    "Sign": applied(sign),
    "Clip": applied(clip),
    "Where": _where,
    "Cast": _cast,
    "Gather": _gather,
    "MurmurHash3": applied(murmur3),
    "LabelEncoder": _encoded,
}
