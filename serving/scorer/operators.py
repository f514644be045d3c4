"""What the operators of a graph do to tensors of expressions.

A tensor of our own graphs has the rows along its last axis and treats them alike, so it is an array of expressions
without that axis. Parts of other libraries have the rows along the first one; a tensor that is *turned* is such a one,
again without its rows. One-hot columns are not laid out: a sum over them is a look-up in a table of its weights.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from serving.scorer.expression import Expression, NotCoveredError, Table, combine, constant

_MOST_CATEGORIES = 1 << 17


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor that depends on rows: an array of expressions, the axis of rows left out.

    Attributes
    ----------
    array : ndarray of Expression
    turned : bool
        Whether the rows lie along its first axis, and not along its last.
    """

    array: NDArray[Any]
    turned: bool = False


Value = Rows | NDArray[Any] | Table


def listed(expressions: Iterable[Expression]) -> NDArray[Any]:
    """Return expressions as an array of them, shape (n,)."""
    several = list(expressions)
    array = np.empty(len(several), object)
    array[:] = several
    return array


def _expressions(value: Value, *, turned: bool = False) -> NDArray[Any]:
    """Return a tensor as expressions; a constant has to be the same for all rows."""
    if isinstance(value, Rows):
        if value.turned != turned:
            raise NotCoveredError("tensors whose rows lie along different axes")
        return value.array
    rows = 0 if turned else -1
    if isinstance(value, Table) or (value.ndim and value.shape[rows] != 1 and not (turned and value.ndim == 1)):
        raise NotCoveredError("a constant that differs from row to row")
    numbers = (value[0] if value.ndim > 1 else value) if turned else value[..., 0] if value.ndim else value
    return np.frompyfunc(constant, 1, 1)(np.array(numbers.tolist(), object)) if numbers.ndim else _scalar(numbers)


def _scalar(number: NDArray[Any]) -> NDArray[Any]:
    array = np.empty((), object)
    array[()] = constant(number.item())
    return array


def _elementwise(operator: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    if attributes.get("fmod"):
        raise NotCoveredError("the operator Mod with fmod")
    return _mapped(lambda *given: combine(operator, given), *inputs)


def _divide(_: str, inputs: Sequence[Value], __: Mapping[str, Any]) -> Rows:
    divisor = inputs[1]
    if not isinstance(divisor, np.ndarray) or divisor.dtype.kind != "f" or not divisor.all():
        raise NotCoveredError("a division by what is no number for all rows")
    return _mapped(lambda *given: combine("Mul", given), inputs[0], 1 / divisor)


def _mapped(make: Callable[..., Expression], *values: Value) -> Rows:
    """Apply a function to each place of tensors; expressions of the result lie as theirs do."""
    turned = next((value.turned for value in values if isinstance(value, Rows)), False)
    result = np.frompyfunc(make, len(values), 1)(*(_expressions(value, turned=turned) for value in values))
    array = np.empty(np.shape(result), object)
    array[...] = result
    return Rows(array, turned)


def _cast(operator: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    kinds = {onnx.TensorProto.DOUBLE: float, onnx.TensorProto.INT64: int, onnx.TensorProto.BOOL: bool}
    if attributes["to"] not in kinds:
        raise NotCoveredError(f"a cast to {onnx.TensorProto.DataType.Name(attributes['to'])}")
    return _mapped(lambda given: _as_kind(operator, given, kinds[attributes["to"]]), inputs[0])


def _as_kind(operator: str, given: Expression, kind: type) -> Expression:
    return given if given.operator == "Indicator" and kind is float else combine(operator, (given,), kind)


def _gather(operator: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    table, chosen = inputs
    if isinstance(table, Rows) and table.turned:
        return _picked(table, chosen, attributes)
    if attributes.get("axis", 0):
        raise NotCoveredError("a Gather along another axis than the first")
    if isinstance(table, Rows):
        if not isinstance(chosen, np.ndarray):
            raise NotCoveredError("a choice among columns that differs from row to row")
        if not table.array.ndim:
            raise NotCoveredError("a Gather of rows")
        picked = table.array[chosen]
        return Rows(picked if isinstance(picked, np.ndarray) else _scalar_of(picked))
    if isinstance(table, np.ndarray):
        if table.ndim != 1:
            raise NotCoveredError("a table of several weights a slot")
        table = Table(table)
    return _mapped(lambda given: combine(operator, (given,), table), chosen)


def _picked(table: Rows, chosen: Value, attributes: Mapping[str, Any]) -> Rows:
    if attributes.get("axis", 0) != 1 or not isinstance(chosen, np.ndarray) or chosen.ndim != 1:
        raise NotCoveredError("a Gather of rows")
    return Rows(table.array[chosen], turned=True)


def _scalar_of(expression: Expression) -> NDArray[Any]:
    array = np.empty((), object)
    array[()] = expression
    return array


def _along_first(inputs: Sequence[Value]) -> None:
    """Check that axes given as an input are the first one, which is never that of the rows."""
    axes = inputs[1]
    if not isinstance(axes, np.ndarray) or axes.tolist() != [0]:
        raise NotCoveredError("an operator along another axis than the first")


def _reduce_sum(_: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    _along_first(inputs)
    array = _expressions(inputs[0])
    if not array.ndim or attributes.get("keepdims", 1):
        raise NotCoveredError("a sum over rows")
    if array.ndim == 1:
        return Rows(_scalar_of(combine("Add", _looked_up(array.tolist()))))
    return Rows(np.frompyfunc(lambda *given: combine("Add", given), len(array), 1)(*array))


def _looked_up(terms: Sequence[Expression]) -> list[Expression]:
    """Put one look-up in place of the terms that are one-hot columns of the same string times their weights."""
    weights: dict[int, tuple[Expression, dict[str, float]]] = {}
    others = []
    for term in terms:
        factors = term.inputs if term.operator == "Mul" else ()
        indicator = next((factor for factor in factors if factor.operator == "Indicator"), None)
        weight = next((factor for factor in factors if factor.operator == "constant"), None)
        if indicator is None or weight is None:
            others.append(term)
            continue
        text = indicator.inputs[0]
        found = weights.setdefault(id(text), (text, {}))[1]
        found[indicator.constant] = found.get(indicator.constant, 0.0) + weight.constant
    for text, of in weights.values():
        places = combine("LabelEncoder", (text,), ({word: place for place, word in enumerate(of)}, len(of)))
        others.append(combine("Gather", (places,), Table(np.array([*of.values(), 0.0]))))
    return others


def _one_hot(_: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    """Lay out a column of strings, one indicator a category; a string that is none has zeros."""
    given = inputs[0]
    if not isinstance(given, Rows) or not given.turned or given.array.shape != (1,) or not attributes.get("zeros", 1):
        raise NotCoveredError("a OneHotEncoder of several columns, or one that refuses")
    words = attributes.get("cats_strings")
    if not words or len(words) > _MOST_CATEGORIES:
        raise NotCoveredError("a OneHotEncoder of numbers, or of more categories than are laid out")
    text = given.array[0]
    return Rows(listed(combine("Indicator", (text,), word.decode()) for word in words)[None], turned=True)


def _transpose(_: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    given = inputs[0]
    if not isinstance(given, Rows) or given.array.ndim != 1 or attributes.get("perm", [1, 0]) != [1, 0]:
        raise NotCoveredError("a Transpose of other than two axes")
    return Rows(given.array, not given.turned)


def _identity(_: str, inputs: Sequence[Value], __: Mapping[str, Any]) -> Value:
    return inputs[0]


def _joined(inputs: Sequence[Value], axis: int) -> Rows:
    """Join turned tensors along an axis, counted with that of the rows."""
    arrays = [_expressions(given, turned=True) for given in inputs]
    place = axis if axis < 0 else axis - 1
    if place == -1 - arrays[0].ndim or axis == 0 or len({array.ndim for array in arrays}) > 1:
        raise NotCoveredError("a Concat along the axis of rows")
    return Rows(np.concatenate(arrays, axis=place), turned=True)


def _concat(_: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    if any(isinstance(given, Rows) and given.turned for given in inputs):
        return _joined(inputs, attributes["axis"])
    arrays = [_expressions(given) for given in inputs]
    if attributes["axis"] or not all(array.ndim for array in arrays):
        raise NotCoveredError("a Concat along the axis of rows")
    return Rows(np.concatenate(arrays))


def _reshape(_: str, inputs: Sequence[Value], __: Mapping[str, Any]) -> Rows:
    given, shape = inputs
    if isinstance(given, Rows) and given.turned:
        if not isinstance(shape, np.ndarray) or shape.tolist() != [-1, given.array.size]:
            raise NotCoveredError("a Reshape")
        return Rows(given.array.reshape(-1), turned=True)
    array = _expressions(given)
    if not isinstance(shape, np.ndarray) or shape.tolist() != [-1] or array.shape != (1,):
        raise NotCoveredError("a Reshape")
    return Rows(_scalar_of(array[0]))


def _slice(_: str, inputs: Sequence[Value], __: Mapping[str, Any]) -> Rows:
    given, bounds = inputs[0], [part.tolist() for part in inputs[1:] if isinstance(part, np.ndarray)]
    if not isinstance(given, Rows) or given.turned or not given.array.ndim:
        raise NotCoveredError("a Slice of rows")
    if len(bounds) != len(inputs) - 1 or bounds[2:] != [[0]]:
        raise NotCoveredError("a Slice along another axis than the first, or in steps")
    (first,), (last,) = bounds[:2]
    return Rows(given.array[first:last])


def _unsqueeze(_: str, inputs: Sequence[Value], __: Mapping[str, Any]) -> Rows:
    _along_first(inputs)
    return Rows(_expressions(inputs[0])[None])


def _hash(operator: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    if attributes.get("seed", 0) or not attributes.get("positive", 1):
        raise NotCoveredError("a hash of another seed or sign")
    return _mapped(lambda given: combine(operator, (given,)), inputs[0])


def _label_encoder(operator: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    if set(attributes) != {"keys_strings", "values_int64s", "default_int64"}:
        raise NotCoveredError("a LabelEncoder of other kinds")
    words = [word.decode() for word in attributes["keys_strings"]]
    places = dict(zip(words, attributes["values_int64s"], strict=True))
    extra = (places, attributes["default_int64"])
    return _mapped(lambda given: combine(operator, (given,), extra), inputs[0])


OPERATORS: Mapping[str, Callable[[str, Sequence[Value], Mapping[str, Any]], Value]] = {
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Mod", "IsNaN", "Where", "Clip", "Greater", "Less", "Abs", "Sign", "Log", "Sigmoid"),
        _elementwise,
    ),
    "Cast": _cast,
    "Div": _divide,
    "Identity": _identity,
    "OneHotEncoder": _one_hot,
    "Transpose": _transpose,
    "Gather": _gather,
    "ReduceSum": _reduce_sum,
    "Concat": _concat,
    "Reshape": _reshape,
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "MurmurHash3": _hash,
    "LabelEncoder": _label_encoder,
}
