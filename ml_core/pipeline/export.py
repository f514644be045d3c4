"""Writing a pipeline as an ONNX graph: one named 1-D input per raw column, one output, few nodes.

All strings are hashed by one node and all numbers enter as one matrix: the 1-D inputs are concatenated and reshaped
to (n_columns, n), so the cost of scoring a row hardly grows with the number of columns. Everything after the hash is
computed in double. A missing string is "", a missing number NaN.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_OPSET = 18
_IR_VERSION = 9
OUTPUT = "score"


class GraphWriter:
    """Collects the nodes and constants of one graph; every method returns the name of the tensor it made."""

    def __init__(self, signature: Mapping[str, str]) -> None:
        self._signature = signature
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[Any, ...], onnx.TensorProto] = {}
        self._made: dict[tuple[str, ...], str] = {}

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        name = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], domain=domain, **attributes))
        return name

    def constant(self, value: Any) -> str:
        """Add an initializer; equal ones are stored once."""
        array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"constant_{len(self._constants)}")
        return self._constants[key].name

    def cast(self, tensor: str, dtype: type[np.generic]) -> str:
        """Cast a tensor."""
        return self.add("Cast", tensor, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def summed(self, tensor: str) -> str:
        """Sum over the first axis."""
        return self.add("ReduceSum", tensor, self.constant(np.array([0], np.int64)), keepdims=0)

    def looked_up(self, slots: str, weights: NDArray[np.float64]) -> str:
        """Sum the weights at integer slots of shape [k, n] into a margin of shape [n]."""
        return self.summed(self.add("Gather", self.constant(weights), slots))

    def hashes(self, columns: tuple[str, ...]) -> str:
        """Return the 32-bit hashes of string columns as an int64 tensor of shape [n_columns, n]."""
        every = tuple(name for name, kind in self._signature.items() if kind == "string")
        if every not in self._made:
            stacked = self._stacked(every)
            hashed = self.add("MurmurHash3", stacked, domain="com.microsoft", positive=1, seed=0)
            self._made[every] = self.cast(hashed, np.int64)
        return self._rows_of(self._made[every], every, columns)

    def numbers(self, columns: tuple[str, ...]) -> tuple[str, str]:
        """Return number columns as a double tensor of shape [n_columns, n], and where they are missing."""
        every = tuple(name for name, kind in self._signature.items() if kind == "float")
        if every not in self._made:
            self._made[every] = self.cast(self._stacked(every), np.float64)
        chosen = self._rows_of(self._made[every], every, columns)
        return chosen, self._once("IsNaN", chosen)

    def finish(self, margins: list[str]) -> bytes:
        """Turn margins of shape [n] into the output, and return the serialised model."""
        total = margins[0]
        for margin in margins[1:]:
            total = self.add("Add", total, margin)
        squashed = self.add("Sigmoid", total)
        self._nodes.append(helper.make_node("Cast", [squashed], [OUTPUT], to=TensorProto.FLOAT))
        kinds = {"string": TensorProto.STRING, "float": TensorProto.FLOAT}
        graph = helper.make_graph(
            self._nodes,
            "pipeline_model",
            [helper.make_tensor_value_info(name, kinds[kind], ["n"]) for name, kind in self._signature.items()],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n"])],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="modelflow")
        return bytes(model.SerializeToString(deterministic=True))

    def _stacked(self, columns: tuple[str, ...]) -> str:
        joined = self.add("Concat", *columns, axis=0) if len(columns) > 1 else columns[0]
        return self.add("Reshape", joined, self.constant(np.array([len(columns), -1], np.int64)))

    def _rows_of(self, matrix: str, every: tuple[str, ...], columns: tuple[str, ...]) -> str:
        if columns == every:
            return matrix
        positions = np.array([every.index(name) for name in columns], np.int64)
        return self._once("Gather", matrix, self.constant(positions))

    def _once(self, operator: str, *inputs: str) -> str:
        """Add a node unless the very same one was added before."""
        key = (operator, *inputs)
        if key not in self._made:
            self._made[key] = self.add(operator, *inputs)
        return self._made[key]
