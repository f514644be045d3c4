"""Stages that turn numbers into entries of the row: scaled, cut into buckets, or as they are.

A missing number has a slot of its own, so that the model learns what its absence is worth; only `passthrough` leaves
it missing, for estimators that take it so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ml_core.learners.compiled import kernel
from ml_core.pipeline.columns import Columns
from ml_core.pipeline.graph import Dense, GraphWriter, Part, Picked
from ml_core.pipeline.stages.base import Stage, in_blocks
from ml_core.pipeline.stages.running import Running

_CLIP = 8.0


@kernel
def _scan(numbers, moments, seen, limit, learn, slots, values):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    """Fill one entry per column: (2 c, standardised value), or (2 c + 1, 1) where the number is missing.

    `numbers` is (n_columns, n_rows). `moments` holds (count, mean, sum of squared deviations) of each column, kept by
    Welford's method (1962, Technometrics 4(3)); with `learn`, they are updated after each of the first `limit` - `seen`
    rows.
    """
    for row in range(values.shape[0]):
        update = learn and seen + row < limit
        for c in range(numbers.shape[0]):
            x, count, mean, squares = numbers[c, row], moments[c, 0], moments[c, 1], moments[c, 2]
            if np.isnan(x):
                slots[row, c], values[row, c] = 2 * c + 1, 1.0
                continue
            delta = x - mean
            scale = np.sqrt(count / squares) if squares > 0.0 else 0.0
            slots[row, c], values[row, c] = 2 * c, min(max(delta * scale, -_CLIP), _CLIP)
            if update:
                mean += delta / (count + 1.0)
                moments[c, 0], moments[c, 1], moments[c, 2] = count + 1.0, mean, squares + delta * (x - mean)


@dataclass
class Standardise(Running):
    """Each number becomes its distance from the running mean in running standard deviations, clipped to ±8.

    A missing number has no distance; it switches an indicator of its own on.

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
        return len(self.columns)

    def transform(
        self, columns: Columns, slots: NDArray[np.int32], values: NDArray[np.float64], *, learn: bool
    ) -> None:
        for rows in in_blocks(len(values)):
            numbers = np.stack([columns[name][rows] for name in self.columns], dtype=np.float64)
            _scan(numbers, self.moments, self.seen, self.limit, learn, slots[rows], values[rows])
            self.seen += numbers.shape[1] if learn else 0

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
class Passthrough(Stage):
    """Each number enters the row as it is; a missing one stays missing for an estimator that takes it, or is 0.

    Parameters
    ----------
    columns : tuple of str
    """

    kind: ClassVar[str] = "passthrough"
    takes: ClassVar[str] = "float"
    columns: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.columns

    @property
    def n_slots(self) -> int:
        return len(self.columns)

    @property
    def n_entries(self) -> int:
        return len(self.columns)

    def transform(
        self, columns: Columns, slots: NDArray[np.int32], values: NDArray[np.float64], *, learn: bool
    ) -> None:
        del learn
        slots[:] = np.arange(self.n_slots)
        for position, name in enumerate(self.columns):
            numbers = columns[name]
            values[:, position] = numbers if self.keeps_missing else np.where(np.isnan(numbers), 0.0, numbers)

    def write(self, graph: GraphWriter) -> list[Part]:
        numbers, missing = graph.numbers(self.columns)
        if self.keeps_missing:
            return [Dense(numbers)]
        return [Dense(graph.add("Where", missing, graph.constant(np.float64(0)), numbers))]


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
        self, columns: Columns, slots: NDArray[np.int32], values: NDArray[np.float64], *, learn: bool
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
        super().check()
        for name, boundaries in self.boundaries.items():
            if not boundaries or not np.isfinite(boundaries).all() or (np.diff(boundaries) <= 0).any():
                raise ValueError(f"{name!r}: expected ascending finite boundaries, found {list(boundaries)}")

    def _offsets(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(len(boundaries) + 2 for boundaries in self.boundaries.values())], dtype=np.int64)
