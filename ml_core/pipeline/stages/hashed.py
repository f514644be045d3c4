"""Stages that give strings a slot by hashing: no vocabulary, nothing to learn, nothing that can be unseen.

Slots lie in a table of ``2**bits`` shared by the stage's fields; each field, and each cross of two, has a mix of its
own (`ml_core.pipeline.hashing`), so that equal strings in different fields do not meet systematically.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ml_core.learners.compiled import kernel
from ml_core.pipeline.columns import Columns
from ml_core.pipeline.graph import GraphWriter, Part, Picked
from ml_core.pipeline.hashing import mix_of
from ml_core.pipeline.stages.base import Stage, State

_MAX_BITS = 26
# odd, so that the pair of two hashes is told apart by their wrapped sum as by a 64-bit hash
_SPREAD = np.int64(0x9E3779B97F4A7C1 | 1)


@kernel
def _place(left, right, factor, other, salt, mask, out):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    for row in range(out.size):
        out[row] = (left[row] * factor + right[row] * other + salt) & mask


@kernel
def _pick(slots, places, out):  # type: ignore[no-untyped-def]
    """Fill `out` with the slot of each row's string, by its place in a dictionary."""
    for row in range(out.size):
        out[row] = slots[np.uint32(places[row])]


@kernel
def _count(slots, marks, owners):  # type: ignore[no-untyped-def]
    """Let each slot belong to the first value that met it; return how many entries met another's slot."""
    collided = 0
    for row in range(slots.size):
        owner = owners[slots[row]]
        if owner == 0:
            owners[slots[row]] = marks[row]
        elif owner != marks[row]:
            collided += 1
    return collided


class _Hashed(Stage):
    """A stage whose entries are hashed slots of value 1."""

    takes: ClassVar[str] = "string"
    bits: int
    seed: int
    count_collisions: bool
    owners: NDArray[np.int64]
    collided: int

    def __post_init__(self) -> None:
        self.owners = np.zeros(self.n_slots if self.count_collisions else 0, np.int64)
        self.collided = 0

    @property
    def n_slots(self) -> int:
        return 1 << self.bits if 0 < self.bits <= _MAX_BITS else 0

    @property
    def light(self) -> bool:
        return not self.count_collisions

    def _take_in(self, slots: NDArray[np.int32], position: int, left: Any, right: Any) -> None:
        """Count where a value met another's slot; a value is told by the full hashes of its fields."""
        marks = (left * _SPREAD + right) * (self.n_entries + 1) + position + 1
        self.collided += _count(np.ascontiguousarray(slots), marks, self.owners)

    @property
    def obstacle(self) -> str | None:
        return "collisions of one shard's values with another's go uncounted" if self.count_collisions else None

    def state(self) -> dict[str, NDArray[Any]]:
        if not self.count_collisions:
            return {}
        held = np.flatnonzero(self.owners)
        return {"owned": held, "owners": self.owners[held], "collided": np.array([self.collided])}

    def restore(self, state: State) -> None:
        if not self.count_collisions:
            super().restore(state)
            return
        self.owners[:] = 0
        self.owners[state["owned"]] = state["owners"]
        self.collided = int(state["collided"][0])

    def counts(self) -> dict[str, int]:
        return {"collided": self.collided} if self.count_collisions else {}

    def check(self) -> None:
        super().check()
        if not 0 <= self.seed < 1 << 30:
            raise ValueError(f"expected seed in [0, 2**30), found {self.seed}")
        if not 1 <= self.bits <= _MAX_BITS:
            raise ValueError(f"expected bits in [1, {_MAX_BITS}], found {self.bits}")


@dataclass
class Hash(_Hashed):
    """Each string column becomes one entry at a hashed slot.

    Parameters
    ----------
    columns : tuple of str
    bits : int
        The table has ``2**bits`` slots.
    seed : int
        Another seed places every value elsewhere.
    count_collisions : bool
        Whether the entries learned that met a slot of another value are counted; takes 8 bytes a slot.

    Attributes
    ----------
    collided : int
        How many did.
    """

    kind: ClassVar[str] = "hash"
    columns: tuple[str, ...]
    bits: int = 18
    seed: int = 0
    count_collisions: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.columns

    @property
    def n_entries(self) -> int:
        return len(self.columns)

    def transform(
        self, columns: Columns, slots: NDArray[np.int32], values: NDArray[np.float64], *, learn: bool
    ) -> None:
        del values
        for position, name in enumerate(self.columns):
            table, places = columns[name].slots(name, self.seed, self.n_slots)
            if places is None:
                slots[:, position] = table
            else:
                _pick(table, places, slots[:, position])
            if learn and self.count_collisions:
                self._take_in(slots[:, position], position, columns[name].hashes, 0)

    def write(self, graph: GraphWriter) -> list[Part]:
        mixes = [mix_of(name, seed=self.seed) for name in self.columns]
        factors = graph.constant(np.array([[factors[0]] for factors, _ in mixes], np.int64))
        salts = graph.constant(np.array([[salt] for _, salt in mixes], np.int64))
        mixed = graph.add("Add", graph.add("Mul", graph.hashes(self.columns), factors), salts)
        return [Picked(graph.add("Mod", mixed, graph.constant(np.int64(self.n_slots))))]


@dataclass
class Cross(_Hashed):
    """Each pair of string columns becomes one entry at a slot hashed from both values.

    Parameters
    ----------
    pairs : tuple of (str, str)
    bits : int
        The table has ``2**bits`` slots.
    seed : int
        Another seed places every value elsewhere.
    count_collisions : bool
        Whether the entries learned that met a slot of another value are counted; takes 8 bytes a slot.

    Attributes
    ----------
    collided : int
        How many did.
    """

    kind: ClassVar[str] = "cross"
    pairs: tuple[tuple[str, str], ...]
    bits: int = 18
    seed: int = 0
    count_collisions: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for pair in self.pairs for name in pair))

    @property
    def n_entries(self) -> int:
        return len(self.pairs)

    def transform(
        self, columns: Columns, slots: NDArray[np.int32], values: NDArray[np.float64], *, learn: bool
    ) -> None:
        del values
        for position, (left, right) in enumerate(self.pairs):
            (factor, other), salt = mix_of(left, right, seed=self.seed)
            mask = self.n_slots - 1
            _place(columns[left].hashes, columns[right].hashes, factor, other, salt, mask, slots[:, position])
            if learn and self.count_collisions:
                self._take_in(slots[:, position], position, columns[left].hashes, columns[right].hashes)

    def write(self, graph: GraphWriter) -> list[Part]:
        mixes = [mix_of(*pair, seed=self.seed) for pair in self.pairs]
        sides = [
            graph.add(
                "Mul",
                graph.hashes(pair[side] for pair in self.pairs),
                graph.constant(np.array([[factors[side]] for factors, _ in mixes], np.int64)),
            )
            for side in (0, 1)
        ]
        salts = graph.constant(np.array([[salt] for _, salt in mixes], np.int64))
        mixed = graph.add("Add", graph.add("Add", *sides), salts)
        return [Picked(graph.add("Mod", mixed, graph.constant(np.int64(self.n_slots))))]

    def check(self) -> None:
        super().check()
        for pair in self.pairs:
            if len(pair) != 2 or pair[0] == pair[1]:  # noqa: PLR2004 - a pair
                raise ValueError(f"expected pairs of two different columns, found {list(pair)}")
