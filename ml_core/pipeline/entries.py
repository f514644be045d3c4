"""The entries of rows, a slot and a value each, as the stages lay them out side by side."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ml_core.learners.compiled import kernel
from ml_core.learners.linear import Csr
from ml_core.pipeline.columns import Columns
from ml_core.pipeline.stages.base import Stage

Entries: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float64]]
"""Slots and values of a batch, each of shape (n_rows, n_entries)."""


@kernel
def _shift(slots, by):  # type: ignore[no-untyped-def]
    for row in range(slots.shape[0]):
        for entry in range(slots.shape[1]):
            slots[row, entry] += by


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


def as_csr(entries: Entries) -> Csr:
    """Return entries as CSR arrays."""
    slots, values = entries
    return np.arange(0, slots.size + 1, slots.shape[1]), slots.ravel(), values.ravel()


def side_by_side(blocks: Sequence[sparse.csr_array]) -> Csr:
    """Return blocks of columns side by side, entries of a row in the order of the blocks."""
    rows = sparse.hstack(blocks, format="csr")
    return rows.indptr.astype(np.int64), rows.indices.astype(np.int32), rows.data
