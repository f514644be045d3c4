"""Which shards a training has, which of them learn one after another, and which side by side.

A plan is a function of the settings and of offsets, never of how many executors there are: the same rows under the same
settings give the same bits on any cluster.
"""

from dataclasses import dataclass

from ml_core.project import SparkTrainingSettings

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """The shards of a training.

    Attributes
    ----------
    groups : tuple of tuple of (first, stop)
        Offsets; the shards of a group go on from one state, and groups follow each other.
    judged_from : int
        Every shard from this offset on stands alone in its group: what it says of its rows before it learns them is
        what the model says that is published.
    """

    groups: tuple[tuple[Range, ...], ...]
    judged_from: int

    @property
    def ranges(self) -> list[Range]:
        """All shards in the order of their rows."""
        return [each for group in self.groups for each in group]


def planned(settings: SparkTrainingSettings, first: int, stop: int, *, judged: int, alone: int) -> Plan:
    """Return the plan for the examples at offsets [first, stop).

    Parameters
    ----------
    judged : int
        How many of the newest are learned one after another under ``average``.
    alone : int
        How many of the first are so, too.
    """
    if settings.mode == "sequential":
        return Plan(tuple((each,) for each in cut(first, stop, settings.shard_rows)), first)
    settled, judged_from = min(first + alone, stop), max(first, stop - judged)
    groups: list[tuple[Range, ...]] = []
    side_by_side = cut(first, judged_from, settings.shard_rows)
    while side_by_side:
        together = 1 if side_by_side[0][0] < settled else settings.shards
        groups.append(tuple(side_by_side[:together]))
        del side_by_side[:together]
    groups += [(each,) for each in cut(judged_from, stop, settings.shard_rows)]
    return Plan(tuple(groups), judged_from)


def cut(first: int, stop: int, rows: int) -> list[Range]:
    """Return [first, stop) in ranges of so many rows, the last of what is left."""
    return [(start, min(start + rows, stop)) for start in range(first, stop, rows)]
