"""Batches read, checked and laid out in a thread of their own, ahead of the learner.

The invariant: a batch laid out ahead, then learned, leaves the bits that learning it at once does.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

from ml_core.pipeline.columns import Columns
from ml_core.pipeline.entries import Entries, Layout
from ml_core.pipeline.stages.base import Stage, State

T = TypeVar("T")


def read_ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """Yield `items`, the next of which is made in another thread while the consumer has this one.

    What making one raises is raised in its turn. The consumer that stops early waits for the one being made.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-batches") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


@dataclass(frozen=True, slots=True)
class Laid:
    """A batch laid out ahead.

    Attributes
    ----------
    entries : Entries
        Whole but for those of the stages that have no state here.
    states : mapping of int to State
        By a stage's position, its state once it has learned the batch.
    used : list of Entries
        Where the memory goes once the batch is learned, to be filled again.
    """

    entries: Entries
    states: Mapping[int, State]
    used: list[Entries]

    def learned(self) -> None:
        """Give the memory back."""
        self.used.append(self.entries)


class Ahead:
    """Lays batches out ahead of the learner, as far as stages are light: copies of them go ahead of the model's own.

    Parameters
    ----------
    layout : Layout
    stages : sequence of Stage
        The model's own.
    """

    def __init__(self, layout: Layout, stages: Sequence[Stage]) -> None:
        self._layout = layout
        self._stages = {position: deepcopy(stage) for position, stage in enumerate(stages) if stage.light}
        self._used: list[Entries] = []

    def laid(self, columns: Columns, rows: int) -> Laid:
        """Lay the next batch out."""
        entries = self._layout.blank(rows, self._used)
        self._layout.fill(entries, columns, self._stages, learn=True)
        return Laid(entries, {position: stage.state() for position, stage in self._stages.items()}, self._used)
