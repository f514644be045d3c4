"""A graph without its numbers, and the numbers: taken apart, and put together again."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Parameters = dict[str, NDArray[Any]]


def take_apart(graph: bytes) -> tuple[bytes, Parameters]:
    """Split a graph into its skeleton and its parameters: every floating constant with an axis.

    Constants are named by the order in which nodes use them, so the skeleton does not depend on how they were stored.
    """
    model = onnx.load_model_from_string(graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    constants |= {sparse.values.name: _dense(sparse) for sparse in model.graph.sparse_initializer}
    names: dict[str, str] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if name in constants:
                node.input[position] = names.setdefault(name, f"constant_{len(names)}")
    del model.graph.initializer[:]
    del model.graph.sparse_initializer[:]
    parameters: Parameters = {}
    for name, new in names.items():
        array = constants[name]
        if array.ndim and array.dtype in {np.dtype(np.float32), np.dtype(np.float64)}:
            parameters[new] = array
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            model.graph.input.append(helper.make_tensor_value_info(new, kind, list(array.shape)))
        else:
            model.graph.initializer.append(numpy_helper.from_array(array, new))
    return bytes(model.SerializeToString(deterministic=True)), parameters


def put_together(skeleton: bytes, parameters: Parameters) -> bytes:
    """Return the graph with its parameters as constants again."""
    model = onnx.load_model_from_string(skeleton)
    kept = [given for given in model.graph.input if given.name not in parameters]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in parameters.items())
    return bytes(model.SerializeToString(deterministic=True))


def _dense(sparse: onnx.SparseTensorProto) -> NDArray[Any]:
    values = numpy_helper.to_array(sparse.values)
    array = np.zeros(list(sparse.dims), values.dtype)
    array.reshape(-1)[numpy_helper.to_array(sparse.indices)] = values
    return array
