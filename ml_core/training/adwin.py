"""ADWIN: a window over a stream that shrinks when its older part has another mean than its newer one.

Bifet and Gavaldà 2007, Learning from Time-Changing Data with Adaptive Windowing (SDM). The window is an exponential
histogram: at most five buckets of each size 1, 2, 4, ..., so that it costs memory and time logarithmic in its length.
"""

import math
from collections import deque
from dataclasses import dataclass

_BUCKETS = 5
_FEWEST = 5  # values on either side of a cut
_GRACE = 10


@dataclass(slots=True)
class _Bucket:
    size: int
    total: float
    spread: float  # sum of squared distances from its mean

    @property
    def mean(self) -> float:
        return self.total / self.size

    def joined(self, newer: "_Bucket") -> "_Bucket":
        apart = self.size * newer.size * (self.mean - newer.mean) ** 2 / (self.size + newer.size)
        return _Bucket(self.size + newer.size, self.total + newer.total, self.spread + newer.spread + apart)


class Adwin:
    """The window.

    Parameters
    ----------
    delta : float
        In (0, 1): how likely a cut may be in a stream whose mean does not change.
    every : int
        After how many values cuts are looked for.

    Attributes
    ----------
    width : int
        Values in the window.
    mean : float
        Their mean; 0 of an empty window.
    """

    def __init__(self, delta: float = 0.002, *, every: int = 32) -> None:
        self._delta, self._every, self._seen = delta, every, 0
        self._rows: list[deque[_Bucket]] = [deque()]  # by size, the oldest bucket first
        self.width, self._total, self._spread = 0, 0.0, 0.0

    @property
    def mean(self) -> float:
        """The mean of the window."""
        return self._total / self.width if self.width else 0.0

    def update(self, value: float) -> bool:
        """Take in a value of about [0, 1]; return whether older values were dropped because the mean had changed."""
        self._seen += 1
        if self.width:
            self._spread += self.width / (self.width + 1) * (value - self.mean) ** 2
        self.width += 1
        self._total += value
        self._rows[0].append(_Bucket(1, value, 0.0))
        self._compress()
        if self._seen % self._every or self.width <= _GRACE:
            return False
        changed = False
        while self._cut():
            self._drop()
            changed = True
        return changed

    def _compress(self) -> None:
        for number, row in enumerate(self._rows):
            if len(row) <= _BUCKETS:
                return
            if number + 1 == len(self._rows):
                self._rows.append(deque())
            self._rows[number + 1].append(row.popleft().joined(row.popleft()))

    def _cut(self) -> bool:
        """Say whether some border between buckets parts two means that differ by more than chance allows."""
        older, total = 0, 0.0
        for row in reversed(self._rows):
            for bucket in row:
                older, total = older + bucket.size, total + bucket.total
                newer = self.width - older
                if newer < _FEWEST:
                    return False
                if older >= _FEWEST and self._apart(older, newer, total / older, (self._total - total) / newer):
                    return True
        return False

    def _apart(self, older: int, newer: int, mean: float, other: float) -> bool:
        surprise = math.log(2 * math.log(self.width) / self._delta)
        harmonic = 1 / (older - _FEWEST + 1) + 1 / (newer - _FEWEST + 1)
        variance = self._spread / self.width
        return abs(mean - other) > math.sqrt(2 * harmonic * variance * surprise) + 2 / 3 * surprise * harmonic

    def _drop(self) -> None:
        """Forget the oldest bucket."""
        row = self._rows[-1]
        oldest = row.popleft()
        self.width -= oldest.size
        self._total -= oldest.total
        apart = oldest.size * self.width * (oldest.mean - self.mean) ** 2 / (oldest.size + self.width)
        self._spread -= oldest.spread + apart
        while len(self._rows) > 1 and not self._rows[-1]:
            self._rows.pop()
