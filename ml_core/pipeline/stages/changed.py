"""Stages that change numbers in place for the stages after them: filled, held between bounds, or on a log scale.

A missing number stays missing (NaN) until `impute` fills it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ml_core.learners.compiled import kernel
from ml_core.pipeline.columns import Columns
from ml_core.pipeline.graph import Dense, GraphWriter, Part
from ml_core.pipeline.stages.base import Moves, Stage, filled
from ml_core.pipeline.stages.running import Running


@kernel
def _fill(values, moments, seen, limit, learn, out, missing):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    """Copy `values` into `out` with the running mean in place of NaN, and say where in `missing`."""
    for row in range(values.size):
        x = values[row]
        missing[row] = 1.0 if np.isnan(x) else 0.0
        out[row] = moments[1] if np.isnan(x) else x
        if learn and not np.isnan(x) and seen + row < limit:
            moments[0] += 1.0
            moments[1] += (x - moments[1]) / moments[0]


@dataclass
class Impute(Running):
    """A missing number becomes the running mean, or a constant, for the stages after this one.

    Parameters
    ----------
    columns : tuple of str
    policy : {"updating", "frozen"}
    rows : int
        Under ``frozen``, how many of the first rows set the mean.
    constant : float, optional
        Fill with this instead of the mean.
    indicator : bool
        Whether each column also gets a slot that says it was missing.
    """

    kind: ClassVar[str] = "impute"
    constant: float | None = None
    indicator: bool = True

    @property
    def n_slots(self) -> int:
        return len(self.columns) if self.indicator else 0

    @property
    def n_entries(self) -> int:
        return self.n_slots

    def transform(
        self, columns: Columns, slots: NDArray[np.int32], values: NDArray[np.float64], *, learn: bool
    ) -> None:
        for position, name in enumerate(self.columns):
            replaced, missing = np.empty(len(values)), np.empty(len(values))
            moments = self.moments[position] if self.constant is None else np.array([0.0, self.constant, 0.0])
            learns = learn and self.constant is None
            _fill(columns[name].astype(np.float64), moments, self.seen, self.limit, learns, replaced, missing)
            columns[name] = replaced
            if self.indicator:
                slots[:, position], values[:, position] = position, missing
        self.seen += len(values) if learn else 0

    def merge(self, shards: Sequence[Self]) -> list[Moves]:
        moves = super().merge(shards)
        self.moments[:, 2] = 0.0  # it keeps no spread
        return moves

    def write(self, graph: GraphWriter) -> list[Part]:
        numbers, missing = graph.numbers(self.columns)
        fill = self.moments[:, 1, None] if self.constant is None else np.full((len(self.columns), 1), self.constant)
        graph.replace_numbers(graph.add("Where", missing, graph.constant(fill), numbers), self.columns)
        return [Dense(graph.cast(missing, np.float64))] if self.indicator else []


@dataclass
class Clip(Stage):
    """Each number is held between `low` and `high` for the stages after this one; a missing one stays missing.

    Parameters
    ----------
    columns : tuple of str
    low, high : mapping of column to float
        A column without a bound is not held on that side.
    """

    kind: ClassVar[str] = "clip"
    takes: ClassVar[str] = "float"
    columns: tuple[str, ...]
    low: Mapping[str, float] = field(default_factory=dict)
    high: Mapping[str, float] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.columns

    def transform(
        self, columns: Columns, slots: NDArray[np.int32], values: NDArray[np.float64], *, learn: bool
    ) -> None:
        del slots, values, learn
        for name in self.columns:
            numbers = columns[name].astype(np.float64)
            columns[name] = np.clip(numbers, self.low.get(name, -np.inf), self.high.get(name, np.inf))

    def write(self, graph: GraphWriter) -> list[Part]:
        numbers, _ = graph.numbers(self.columns)
        # comparisons with NaN are false, so a missing number passes through
        for bounds, default, operator in ((self.low, -np.inf, "Less"), (self.high, np.inf, "Greater")):
            bound = graph.constant(filled(self.columns, bounds, default))
            numbers = graph.add("Where", graph.add(operator, numbers, bound), bound, numbers)
        graph.replace_numbers(numbers, self.columns)
        return []

    def check(self) -> None:
        super().check()
        for name in {*self.low, *self.high}:
            if name not in self.columns:
                raise ValueError(f"a bound is given for {name!r}, which is not among its columns")
            if self.low.get(name, -np.inf) > self.high.get(name, np.inf):
                raise ValueError(f"{name!r}: low {self.low[name]} lies above high {self.high[name]}")


@dataclass
class Log1p(Stage):
    """Each number *x* becomes sgn(x) log(1 + |x|) for the stages after this one; a missing one stays missing.

    Parameters
    ----------
    columns : tuple of str
    """

    kind: ClassVar[str] = "log1p"
    takes: ClassVar[str] = "float"
    columns: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.columns

    def transform(
        self, columns: Columns, slots: NDArray[np.int32], values: NDArray[np.float64], *, learn: bool
    ) -> None:
        del slots, values, learn
        for name in self.columns:
            numbers = columns[name].astype(np.float64)
            columns[name] = np.sign(numbers) * np.log1p(np.abs(numbers))

    def write(self, graph: GraphWriter) -> list[Part]:
        numbers, missing = graph.numbers(self.columns)
        size = graph.add("Log", graph.add("Add", graph.add("Abs", numbers), graph.constant(np.float64(1))))
        signed = graph.add("Mul", graph.add("Sign", numbers), size)
        graph.replace_numbers(graph.add("Where", missing, numbers, signed), self.columns)
        return []
