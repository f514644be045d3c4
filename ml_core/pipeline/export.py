"""From the parts the stages wrote, and a learner's state, to the margin and the score of an exported graph.

Each learner's formula is written once more here, as ONNX nodes in double; the tests hold both to 1e-6.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_core.errors import ExportError
from ml_core.learners.fm import FMState
from ml_core.learners.linear import LinearState
from ml_core.pipeline.graph import Dense, GraphWriter, Part, Picked
from ml_core.pipeline.parts import Parts


def write_learner(graph: GraphWriter, parts: Parts, state: Any) -> bytes:
    """Finish `graph` with the learner's part of it.

    Raises
    ------
    ExportError
        No formula is written here for this kind of state.
    """
    if isinstance(state, FMState):
        linear = _linear(graph, parts, state.linear.weights())
        margin = graph.add("Add", linear, _pairs(graph, parts, state))
        return graph.finish(graph.add("Sigmoid", margin))
    if not isinstance(state, LinearState):
        raise ExportError(f"expected a linear learner or a factorization machine, found {type(state).__name__}")
    return write_linear(graph, parts, state.weights(), state.link)


def write_linear(graph: GraphWriter, parts: Parts, weights: NDArray[np.float64], link: str) -> bytes:
    """Finish `graph` with a linear model: weights of shape (n_slots + 1, n_outputs), intercept last."""
    margin = _linear(graph, parts, weights)
    if link == "softmax":
        return graph.finish(graph.add("Softmax", margin, axis=-1), width=weights.shape[1])
    return graph.finish(graph.add("Sigmoid", margin) if link == "logistic" else margin)


def _linear(graph: GraphWriter, parts: Parts, weights: NDArray[np.float64]) -> str:
    margin = graph.constant(weights[-1])
    for part, start, stop in parts:
        margin = graph.add("Add", margin, _weighed(graph, part, weights[start:stop]))
    return margin


def _pairs(graph: GraphWriter, parts: Parts, state: FMState) -> str:
    """Return half the sum over factors of (sum of v x)² - sum of (v x)², shape [n]."""
    factors = np.ascontiguousarray(state.factors[:, :, 0])
    squared = (factors**2).sum(axis=1, keepdims=True)
    sums, squares = [], []
    for part, start, stop in parts:
        sums.append(_weighed(graph, part, factors[start:stop]))
        if isinstance(part, Dense):
            part = Dense(graph.add("Mul", part.values, part.values))  # noqa: PLW2901 - x² in place of x
        squares.append(_weighed(graph, part, squared[start:stop]))
    total = _added(graph, sums)
    last = graph.constant(np.array([-1], np.int64))
    pairs = graph.add("ReduceSum", graph.add("Mul", total, total), last, keepdims=0)
    return graph.add("Mul", graph.add("Sub", pairs, _added(graph, squares)), graph.constant(np.float64(0.5)))


def _weighed(graph: GraphWriter, part: Part, weights: NDArray[np.float64]) -> str:
    """Return the sum over entries of value times weight row: shape [n], or [n, width] where there are several."""
    single = weights.shape[1] == 1
    if isinstance(part, Picked):
        return graph.summed(graph.add("Gather", graph.table(weights[:, 0] if single else weights), part.slots))
    if single:
        return graph.summed(graph.add("Mul", part.values, graph.constant(weights)))
    return graph.add("MatMul", graph.add("Transpose", part.values), graph.constant(weights))


def _added(graph: GraphWriter, tensors: Sequence[str]) -> str:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = graph.add("Add", total, tensor)
    return total
