"""What every head of a pipeline can do with the rows the stages made.

The invariant: `arrays` is its whole state; whatever it learns next depends on that and on the rows to come.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ml_core.errors import ProjectError
from ml_core.learners.linear import Csr
from ml_core.pipeline.graph import GraphWriter
from ml_core.pipeline.parts import Parts
from ml_core.pipeline.stages.base import Moves

Scores = NDArray[np.float64]
"""Of shape (n_rows,); with more classes than two (n_rows, n_classes)."""


class Head(ABC):
    """The estimator of a pipeline.

    Attributes
    ----------
    name : str
        What the project file calls it.
    n_classes : int
        Labels are 0 .. n_classes - 1; 0 for a regressor.
    """

    name: str
    n_classes: int

    @property
    def exact(self) -> bool:
        """Whether it learns row by row, with the same bits in any split of the rows."""
        return False

    @property
    def fits(self) -> bool:
        """Whether it has to be fitted in batch before it can score or learn."""
        return True

    @property
    def kept(self) -> bool:
        """Whether its state can be written without pickle."""
        return True

    @property
    def hindrance(self) -> str | None:
        """Why it cannot learn from new rows alone; None where it can."""
        return None

    @property
    def obstacle(self) -> str | None:
        """Why states that learned side by side cannot become one; None where they can."""
        return "its library has no rule by which states that learned side by side become one"

    @property
    def takes_missing(self) -> bool:
        """Whether it learns from missing numbers (NaN) as they are."""
        return False

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what it was built from; a state is only continued under the same."""

    @abstractmethod
    def start(self, n_slots: int) -> None:
        """Forget everything; rows will have `n_slots` slots."""

    @abstractmethod
    def fit(self, rows: Csr, targets: NDArray[np.float64]) -> None:
        """Forget everything, then learn all rows as one batch."""

    @abstractmethod
    def learn(self, rows: Csr, targets: NDArray[np.float64]) -> Scores:
        """Score the rows, then learn them; return the scores."""

    def merge(self, shards: Sequence[Self], moves: Sequence[Moves]) -> None:
        """Become what `shards`, which all went on from this state, make together.

        Parameters
        ----------
        shards : sequence of Head
            In the order of their rows. Some of their state may be moved about.
        moves : sequence of (slots, to)
            Per shard, where the stages have put slots meanwhile; -1 for nowhere.

        Raises
        ------
        ProjectError
            There is no rule for it: `obstacle` says why.
        """
        del shards, moves
        raise ProjectError(f"pipeline.estimator {self.name!r}: {self.obstacle}")

    @abstractmethod
    def score(self, rows: Csr) -> Scores:
        """Score the rows; change nothing."""

    @abstractmethod
    def write(self, graph: GraphWriter, parts: Parts) -> bytes:
        """Finish the graph with this head's part of it."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the whole state."""

    @abstractmethod
    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `arrays` gave."""
