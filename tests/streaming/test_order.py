"""The order of facts over several Kafka partitions."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ml_core.streaming.order import Order

PARTITIONS = 3
ARRIVALS = st.lists(st.tuples(st.integers(0, PARTITIONS - 1), st.integers(-50, 500)), max_size=60)


def stamped(arrivals: list[tuple[int, int]], cuts: list[int], lateness: int) -> list[tuple[int, int]]:
    """Stamp arrivals batch by batch, cut before each of `cuts`; return them as (partition, stamp) per partition."""
    order = Order.begin(PARTITIONS, complete=9)
    found: list[tuple[int, int]] = []
    bounds = [0, *sorted(cuts), len(arrivals)]
    for start, stop in pairwise(bounds):
        for number in range(PARTITIONS):
            known = np.array([at for part, at in arrivals[start:stop] if part == number], np.int64)
            stamps, _, order = order.stamp(number, known, lateness=lateness)
            found += [(number, int(stamp)) for stamp in stamps]
    return sorted(found)


@given(ARRIVALS, st.data(), st.sampled_from([0, 7]))
def test_stamps_do_not_depend_on_how_records_were_polled(
    arrivals: list[tuple[int, int]], data: st.DataObject, lateness: int
) -> None:
    """A process that was killed polls other batches the second time; the order of examples must not change."""
    cuts = data.draw(st.lists(st.integers(0, len(arrivals)), max_size=5))
    assert stamped(arrivals, cuts, lateness) == stamped(arrivals, [], lateness)


@given(ARRIVALS, st.sampled_from([0, 7]))
def test_nothing_comes_after_the_log_was_said_to_be_complete(arrivals: list[tuple[int, int]], lateness: int) -> None:
    """A fact at or before that instant would change rows that are already built."""
    order = Order.begin(PARTITIONS, complete=9)
    for number, known in arrivals:
        complete = order.complete
        stamps, late, order = order.stamp(number, np.array([known], np.int64), lateness=lateness)
        assert stamps[0] > complete
        assert (stamps[0] == known) == (late == 0)
        assert order.complete >= complete


def test_a_silent_partition_holds_the_log_back() -> None:
    """Its next fact may be the oldest of all."""
    order = Order.begin(2, complete=0)
    _, _, order = order.stamp(0, np.array([100], np.int64), lateness=0)
    assert order.complete == 0
    _, _, order = order.stamp(1, np.array([60], np.int64), lateness=0)
    assert order.complete == 59


def test_a_partition_that_was_added_begins_where_the_others_stand() -> None:
    """Growing a topic must not send the clock back."""
    _, _, order = Order.begin(1, complete=0).stamp(0, np.array([100], np.int64), lateness=0)
    assert order.widened(2).complete == order.complete
    assert order.widened(2).marks[1] == 100
