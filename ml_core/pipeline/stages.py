"""The stages a pipeline is put together from, by the names `dagster_project.toml` uses for them.

A stage turns raw columns into a fixed number of (slot, value) entries per row. Its invariant: what it makes of a
row depends on that row and the rows learned before it, never on how rows were batched. Each stage also knows its
own part of the ONNX graph (`ml_core.pipeline.export` holds the vocabulary for that).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

import numba
import numpy as np
from numpy.typing import NDArray

from ml_core.errors import ProjectError
from ml_core.pipeline.export import GraphWriter
from ml_core.pipeline.hashing import mix_of
from ml_core.project import nearest

_CLIP = 8.0

Columns = Mapping[str, NDArray[Any]]
Entries = tuple[NDArray[np.int64], NDArray[np.float64]]


class Stage(ABC):
    """One transform: raw columns in, (slots, values) of shape (n_rows, n_entries) out.

    `Columns` maps a column to its hashes (int64) where it holds strings, to float64 numbers where it does not.
    """

    kind: ClassVar[str]
    takes: ClassVar[str]

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """The raw columns this stage reads."""

    @property
    @abstractmethod
    def width(self) -> int:
        """How many slots of the weight vector belong to this stage."""

    @abstractmethod
    def transform(self, columns: Columns, *, learn: bool) -> Entries:
        """Return local slots and values of each row; with `learn`, row by row as training sees them."""

    @abstractmethod
    def write(self, graph: GraphWriter, weights: NDArray[np.float64]) -> str:
        """Add this stage to the graph; return the name of its margin, a double tensor of shape [n]."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what training changed, by name; nothing for a stage without statistics."""
        return {}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `state` gave."""


@dataclass(frozen=True, slots=True)
class Hash(Stage):
    """Each string column becomes one entry at a hashed slot of a table of ``2**bits``."""

    kind: ClassVar[str] = "hash"
    takes: ClassVar[str] = "string"
    columns: tuple[str, ...]
    bits: int = 18

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.columns

    @property
    def width(self) -> int:
        return 1 << self.bits

    def transform(self, columns: Columns, *, learn: bool) -> Entries:  # noqa: ARG002 - hashing learns nothing
        slots = np.empty((columns[self.columns[0]].size, len(self.columns)), np.int64)
        for position, name in enumerate(self.columns):
            factors, salt = mix_of(name)
            slots[:, position] = (columns[name] * factors[0] + salt) & (self.width - 1)
        return slots, np.ones(slots.shape)

    def write(self, graph: GraphWriter, weights: NDArray[np.float64]) -> str:
        mixes = [mix_of(name) for name in self.columns]
        factors = np.array([[factors[0]] for factors, _ in mixes], np.int64)
        salts = np.array([[salt] for _, salt in mixes], np.int64)
        hashes = graph.hashes(self.columns)
        mixed = graph.add("Add", graph.add("Mul", hashes, graph.constant(factors)), graph.constant(salts))
        return graph.looked_up(graph.add("Mod", mixed, graph.constant(np.int64(self.width))), weights)


@dataclass(frozen=True, slots=True)
class Cross(Stage):
    """Each pair of string columns becomes one entry at a slot hashed from both values."""

    kind: ClassVar[str] = "cross"
    takes: ClassVar[str] = "string"
    pairs: tuple[tuple[str, str], ...]
    bits: int = 18

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for pair in self.pairs for name in pair))

    @property
    def width(self) -> int:
        return 1 << self.bits

    def transform(self, columns: Columns, *, learn: bool) -> Entries:  # noqa: ARG002 - hashing learns nothing
        slots = np.empty((columns[self.pairs[0][0]].size, len(self.pairs)), np.int64)
        for position, (left, right) in enumerate(self.pairs):
            factors, salt = mix_of(left, right)
            slots[:, position] = (columns[left] * factors[0] + columns[right] * factors[1] + salt) & (self.width - 1)
        return slots, np.ones(slots.shape)

    def write(self, graph: GraphWriter, weights: NDArray[np.float64]) -> str:
        mixes = [mix_of(*pair) for pair in self.pairs]
        sides = [
            graph.add(
                "Mul",
                graph.hashes(tuple(pair[side] for pair in self.pairs)),
                graph.constant(np.array([[factors[side]] for factors, _ in mixes], np.int64)),
            )
            for side in (0, 1)
        ]
        salts = graph.constant(np.array([[salt] for _, salt in mixes], np.int64))
        mixed = graph.add("Add", graph.add("Add", *sides), salts)
        return graph.looked_up(graph.add("Mod", mixed, graph.constant(np.int64(self.width))), weights)


@numba.njit(cache=True, nogil=True)
def _standardise(values, count, mean, squares, out, learn):  # type: ignore[no-untyped-def]  # noqa: PLR0917
    """Standardise (n_rows, n_columns) `values` into `out`; with `learn`, update the statistics after each row.

    Running mean and sum of squared deviations: Welford (1962), Technometrics 4(3).
    """
    for row in range(values.shape[0]):
        for j in range(values.shape[1]):
            x = values[row, j]
            if np.isnan(x):
                out[row, 2 * j], out[row, 2 * j + 1] = 0.0, 1.0
                continue
            scale = np.sqrt(count[j] / squares[j]) if squares[j] > 0.0 else 0.0
            out[row, 2 * j] = min(max((x - mean[j]) * scale, -_CLIP), _CLIP)
            out[row, 2 * j + 1] = 0.0
            if learn:
                count[j] += 1.0
                delta = x - mean[j]
                mean[j] += delta / count[j]
                squares[j] += delta * (x - mean[j])


@dataclass(frozen=True)
class Standardise(Stage):
    """Each number becomes its distance from the running mean in running standard deviations, clipped to ±8.

    Policy *updating*: a row is transformed by the statistics of the rows before it, then it updates them. A missing
    number stands at the mean and switches an indicator on.
    """

    kind: ClassVar[str] = "standardise"
    takes: ClassVar[str] = "float"
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        self.restore({name: np.zeros(len(self.columns)) for name in ("count", "mean", "squares")})

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.columns

    @property
    def width(self) -> int:
        return 2 * len(self.columns)

    def transform(self, columns: Columns, *, learn: bool) -> Entries:
        values = np.column_stack([columns[name] for name in self.columns])
        out = np.empty((values.shape[0], self.width))
        statistics = self.__dict__["statistics"]
        _standardise(values, statistics["count"], statistics["mean"], statistics["squares"], out, learn)
        return np.broadcast_to(np.arange(self.width), out.shape), out

    def write(self, graph: GraphWriter, weights: NDArray[np.float64]) -> str:
        count, mean, squares = (self.state()[name][:, None] for name in ("count", "mean", "squares"))
        scale = np.sqrt(np.divide(count, squares, out=np.zeros_like(count), where=squares > 0))
        numbers, missing = graph.numbers(self.columns)
        filled = graph.add("Where", missing, graph.constant(mean), numbers)
        scaled = graph.add("Mul", graph.add("Sub", filled, graph.constant(mean)), graph.constant(scale))
        clipped = graph.add("Clip", scaled, graph.constant(np.float64(-_CLIP)), graph.constant(np.float64(_CLIP)))
        present = graph.add("Mul", clipped, graph.constant(weights[0::2, None]))
        absent = graph.add("Mul", graph.cast(missing, np.float64), graph.constant(weights[1::2, None]))
        return graph.summed(graph.add("Add", present, absent))

    def state(self) -> dict[str, NDArray[Any]]:
        return dict(self.__dict__["statistics"])

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        # the statistics are the one part of a stage that training changes; its configuration is frozen
        self.__dict__["statistics"] = {name: np.array(values, np.float64) for name, values in state.items()}


@dataclass(frozen=True, slots=True)
class Bucketize(Stage):
    """Each number switches on the slot of the bucket it falls into; a missing one has a slot of its own.

    `boundaries` maps a column to ascending boundaries; a number falls into bucket *k* when it exceeds *k* of them.
    """

    kind: ClassVar[str] = "bucketize"
    takes: ClassVar[str] = "float"
    boundaries: Mapping[str, tuple[float, ...]]

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.boundaries)

    @property
    def width(self) -> int:
        return int(self._offsets()[-1])

    def transform(self, columns: Columns, *, learn: bool) -> Entries:  # noqa: ARG002 - boundaries are given
        offsets = self._offsets()
        slots = np.empty((columns[self.inputs[0]].size, len(self.inputs)), np.int64)
        for position, (name, boundaries) in enumerate(self.boundaries.items()):
            values = columns[name]
            bucket = np.searchsorted(np.array(boundaries), values, side="left")
            slots[:, position] = offsets[position] + np.where(np.isnan(values), len(boundaries) + 1, bucket)
        return slots, np.ones(slots.shape)

    def write(self, graph: GraphWriter, weights: NDArray[np.float64]) -> str:
        most = max(map(len, self.boundaries.values()))
        padded = np.full((most, len(self.inputs), 1), np.inf)
        for position, boundaries in enumerate(self.boundaries.values()):
            padded[: len(boundaries), position, 0] = boundaries
        numbers, missing = graph.numbers(self.inputs)
        exceeded = graph.cast(graph.add("Greater", numbers, graph.constant(padded)), np.int64)
        bucket = graph.summed(exceeded)
        absent = graph.constant(np.array([[len(boundaries) + 1] for boundaries in self.boundaries.values()], np.int64))
        chosen = graph.add("Where", missing, absent, bucket)
        slots = graph.add("Add", chosen, graph.constant(self._offsets()[:-1, None]))
        return graph.looked_up(slots, weights)

    def _offsets(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(len(boundaries) + 2 for boundaries in self.boundaries.values())], dtype=np.int64)


STAGES: Mapping[str, type[Stage]] = {stage.kind: stage for stage in (Hash, Cross, Standardise, Bucketize)}


def build_stage(spec: Mapping[str, Any], schema: Mapping[str, str]) -> Stage:
    """Build the stage a table of the project file describes.

    Raises
    ------
    ProjectError
        The stage, one of its keys, or one of its columns does not exist or has the wrong type; the nearest valid
        name is given.
    """
    settings = dict(spec)
    kind = settings.pop("stage", None)
    if kind not in STAGES:
        raise ProjectError(f"pipeline stage {kind!r} does not exist: {nearest(str(kind), STAGES)}")
    stage_type = STAGES[kind]
    known = {field.name: field for field in fields(stage_type)}  # type: ignore[arg-type]  # every stage is a dataclass
    for key in settings:
        if key not in known:
            raise ProjectError(f"pipeline stage {kind!r} has no key {key!r}: {nearest(key, known)}")
    for name, field in known.items():
        if name not in settings and field.default is MISSING:
            raise ProjectError(f"pipeline stage {kind!r} needs the key {name!r}")
    stage = stage_type(**{key: _frozen(value) for key, value in settings.items()})
    if not stage.inputs:
        raise ProjectError(f"pipeline stage {kind!r} names no column")
    for column in stage.inputs:
        if column not in schema:
            raise ProjectError(f"pipeline stage {kind!r}: no feature {column!r}: {nearest(column, schema)}")
        if schema[column] != stage.takes:
            raise ProjectError(
                f"pipeline stage {kind!r} takes {stage.takes} columns; {column!r} is a {schema[column]}: cast it in"
                " features.sql or use another stage"
            )
    return stage


def _frozen(value: Any) -> Any:
    """Turn the lists of a TOML value into tuples, all the way down."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, Mapping):
        return {key: _frozen(item) for key, item in value.items()}
    return value


__all__ = ["STAGES", "Columns", "Entries", "Stage", "build_stage"]
