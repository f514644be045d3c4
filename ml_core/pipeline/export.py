"""From the parts the stages wrote, and a learner's state, to the margin and the score of an exported graph.

Each learner's formula is written once more here, as ONNX nodes in double; the tests hold both to 1e-6.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ml_core.learners.linear import LinearState
from ml_core.pipeline.graph import GraphWriter, Part, Picked


def write_learner(graph: GraphWriter, parts: Sequence[tuple[Part, int, int]], state: LinearState) -> bytes:
    """Finish `graph` with the learner's part of it.

    Parameters
    ----------
    parts : sequence of (part, start, stop)
        What the stages wrote, and the range of slots it speaks of.
    state : LinearState
    """
    weights = state.weights()
    margin = graph.constant(weights[-1])
    for part, start, stop in parts:
        margin = graph.add("Add", margin, weighed(graph, part, weights[start:stop]))
    if state.link == "softmax":
        return graph.finish(graph.add("Softmax", margin, axis=-1), width=state.n_outputs)
    return graph.finish(graph.add("Sigmoid", margin) if state.link == "logistic" else margin)


def weighed(graph: GraphWriter, part: Part, weights: NDArray[np.float64]) -> str:
    """Return the sum over entries of value times weight row: shape [n], or [n, width] for several outputs."""
    single = weights.shape[1] == 1
    if isinstance(part, Picked):
        table = graph.table(weights[:, 0] if single else weights)
        return graph.summed(graph.add("Gather", table, part.slots))
    if single:
        return graph.summed(graph.add("Mul", part.values, graph.constant(weights)))
    return graph.add("MatMul", graph.add("Transpose", part.values), graph.constant(weights))
