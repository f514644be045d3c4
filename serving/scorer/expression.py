"""What a graph computes for one row, as expressions over that row's raw columns.

The graph is executed once with symbols in place of rows. Every tensor of our graphs has the rows along its last axis
and treats them alike, so a tensor is an array of expressions without that axis, and each expression says how one number
of one row comes about. Nothing is looked up or computed here; a graph that does anything else than `_OPERATORS` knows
raises NotCoveredError, and is scored as a graph.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from serving.packing import NUMBERS, STRINGS
from serving.scorer.yielding import let_others_run


class NotCoveredError(Exception):
    """A graph, or a part of one, that expressions cannot stand for; its message says why."""


_DENSE_SLOTS = 1 << 20
"""Up to 8 MB of weights are laid out slot by slot, because finding one is several times faster then."""


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


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor that depends on rows: an array of expressions, the axis of rows left out."""

    array: NDArray[Any]


Value = Rows | NDArray[Any] | Table


def constant(value: Any) -> Expression:
    """Return a number as an expression."""
    return Expression("constant", (), value, frozenset())


def combine(operator: str, inputs: Sequence[Expression], extra: Any = None) -> Expression:
    """Return an operator over expressions."""
    return Expression(operator, tuple(inputs), extra, frozenset().union(*(given.columns for given in inputs)))


def read_expression(packed: bytes, signature: Mapping[str, str]) -> Expression:
    """Return what a packed graph (see `serving.packing`) computes, up to its last rounding to float32.

    Raises
    ------
    NotCoveredError
        The graph does something that expressions cannot stand for, or has more than one score a row.
    """
    model = onnx.load_model_from_string(packed)
    known: dict[str, Value] = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    known |= {sparse.values.name: _sparse(sparse) for sparse in model.graph.sparse_initializer}
    for matrix, kind, operator in ((STRINGS, "string", "text"), (NUMBERS, "float", "number")):
        leaves = [Expression(operator, (), name, frozenset((name,))) for name, of in signature.items() if of == kind]
        known[matrix] = Rows(_array(leaves))
    last = model.graph.node[-1]
    for node in model.graph.node[:-1]:
        let_others_run()
        if node.op_type not in _OPERATORS:
            raise NotCoveredError(f"the operator {node.op_type}")
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        known[node.output[0]] = _OPERATORS[node.op_type](node.op_type, [known[name] for name in node.input], attributes)
    score = known.get(last.input[0])
    if last.op_type != "Cast" or not isinstance(score, Rows) or score.array.shape != ():
        raise NotCoveredError("more than one score a row")
    result: Expression = score.array.item()
    return result


def _sparse(tensor: onnx.SparseTensorProto) -> Table:
    if len(tensor.dims) != 1:
        raise NotCoveredError("a table of several weights a slot")
    weights, slots = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
    if tensor.dims[0] <= _DENSE_SLOTS and slots.ndim == 1:
        dense = np.zeros(tensor.dims[0])
        dense[slots] = weights
        return Table(dense)
    if slots.ndim != 1 or (np.diff(slots) <= 0).any():
        raise NotCoveredError("a sparse table that is not in order")
    return Table(weights, slots)


def _array(expressions: Iterable[Expression]) -> NDArray[Any]:
    listed = list(expressions)
    array = np.empty(len(listed), object)
    array[:] = listed
    return array


def _expressions(value: Value) -> NDArray[Any]:
    """Return a tensor as expressions; a constant has to be the same for all rows."""
    if isinstance(value, Rows):
        return value.array
    if isinstance(value, Table) or (value.ndim and value.shape[-1] != 1):
        raise NotCoveredError("a constant that differs from row to row")
    numbers = value[..., 0] if value.ndim else value
    return np.frompyfunc(constant, 1, 1)(np.array(numbers.tolist(), object)) if numbers.ndim else _scalar(numbers)


def _scalar(number: NDArray[Any]) -> NDArray[Any]:
    array = np.empty((), object)
    array[()] = constant(number.item())
    return array


def _elementwise(operator: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    if attributes.get("fmod"):
        raise NotCoveredError("the operator Mod with fmod")
    return _mapped(lambda *given: combine(operator, given), *map(_expressions, inputs))


def _mapped(make: Callable[..., Expression], *arrays: NDArray[Any]) -> Rows:
    result = np.frompyfunc(make, len(arrays), 1)(*arrays)
    array = np.empty(np.shape(result), object)
    array[...] = result
    return Rows(array)


def _cast(operator: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    kinds = {onnx.TensorProto.DOUBLE: float, onnx.TensorProto.INT64: int, onnx.TensorProto.BOOL: bool}
    if attributes["to"] not in kinds:
        raise NotCoveredError(f"a cast to {onnx.TensorProto.DataType.Name(attributes['to'])}")
    return _mapped(lambda given: combine(operator, (given,), kinds[attributes["to"]]), _expressions(inputs[0]))


def _gather(operator: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    table, chosen = inputs
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
    return _mapped(lambda given: combine(operator, (given,), table), _expressions(chosen))


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
        return Rows(_scalar_of(combine("Add", array.tolist())))
    return Rows(np.frompyfunc(lambda *given: combine("Add", given), len(array), 1)(*array))


def _concat(_: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    arrays = [_expressions(given) for given in inputs]
    if attributes["axis"] or not all(array.ndim for array in arrays):
        raise NotCoveredError("a Concat along the axis of rows")
    return Rows(np.concatenate(arrays))


def _reshape(_: str, inputs: Sequence[Value], __: Mapping[str, Any]) -> Rows:
    array, shape = _expressions(inputs[0]), inputs[1]
    if not isinstance(shape, np.ndarray) or shape.tolist() != [-1] or array.shape != (1,):
        raise NotCoveredError("a Reshape")
    return Rows(_scalar_of(array[0]))


def _unsqueeze(_: str, inputs: Sequence[Value], __: Mapping[str, Any]) -> Rows:
    _along_first(inputs)
    return Rows(_expressions(inputs[0])[None])


def _hash(operator: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    if attributes.get("seed", 0) or not attributes.get("positive", 1):
        raise NotCoveredError("a hash of another seed or sign")
    return _mapped(lambda given: combine(operator, (given,)), _expressions(inputs[0]))


def _label_encoder(operator: str, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Rows:
    if set(attributes) != {"keys_strings", "values_int64s", "default_int64"}:
        raise NotCoveredError("a LabelEncoder of other kinds")
    words = [word.decode() for word in attributes["keys_strings"]]
    places = dict(zip(words, attributes["values_int64s"], strict=True))
    extra = (places, attributes["default_int64"])
    return _mapped(lambda given: combine(operator, (given,), extra), _expressions(inputs[0]))


_OPERATORS: Mapping[str, Callable[[str, Sequence[Value], Mapping[str, Any]], Rows]] = {
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Mod", "IsNaN", "Where", "Clip", "Greater", "Less", "Abs", "Sign", "Log", "Sigmoid"),
        _elementwise,
    ),
    "Cast": _cast,
    "Gather": _gather,
    "ReduceSum": _reduce_sum,
    "Concat": _concat,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "MurmurHash3": _hash,
    "LabelEncoder": _label_encoder,
}
