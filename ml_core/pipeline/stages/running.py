"""Running statistics of columns, and the update policies a stage can keep them under.

``updating`` takes in every learned row, after it was transformed by the statistics of the rows before it; ``frozen``
takes in the first `rows` learned rows and never changes again. Either way the statistics are a function of the rows
learned, in order.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ml_core.pipeline.stages.base import Stage, State


@dataclass
class Running(Stage):
    """A stage with running moments of each column."""

    takes: ClassVar[str] = "float"
    policies: ClassVar[tuple[str, ...]] = ("updating", "frozen")
    columns: tuple[str, ...]
    policy: str = "updating"
    rows: int = 10_000
    moments: NDArray[np.float64] = field(init=False)
    seen: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.moments = np.zeros((len(self.columns), 3))

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.columns

    @property
    def limit(self) -> int:
        """How many learned rows the statistics take in."""
        return np.iinfo(np.int64).max if self.policy == "updating" else self.rows

    def state(self) -> dict[str, NDArray[Any]]:
        return {"moments": self.moments.copy(), "seen": np.array([self.seen], np.int64)}

    def restore(self, state: State) -> None:
        if state["moments"].shape != self.moments.shape:
            raise ValueError(f"expected moments of shape {self.moments.shape}, found {state['moments'].shape}")
        self.moments, self.seen = state["moments"].astype(np.float64), int(state["seen"][0])

    def check(self) -> None:
        super().check()
        if self.rows < 1:
            raise ValueError(f"expected rows >= 1, found {self.rows}")
