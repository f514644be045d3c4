"""The order of facts that come over several Kafka partitions, decided by the records alone.

Invariant: what `stamp` makes of a record depends on the records before it in its own Kafka partition, and on nothing
else: not on how they were polled, nor on when. So a process that was killed and reads them again stamps them the same,
and the total order of examples, (label known, key), is the same in every run (docs/adr/0003).

A Kafka partition's *mark* is the latest `known_at` it has shown, less the lateness allowed. A fact known before that
mark is late: it counts as known at the mark. All facts that are still to come are known at or after the least of the
marks, so the log is complete through the microsecond before it. A partition that stays silent holds it back; its
producer sends a tick.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Order:
    """Where the order stands, over the Kafka partitions of one topic.

    Attributes
    ----------
    marks : mapping of int to int
        Per Kafka partition its mark, in microseconds since 1970.
    """

    marks: Mapping[int, int]

    @classmethod
    def begin(cls, partitions: int, *, complete: int) -> "Order":
        """Start after a log that is complete through the microsecond `complete`."""
        return cls(dict.fromkeys(range(partitions), complete + 1))

    @property
    def complete(self) -> int:
        """The microsecond through which no other fact will be known."""
        return min(self.marks.values()) - 1

    def widened(self, partitions: int) -> "Order":
        """Take in Kafka partitions that were added to the topic."""
        return Order({number: self.marks.get(number, self.complete + 1) for number in range(partitions)})

    def stamp(
        self, partition: int, known: NDArray[np.int64], *, lateness: int
    ) -> tuple[NDArray[np.int64], int, "Order"]:
        """Stamp the next facts of a Kafka partition.

        Parameters
        ----------
        known : ndarray of int64, shape (n_facts,)
            When each could be known, in microseconds, in the order of their offsets.
        lateness : int
            How many microseconds out of order a fact may be.

        Returns
        -------
        stamped : ndarray of int64, shape (n_facts,)
        late : int
            How many were moved to the mark.
        order : Order
            Where it stands afterwards.
        """
        marks = np.maximum.accumulate(np.concatenate([[self.marks[partition]], known - lateness]))
        stamped = np.maximum(known, marks[:-1])
        after = replace(self, marks={**self.marks, partition: int(marks[-1])})
        return stamped, int(np.count_nonzero(stamped != known)), after
