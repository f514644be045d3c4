"""Stages that turn numbers into entries of the row: scaled, or cut into buckets.

A missing number has a slot of its own, so that the model learns what its absence is worth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ml_core.learners.compiled import kernel
from ml_core.pipeline.columns import Columns
from ml_core.pipeline.graph import Dense, GraphWriter, Part, Picked
from ml_core.pipeline.stages.base import Stage
from ml_core.pipeline.stages.running import Running

_CLIP = 8.0


@kernel
def _scan(values, moments, seen, limit, learn, out):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    """Fill `out`, (n_rows, 2), with (standardised value or 0, is missing); with `learn`, update after each row.

    `moments` is (count, mean, sum of squared deviations), kept by Welford's method (1962, Technometrics 4(3)); the
    first `limit` - `seen` rows are taken in.
    """
    for row in range(values.size):
        x = values[row]
        if np.isnan(x):
            out[row, 0], out[row, 1] = 0.0, 1.0
            continue
        scale = np.sqrt(moments[0] / moments[2]) if moments[2] > 0.0 else 0.0
        out[row, 0], out[row, 1] = min(max((x - moments[1]) * scale, -_CLIP), _CLIP), 0.0
        if learn and seen + row < limit:
            moments[0] += 1.0
            delta = x - moments[1]
            moments[1] += delta / moments[0]
            moments[2] += delta * (x - moments[1])


@dataclass
class Standardise(Running):
    """Each number becomes its distance from the running mean in running standard deviations, clipped to ±8.

    A missing number stands at the mean and switches an indicator of its own on.

    Parameters
    ----------
    columns : tuple of str
    policy : {"updating", "frozen"}
    rows : int
        Under ``frozen``, how many of the first rows set the statistics.
    """

    kind: ClassVar[str] = "standardise"

    @property
    def n_slots(self) -> int:
        return 2 * len(self.columns)

    @property
    def n_entries(self) -> int:
        return 2 * len(self.columns)

    def transform(
        self, columns: Columns, slots: NDArray[np.int64], values: NDArray[np.float64], *, learn: bool
    ) -> None:
        slots[:] = np.arange(self.n_slots)
        for position, name in enumerate(self.columns):
            out = values[:, 2 * position : 2 * position + 2]
            _scan(columns[name], self.moments[position], self.seen, self.limit, learn, out)
        self.seen += len(values) if learn else 0

    def write(self, graph: GraphWriter) -> list[Part]:
        count, mean, squares = (self.moments[:, part, None] for part in range(3))
        scale = np.sqrt(np.divide(count, squares, out=np.zeros_like(count), where=squares > 0))
        numbers, missing = graph.numbers(self.columns)
        filled_in = graph.add("Where", missing, graph.constant(mean), numbers)
        scaled = graph.add("Mul", graph.add("Sub", filled_in, graph.constant(mean)), graph.constant(scale))
        clipped = graph.add("Clip", scaled, graph.constant(np.float64(-_CLIP)), graph.constant(np.float64(_CLIP)))
        both = graph.add("Concat", clipped, graph.cast(missing, np.float64), axis=0)
        order = np.arange(self.n_slots).reshape(2, -1).T.ravel()
        return [Dense(graph.add("Gather", both, graph.constant(order)))]


@dataclass
class Bucketize(Stage):
    """Each number switches on the slot of the bucket it falls into; a missing one has a slot of its own.

    Parameters
    ----------
    boundaries : mapping of column to ascending floats
        A number falls into bucket *k* when it exceeds *k* of them.
    """

    kind: ClassVar[str] = "bucketize"
    takes: ClassVar[str] = "float"
    boundaries: Mapping[str, tuple[float, ...]]

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.boundaries)

    @property
    def n_slots(self) -> int:
        return int(self._offsets()[-1])

    @property
    def n_entries(self) -> int:
        return len(self.boundaries)

    def transform(
        self, columns: Columns, slots: NDArray[np.int64], values: NDArray[np.float64], *, learn: bool
    ) -> None:
        del values, learn
        offsets = self._offsets()
        for position, (name, boundaries) in enumerate(self.boundaries.items()):
            numbers = columns[name]
            bucket = np.searchsorted(np.array(boundaries, np.float64), numbers, side="left")
            slots[:, position] = offsets[position] + np.where(np.isnan(numbers), len(boundaries) + 1, bucket)

    def write(self, graph: GraphWriter) -> list[Part]:
        most = max(map(len, self.boundaries.values()))
        padded = np.full((most, len(self.boundaries), 1), np.inf)
        for position, boundaries in enumerate(self.boundaries.values()):
            padded[: len(boundaries), position, 0] = boundaries
        numbers, missing = graph.numbers(self.inputs)
        bucket = graph.summed(graph.cast(graph.add("Greater", numbers, graph.constant(padded)), np.int64))
        absent = graph.constant(np.array([[len(boundaries) + 1] for boundaries in self.boundaries.values()], np.int64))
        chosen = graph.add("Where", missing, absent, bucket)
        return [Picked(graph.add("Add", chosen, graph.constant(self._offsets()[:-1, None])))]

    def check(self) -> None:
        for name, boundaries in self.boundaries.items():
            if not boundaries or not np.isfinite(boundaries).all() or (np.diff(boundaries) <= 0).any():
                raise ValueError(f"{name!r}: expected ascending finite boundaries, found {list(boundaries)}")

    def _offsets(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(len(boundaries) + 2 for boundaries in self.boundaries.values())], dtype=np.int64)
