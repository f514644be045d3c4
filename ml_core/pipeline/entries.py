"""The entries of rows, a slot and a value each, as the stages lay them out side by side; and batches laid out ahead.

The invariant: a batch laid out ahead, then learned, leaves the bits that learning it at once does.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ml_core.learners.compiled import kernel
from ml_core.learners.linear import Csr
from ml_core.pipeline.columns import Columns
from ml_core.pipeline.stages.base import Stage, State

Entries: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float64]]
"""Slots and values of a batch, each of shape (n_rows, n_entries)."""


@kernel
def _shift(slots, by):  # type: ignore[no-untyped-def]
    for row in range(slots.shape[0]):
        for entry in range(slots.shape[1]):
            slots[row, entry] += by


@dataclass(frozen=True, slots=True)
class Laid:
    """A batch laid out ahead.

    Attributes
    ----------
    entries : Entries
        Whole but for those of the stages that have no state here.
    states : mapping of int to State
        By a stage's position, its state once it has learned the batch.
    """

    entries: Entries
    states: Mapping[int, State]


class Layout:
    """Which slots of the weight vector, and which entries of each row, belong to which stage.

    Parameters
    ----------
    stages : sequence of Stage

    Attributes
    ----------
    slot_bounds : list of int
        Where the slots of each stage begin, and where those of the last one end.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.slot_bounds: list[int] = np.cumsum([0, *(stage.n_slots for stage in stages)]).tolist()
        self._bounds: list[int] = np.cumsum([0, *(stage.n_entries for stage in stages)]).tolist()

    def blank(self, rows: int, used: list[Entries] | None = None) -> Entries:
        """Return entries to be filled, in the memory of `used` ones where that is enough: new memory costs more."""
        while used:
            slots, values = used.pop()
            if len(slots) >= rows:
                return slots[:rows], values[:rows]
        shape = (rows, self._bounds[-1])
        return np.empty(shape, np.int32), np.ones(shape)

    def fill(self, entries: Entries, columns: Columns, stages: Mapping[int, Stage], *, learn: bool) -> None:
        """Let stages, given by their positions in order, write their entries; see `Stage.transform`."""
        for position, stage in stages.items():
            first, last = self._bounds[position : position + 2]
            slots, values = entries[0][:, first:last], entries[1][:, first:last]
            stage.transform(columns, slots, values, learn=learn)
            if self.slot_bounds[position]:
                _shift(slots, self.slot_bounds[position])


class Ahead:
    """Lays batches out ahead of the learner, as far as stages are light: copies of them go ahead of the model's own.

    Parameters
    ----------
    layout : Layout
    stages : sequence of Stage
        The model's own.
    """

    def __init__(self, layout: Layout, stages: Sequence[Stage]) -> None:
        self._layout = layout
        self._stages = {position: deepcopy(stage) for position, stage in enumerate(stages) if stage.light}
        self._used: list[Entries] = []

    def laid(self, columns: Columns, rows: int) -> Laid:
        """Lay the next batch out."""
        entries = self._layout.blank(rows, self._used)
        self._layout.fill(entries, columns, self._stages, learn=True)
        return Laid(entries, {position: stage.state() for position, stage in self._stages.items()})

    def learned(self, laid: Laid) -> None:
        """Take the memory of a batch that has been learned for a later one."""
        self._used.append(laid.entries)


def as_csr(entries: Entries) -> Csr:
    """Return entries as CSR arrays."""
    slots, values = entries
    return np.arange(0, slots.size + 1, slots.shape[1]), slots.ravel(), values.ravel()


def side_by_side(blocks: Sequence[sparse.csr_array]) -> Csr:
    """Return blocks of columns side by side, entries of a row in the order of the blocks."""
    rows = sparse.hstack(blocks, format="csr")
    return rows.indptr.astype(np.int64), rows.indices.astype(np.int32), rows.data
