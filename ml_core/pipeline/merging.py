"""Pipeline models that learned side by side from one state, made one.

Each stage and the head has a rule of its own or says why there is none (`obstacle`). The invariant: the merged state is
a function of the state before and of the shards in their order; what stages count of raw columns is what one pass over
all rows counts (but for rounding). Weights, and statistics of what an earlier stage made, depend on the cuts.
"""

from collections.abc import Sequence

import numpy as np

from ml_core.errors import ProjectError
from ml_core.pipeline.model import PipelineModel


def obstacle(model: PipelineModel) -> str | None:
    """Return which part has no rule by which states become one, and why; None where all have."""
    for position, stage in enumerate(model.stages):
        if stage.obstacle is not None:
            return f"pipeline.stages[{position}] {stage.kind!r} cannot be averaged: {stage.obstacle}"
    if model.head.obstacle is not None:
        return f"pipeline.estimator {model.head.name!r} cannot be averaged: {model.head.obstacle}"
    return None


def settled_after(model: PipelineModel) -> int:
    """Return after how many learned rows no frozen stage changes any more; before, rows have to come in order."""
    return max((stage.settled_after for stage in model.stages), default=0)


def merge(before: PipelineModel, shards: Sequence[PipelineModel]) -> None:
    """Let `before` become what `shards`, which all went on from it, make together.

    Parameters
    ----------
    before : PipelineModel
        The state every shard began from.
    shards : sequence of PipelineModel
        In the order of their rows. They are used up: some of their state is moved about.

    Raises
    ------
    ProjectError
        A part has no rule for it; it is named.
    """
    hindered = obstacle(before)
    if hindered is not None:
        raise ProjectError(hindered)
    rows = sum(shard.n_trained - before.n_trained for shard in shards)
    moves = [[np.empty((2, 0), np.int64)] for _ in shards]
    for position, stage in enumerate(before.stages):
        start = before.slot_bounds[position]
        for moved, (slots, to) in zip(moves, stage.merge([shard.stages[position] for shard in shards]), strict=False):
            moved.append(np.stack([slots + start, np.where(to < 0, -1, to + start)]))
    joined = [np.concatenate(each, axis=1) for each in moves]
    before.head.merge([shard.head for shard in shards], [(each[0], each[1]) for each in joined])
    before.n_trained += rows
