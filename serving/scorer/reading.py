"""What a graph computes for one row, as expressions over that row's raw columns.

The graph is executed once with symbols in place of rows. A graph that does anything else than `OPERATORS` knows raises
NotCoveredError, and is scored as a graph.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from serving.packing import NUMBERS, STRINGS
from serving.scorer.expression import Expression, NotCoveredError, Table
from serving.scorer.operators import OPERATORS, Rows, Value, listed
from serving.scorer.yielding import let_others_run

_DENSE_SLOTS = 1 << 20
"""Up to 8 MB of weights are laid out slot by slot, because finding one is several times faster then."""


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
        known[matrix] = Rows(listed(leaves))
    last = model.graph.node[-1]
    for node in model.graph.node[:-1]:
        let_others_run()
        if node.op_type not in OPERATORS:
            raise NotCoveredError(f"the operator {node.op_type}")
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        known[node.output[0]] = OPERATORS[node.op_type](node.op_type, [known[name] for name in node.input], attributes)
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
