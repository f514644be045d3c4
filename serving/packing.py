"""The same graph with two inputs instead of one per column: what a server feeds row by row.

A package's graph takes a named 1-D input per raw column, which is what plain clients expect; feeding fifty of them
costs more than all of the arithmetic. The packed graph takes `strings`, shape [n_string_columns, n], and `numbers`,
shape [n_number_columns, n], and is otherwise the very same nodes and weights. It is derived in memory from a verified
graph, for any graph: where the columns are only stacked the stack is what comes in, and elsewhere a row of it takes the
place of the column. Whether it gives the same scores is proved on the golden rows like everything else.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

STRINGS: Final = "strings"
NUMBERS: Final = "numbers"
_INPUTS: Final = ((STRINGS, "string", TensorProto.STRING), (NUMBERS, "float", TensorProto.FLOAT))


def open_session(packed: bytes) -> onnxruntime.InferenceSession:
    """Return a session of a packed graph, for one thread a call."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(packed, options, providers=["CPUExecutionProvider"])


def packed_graph(graph: bytes, signature: Mapping[str, str]) -> bytes:
    """Return a graph with its columns packed.

    Parameters
    ----------
    graph : bytes
        A verified graph; inputs that are no columns stay as they are.
    signature : mapping of str to str
        Its columns in order; a matrix holds those of its kind in this order.
    """
    model = onnx.load_model_from_string(graph)
    kept = [given for given in model.graph.input if given.name not in signature]  # parameters of a streamed model
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for matrix, kind, element in _INPUTS:
        columns = [name for name, of in signature.items() if of == kind]
        if not columns:
            continue
        _take_stack(model.graph, columns, matrix)
        _take_rows(model.graph, columns, matrix)
        model.graph.input.append(helper.make_tensor_value_info(matrix, element, [len(columns), "n"]))
    return bytes(model.SerializeToString())


def _take_stack(graph: onnx.GraphProto, columns: list[str], matrix: str) -> None:
    """Where all columns are concatenated and reshaped to [n_columns, n], let the matrix come in instead."""
    joined = {columns[0]} if len(columns) == 1 else _outputs(graph, "Concat", columns)
    shape = np.array([len(columns), -1])
    constants = {constant.name: constant for constant in graph.initializer if len(constant.dims) == 1}
    for node in list(graph.node):
        if node.op_type != "Reshape" or node.input[0] not in joined or node.input[1] not in constants:
            continue
        if np.array_equal(numpy_helper.to_array(constants[node.input[1]]), shape):
            _rename(graph, node.output[0], matrix)
            graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for node in [node for node in graph.node if node.output[0] in joined - used]:
        graph.node.remove(node)


def _take_rows(graph: onnx.GraphProto, columns: list[str], matrix: str) -> None:
    """Where a column is still asked for by name, let it be a row of the matrix."""
    used = {name for node in graph.node for name in node.input}
    for place, name in enumerate(columns):
        if name not in used:
            continue
        # onnxruntime's Gather loses all but the first string of a row; Slice and Reshape do not
        row, flat = f"{matrix}_{name}", f"{matrix}_flat"
        bounds = [_constant(graph, f"{row}_{what}", [at]) for what, at in (("from", place), ("to", place + 1))]
        along = _constant(graph, f"{matrix}_along", [0])
        graph.node.insert(0, helper.make_node("Reshape", [row, _constant(graph, flat, [-1])], [name]))
        graph.node.insert(0, helper.make_node("Slice", [matrix, *bounds, along], [row]))


def _constant(graph: onnx.GraphProto, name: str, values: list[int]) -> str:
    if all(constant.name != name for constant in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name


def _outputs(graph: onnx.GraphProto, operator: str, inputs: list[str]) -> set[str]:
    return {node.output[0] for node in graph.node if node.op_type == operator and list(node.input) == inputs}


def _rename(graph: onnx.GraphProto, tensor: str, name: str) -> None:
    for node in graph.node:
        for position, given in enumerate(node.input):
            if given == tensor:
                node.input[position] = name
