"""Stages that give strings a slot by hashing: no vocabulary, nothing to learn, nothing that can be unseen.

Slots lie in a table of ``2**bits`` shared by the stage's fields; each field, and each cross of two, has a mix of its
own (`ml_core.pipeline.hashing`), so that equal strings in different fields do not meet systematically.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ml_core.learners.compiled import kernel
from ml_core.pipeline.columns import Columns
from ml_core.pipeline.graph import GraphWriter, Part, Picked
from ml_core.pipeline.hashing import mix_of
from ml_core.pipeline.stages.base import Stage

_MAX_BITS = 26


@kernel
def _place(left, right, factor, other, salt, mask, out):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    for row in range(out.size):
        out[row] = (left[row] * factor + right[row] * other + salt) & mask


class _Hashed(Stage):
    """A stage whose entries are hashed slots of value 1."""

    takes: ClassVar[str] = "string"
    hashes: ClassVar[bool] = True
    bits: int

    @property
    def n_slots(self) -> int:
        return 1 << self.bits

    def check(self) -> None:
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
    """

    kind: ClassVar[str] = "hash"
    columns: tuple[str, ...]
    bits: int = 18

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.columns

    @property
    def n_entries(self) -> int:
        return len(self.columns)

    def transform(
        self, columns: Columns, slots: NDArray[np.int64], values: NDArray[np.float64], *, learn: bool
    ) -> None:
        del values, learn
        for position, name in enumerate(self.columns):
            (factor,), salt = mix_of(name)
            hashes = columns[name].hashes
            _place(hashes, hashes, factor, 0, salt, self.n_slots - 1, slots[:, position])

    def write(self, graph: GraphWriter) -> list[Part]:
        mixes = [mix_of(name) for name in self.columns]
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
    """

    kind: ClassVar[str] = "cross"
    pairs: tuple[tuple[str, str], ...]
    bits: int = 18

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for pair in self.pairs for name in pair))

    @property
    def n_entries(self) -> int:
        return len(self.pairs)

    def transform(
        self, columns: Columns, slots: NDArray[np.int64], values: NDArray[np.float64], *, learn: bool
    ) -> None:
        del values, learn
        for position, (left, right) in enumerate(self.pairs):
            (factor, other), salt = mix_of(left, right)
            mask = self.n_slots - 1
            _place(columns[left].hashes, columns[right].hashes, factor, other, salt, mask, slots[:, position])

    def write(self, graph: GraphWriter) -> list[Part]:
        mixes = [mix_of(*pair) for pair in self.pairs]
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
