"""Running statistics of columns, and the update policies a stage can keep them under.

``updating`` takes in every learned row, after it was transformed by the statistics of the rows before it; ``frozen``
takes in the first `rows` learned rows and never changes again. Either way the statistics are a function of the rows
learned, in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ml_core.pipeline.stages.base import Moves, Stage, State


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

    @property
    def obstacle(self) -> str | None:
        return None

    @property
    def settled_after(self) -> int:
        return self.rows if self.policy == "frozen" else 0

    def merge(self, shards: Sequence[Self]) -> list[Moves]:
        """Add up the moments of rows each shard took in, about the mean they all began with.

        The pairwise rule of Chan, Golub and LeVeque (1983), The American Statistician 37(3), for any number of parts:
        equal to one pass but for rounding.
        """
        count, mean, squares = self.moments.T.copy()
        total, about, spread = count.copy(), np.zeros_like(mean), squares.copy()
        for shard in shards:
            own, own_mean, own_squares = shard.moments.T
            total += own - count
            about += own * (own_mean - mean)
            spread += own_squares + own * (own_mean - mean) ** 2 - squares
        shift = about / np.where(total > 0, total, 1.0)
        self.moments = np.stack([total, mean + shift, np.maximum(spread - total * shift**2, 0.0)], axis=1)
        self.seen += sum(shard.seen - self.seen for shard in shards)
        return []

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
