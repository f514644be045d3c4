"""What the stages wrote into a graph, as one matrix: the assembled vector of each row."""

from collections.abc import Sequence

import numpy as np

from ml_core.pipeline.graph import Dense, GraphWriter, Part

Parts = Sequence[tuple[Part, int, int]]
"""What the stages wrote, each with the range of slots it speaks of."""


def assembled(graph: GraphWriter, parts: Parts) -> str:
    """Return the rows as a double tensor of shape [n, n_slots]; entries at one slot are added."""
    made = [_block(graph, part, stop - start) for part, start, stop in parts]
    return graph.add("Concat", *made, axis=1) if len(made) > 1 else made[0]


def _block(graph: GraphWriter, part: Part, width: int) -> str:
    if isinstance(part, Dense):
        return graph.turned(part.values)
    depth, values = graph.constant(np.int64(width)), graph.constant(np.array([0, 1], np.float32))
    return graph.cast(graph.summed(graph.add("OneHot", part.slots, depth, values, axis=-1)), np.float64)
