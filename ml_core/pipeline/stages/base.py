"""What a stage is: raw columns in, entries of the row out, and its own part of the exported graph.

The invariant every stage keeps: what it makes of a row depends on that row and the rows learned before it, never on
how rows were batched.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ml_core.errors import ProjectError
from ml_core.pipeline.columns import Columns
from ml_core.pipeline.graph import GraphWriter, Part

State = Mapping[str, NDArray[Any]]

Moves = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Slots, and where each of them goes; -1 for nowhere."""

_BLOCK_ROWS = 4_096


class Stage(ABC):
    """One transform of a pipeline; subclasses are dataclasses whose fields are the keys of the project file.

    Attributes
    ----------
    kind : str
        The name `dagster_project.toml` calls the stage by.
    takes : {"string", "float"}
        The type of its columns.
    policies : tuple of str
        The update policies it can be kept under: ``frozen``, ``updating`` or ``growing``; the first is the default.
    policy : str or None
        The one it is kept under.
    keeps_missing : bool
        Whether a number that is missing may be left so (NaN) in the row, for an estimator that takes it.
    """

    kind: ClassVar[str]
    takes: ClassVar[str]
    policies: ClassVar[tuple[str, ...]] = ("frozen",)
    policy: str | None = "frozen"
    keeps_missing: bool = False

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """The raw columns this stage reads."""

    @property
    def n_slots(self) -> int:
        """How many slots of the weight vector belong to this stage."""
        return 0

    @property
    def n_entries(self) -> int:
        """How many entries of a row this stage fills."""
        return 0

    @property
    def settings(self) -> dict[str, Any]:
        """What it was built from, beside its kind; a state is only continued under the same."""
        keys = (key.name for key in dataclasses.fields(self) if key.init)  # type: ignore[arg-type]  # all are dataclasses
        return {name: getattr(self, name) for name in keys}

    @property
    def light(self) -> bool:
        """Whether its state is a few numbers, of which a copy may run ahead; where not, it reads no replaced column."""
        return True

    @property
    def exact(self) -> bool:
        """Whether any split of the rows into batches leaves it with the same bits."""
        return True

    @property
    def hindrance(self) -> str | None:
        """Why it cannot learn from new rows alone and what to do about it; None where it can."""
        return None

    @property
    def obstacle(self) -> str | None:
        """Why states that learned side by side cannot become one; None where they can, or where it learns nothing."""
        return "what it learned has no rule by which states become one" if self.state() else None

    @property
    def settled_after(self) -> int:
        """After how many learned rows it no longer changes; 0 where nothing hangs on it."""
        return 0

    def merge(self, shards: Sequence[Self]) -> list[Moves]:
        """Become what `shards`, which all went on from this state, make together.

        Parameters
        ----------
        shards : sequence of Stage
            In the order of their rows.

        Returns
        -------
        list of (slots, to)
            Per shard, where its slots of this stage have gone; -1 for nowhere. An empty list where none has moved.
        """
        del shards
        if self.obstacle is not None:
            raise ProjectError(f"pipeline stage {self.kind!r}: {self.obstacle}")
        return []

    def counts(self) -> dict[str, int]:
        """Return what it counted of the rows learned, by name."""
        return {}

    @abstractmethod
    def transform(
        self, columns: Columns, slots: NDArray[np.int32], values: NDArray[np.float64], *, learn: bool
    ) -> None:
        """Transform a batch.

        Parameters
        ----------
        columns : Columns
            The batch as earlier stages left it; this one may replace its own columns for later stages.
        slots, values : ndarray, shape (n_rows, n_entries)
            To be filled with each row's slots, counted from 0, and its values, which are 1 to begin with.
        learn : bool
            Whether the rows are learned: each is transformed by what the rows before it left, then it is taken in.
        """

    def block(self, columns: Columns, rows: int, *, learn: bool) -> sparse.csr_array:
        """Transform a batch as `transform` does; return its entries as CSR, shape (n_rows, n_slots)."""
        slots: NDArray[Any] = np.empty((rows, self.n_entries), np.int32)
        values = np.ones(slots.shape)
        self.transform(columns, slots, values, learn=learn)
        ends = np.arange(rows + 1, dtype=np.int64) * self.n_entries
        return sparse.csr_array((values.ravel(), slots.ravel(), ends), shape=(rows, self.n_slots))

    @abstractmethod
    def write(self, graph: GraphWriter) -> list[Part]:
        """Add this stage to the graph, as it transforms now; return its entries."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what training changed, by name; nothing for a stage without memory."""
        return {}

    def restore(self, state: State) -> None:
        """Take back what `state` gave; raise KeyError or ValueError where it does not fit."""
        if state:
            raise ValueError(f"stage {self.kind!r} has no state, found {', '.join(state)}")

    def check(self) -> None:
        """Raise ValueError where the configuration makes no sense."""
        if self.policy not in self.policies:
            raise ValueError(f"expected policy among {', '.join(self.policies)}, found {self.policy!r}")


def in_blocks(rows: int) -> Iterator[slice]:
    """Yield the ranges of a few thousand rows each: what is made of one for a kernel stays in the processor's cache."""
    return (slice(start, start + _BLOCK_ROWS) for start in range(0, rows, _BLOCK_ROWS))


def filled(columns: tuple[str, ...], settings: Mapping[str, float], default: float) -> NDArray[np.float64]:
    """Return one setting per column, shape (n_columns, 1)."""
    return np.array([[settings.get(name, default)] for name in columns], np.float64)
