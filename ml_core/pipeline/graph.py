"""Writing a pipeline as an ONNX graph: one named 1-D input per raw column, one output, few nodes.

All strings are hashed by one node and all numbers enter as one matrix: the 1-D inputs are concatenated and reshaped
to (n_columns, n), so the cost of scoring a row hardly grows with the number of columns. Everything after the hash is
computed in double. A missing string is "", a missing number NaN. The same state gives the same bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.compose
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ml_core.errors import ExportError

OPSETS = {"": 18, "com.microsoft": 1, "ai.onnx.ml": 3}
IR_VERSION = 9
OUTPUT = "score"

# Tables of weights are mostly zeros (slots no row ever touched); below this share they are stored sparsely.
_SPARSE_BELOW = 0.25


@dataclass(frozen=True, slots=True)
class Picked:
    """Entries of value 1 at slots that depend on the row: the name of an int64 tensor of shape [k, n]."""

    slots: str


@dataclass(frozen=True, slots=True)
class Dense:
    """Entries at slots 0..k-1 of the stage: the name of a double tensor of shape [k, n], free of NaN."""

    values: str


Part = Picked | Dense


class GraphWriter:
    """Collects the nodes and constants of one graph; methods return the name of the tensor they made."""

    def __init__(self, signature: Mapping[str, str]) -> None:
        self._signature = signature
        self._texts = tuple(name for name, kind in signature.items() if kind == "string")
        self._floats = tuple(name for name, kind in signature.items() if kind == "float")
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[Any, ...], onnx.TensorProto] = {}
        self._sparse: list[onnx.SparseTensorProto] = []
        self._spliced: list[Sequence[onnx.TensorProto]] = []
        self._made: dict[Any, str] = {}
        self._matrix: str | None = None

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output, unless the very same one was added before."""
        key = (operator, inputs, domain, repr(sorted(attributes.items())))
        if key not in self._made:
            self._made[key] = f"{operator.lower()}_{len(self._nodes)}"
            self._nodes.append(helper.make_node(operator, list(inputs), [self._made[key]], domain=domain, **attributes))
        return self._made[key]

    def constant(self, value: Any) -> str:
        """Add an initializer; equal ones are stored once."""
        array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"constant_{len(self._constants)}")
        return self._constants[key].name

    def table(self, weights: NDArray[np.float64]) -> str:
        """Add a large initializer, storing only what is not zero where that is the smaller way."""
        held = np.flatnonzero(weights)
        if held.size == 0 or held.size > weights.size * _SPARSE_BELOW:
            return self.constant(weights)
        name = f"table_{len(self._sparse)}"
        values = numpy_helper.from_array(weights.ravel()[held], name)
        indices = numpy_helper.from_array(held.astype(np.int64), f"{name}_indices")
        self._sparse.append(helper.make_sparse_tensor(values, indices, list(weights.shape)))
        return name

    def cast(self, tensor: str, dtype: type[np.generic]) -> str:
        """Cast a tensor."""
        return self.add("Cast", tensor, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def summed(self, tensor: str) -> str:
        """Sum over the first axis."""
        return self.add("ReduceSum", tensor, self.constant(np.array([0], np.int64)), keepdims=0)

    def hashes(self, columns: Iterable[str]) -> str:
        """Return the 32-bit hashes of string columns as an int64 tensor of shape [n_columns, n]."""
        hashed = self.add("MurmurHash3", self._stacked(self._texts), domain="com.microsoft", positive=1, seed=0)
        return self._rows_of(self.cast(hashed, np.int64), self._texts, columns)

    def positions(self, column: str, vocabulary: Iterable[str]) -> str:
        """Return, as an int64 tensor of shape [1, n], 1 + the place of each string in `vocabulary`, 0 if absent."""
        words = list(vocabulary)
        encoded = self.add(
            "LabelEncoder",
            column,
            domain="ai.onnx.ml",
            keys_strings=words or [""],
            values_int64s=list(range(1, len(words) + 1)) or [0],
            default_int64=0,
        )
        return self.add("Unsqueeze", encoded, self.constant(np.array([0], np.int64)))

    def numbers(self, columns: Iterable[str]) -> tuple[str, str]:
        """Return number columns as a double tensor of shape [n_columns, n], and where they are missing (NaN)."""
        chosen = self._rows_of(self._numbers(), self._floats, columns)
        return chosen, self.add("IsNaN", chosen)

    def texts(self, columns: Iterable[str]) -> str:
        """Return string columns as a tensor of shape [n_columns, n]."""
        return self._rows_of(self._stacked(self._texts), self._texts, columns)

    def turned(self, tensor: str) -> str:
        """Return a matrix with its axes exchanged: [n_columns, n] to [n, n_columns], or back."""
        return self.add("Transpose", tensor, perm=[1, 0])

    def splice(self, model: onnx.ModelProto, tensor: str, output: str) -> str:
        """Add what another writer's graph with one input computes of `tensor`; return its tensor `output`.

        Nodes that `output` does not need are left out, and so are the types the graph declares.

        Raises
        ------
        ExportError
            It needs operators of a domain, or of a release, that this graph does not have.
        """
        for opset in model.opset_import:
            if opset.version > OPSETS.get(opset.domain, 0) and any(
                node.domain == opset.domain for node in model.graph.node
            ):
                raise ExportError(f"expected ONNX operators up to {OPSETS}, found {opset.domain!r} {opset.version}")
        prefix = f"part{len(self._spliced)}_"
        (given,) = (each.name for each in model.graph.input)
        needed, kept = {output}, []
        for node in reversed(model.graph.node):
            if needed.intersection(node.output):
                needed |= set(node.input) | _outer(node)
                kept.append(node)
        part = onnx.ModelProto()
        part.CopyFrom(model)
        del part.graph.node[:], part.graph.initializer[:], part.graph.value_info[:]
        part.graph.node.extend(reversed(kept))
        part.graph.initializer.extend(each for each in model.graph.initializer if each.name in needed)
        part = onnx.compose.add_prefix(part, prefix)
        self._nodes.append(helper.make_node("Identity", [tensor], [prefix + given]))
        self._nodes.extend(part.graph.node)
        self._spliced.append(part.graph.initializer)
        return prefix + output

    def replace_numbers(self, tensor: str, columns: Iterable[str]) -> None:
        """Let later stages see the rows of `tensor`, shape [n_columns, n], in place of `columns`."""
        changed = tuple(columns)
        if changed == self._floats:
            self._matrix = tensor
            return
        joined = self.add("Concat", self._numbers(), tensor, axis=0)
        order = [
            len(self._floats) + changed.index(name) if name in changed else position
            for position, name in enumerate(self._floats)
        ]
        self._matrix = self.add("Gather", joined, self.constant(np.array(order, np.int64)))

    def finish(self, output: str, width: int = 1) -> bytes:
        """Make `output`, a double tensor of shape [n] or [n, width], the graph's; return the serialised model."""
        self._nodes.append(helper.make_node("Cast", [output], [OUTPUT], to=TensorProto.FLOAT))
        kinds = {"string": TensorProto.STRING, "float": TensorProto.FLOAT}
        shape: list[str | int | None] = ["n"] if width == 1 else ["n", width]
        graph = helper.make_graph(
            self._nodes,
            "pipeline_model",
            [helper.make_tensor_value_info(name, kinds[kind], ["n"]) for name, kind in self._signature.items()],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)],
            [*self._constants.values(), *(each for part in self._spliced for each in part)],
            sparse_initializer=self._sparse,
        )
        used = {""} | {node.domain for node in self._nodes}
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items() if domain in used]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="modelflow")
        return bytes(model.SerializeToString(deterministic=True))

    def _numbers(self) -> str:
        if self._matrix is None:
            self._matrix = self.cast(self._stacked(self._floats), np.float64)
        return self._matrix

    def _stacked(self, columns: tuple[str, ...]) -> str:
        joined = self.add("Concat", *columns, axis=0) if len(columns) > 1 else columns[0]
        return self.add("Reshape", joined, self.constant(np.array([len(columns), -1], np.int64)))

    def _rows_of(self, matrix: str, every: tuple[str, ...], columns: Iterable[str]) -> str:
        wanted = tuple(columns)
        if wanted == every:
            return matrix
        return self.add("Gather", matrix, self.constant(np.array([every.index(name) for name in wanted], np.int64)))


def _outer(node: onnx.NodeProto) -> set[str]:
    """Return the names that the bodies inside a node may take from around it."""
    bodies = [each.g for each in node.attribute if each.type == onnx.AttributeProto.GRAPH]
    return {name for body in bodies for inner in body.node for name in {*inner.input, *_outer(inner)}}
