"""Vocabularies that grew side by side from one beginning, made one in the order of the shards.

A value is admitted exactly when one pass over all rows would have admitted it: it was shown `min_count` times by all
shards together, and there was room. With ``min_count = 1`` its place is that of one pass, too: the order in which
values appear. With a larger one places differ (of a shard's values those it admitted by itself come first, then those
that reached the count together with earlier shards), and once `cap` is reached other values may have found room.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Words = Mapping[str, int]


def joined(
    vocabulary: Words, waiting: Words, shards: Sequence[tuple[Words, Words]], *, min_count: int, cap: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the vocabulary and those that wait, once the shards are one.

    Parameters
    ----------
    vocabulary, waiting : mapping of str to int
        The places of admitted values, counted from 1, and how often others were shown: what every shard began with.
    shards : sequence of (vocabulary, waiting)
        What each of them had in the end, in their order.
    """
    made, counts = dict(vocabulary), dict(waiting)
    for admitted, shown in shards:
        news = [word for word in admitted if word not in made]
        for word in sorted(shown):
            if word not in made:
                counts[word] = counts.get(word, 0) + shown[word] - waiting.get(word, 0)
                if counts[word] >= min_count and word not in admitted:
                    news.append(word)
        for word in news:
            if len(made) < cap:
                made[word] = len(made) + 1
                counts.pop(word, None)
    return made, {word: count for word, count in counts.items() if count and word not in made}


def slots_moved(own: Words, joint: Words, *, first_slot: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the slots of a shard's values that stand elsewhere in the joint vocabulary, and where; -1 for nowhere."""
    moved = [(place, joint.get(word, -1)) for word, place in own.items() if joint.get(word, -1) != place]
    slots = np.array([place for place, _ in moved], np.int64)
    to = np.array([place for _, place in moved], np.int64)
    return slots + first_slot, np.where(to < 0, -1, to + first_slot)
