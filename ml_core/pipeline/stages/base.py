"""What a stage is: raw columns in, entries of the row out, and its own part of the exported graph.

The invariant every stage keeps: what it makes of a row depends on that row and the rows learned before it, never on
how rows were batched.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ml_core.pipeline.columns import Columns
from ml_core.pipeline.graph import GraphWriter, Part

State = Mapping[str, NDArray[Any]]


class Stage(ABC):
    """One transform of a pipeline; subclasses are dataclasses whose fields are the keys of the project file.

    Attributes
    ----------
    kind : str
        The name `dagster_project.toml` calls the stage by.
    takes : {"string", "float"}
        The type of its columns.
    hashes : bool
        Whether it works on the hashes of its columns.
    """

    kind: ClassVar[str]
    takes: ClassVar[str]
    hashes: ClassVar[bool] = False

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

    @abstractmethod
    def transform(
        self, columns: Columns, slots: NDArray[np.int64], values: NDArray[np.float64], *, learn: bool
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

    def check(self) -> None:  # noqa: B027 - most stages have nothing to check
        """Raise ValueError where the configuration makes no sense."""


def filled(columns: tuple[str, ...], settings: Mapping[str, float], default: float) -> NDArray[np.float64]:
    """Return one setting per column, shape (n_columns, 1)."""
    return np.array([[settings.get(name, default)] for name in columns], np.float64)
