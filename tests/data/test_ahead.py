"""What runs ahead of its consumer: the same items in order, at most two parts held, nothing left running."""

import threading
from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pytest

from ml_core.data.ahead import Batches, ahead, slices

PARTS, ITEMS = 6, 3


@pytest.fixture
def begun() -> list[int]:
    return []


def part(number: int, begun: list[int]) -> Iterator[int]:
    begun.append(number)
    yield from range(number * ITEMS, (number + 1) * ITEMS)


def test_items_come_in_the_order_of_the_parts(begun: list[int]) -> None:
    assert list(ahead(partial(part, number, begun) for number in range(PARTS))) == list(range(PARTS * ITEMS))


def test_no_more_than_two_parts_are_begun_before_the_consumer_is_through_with_the_first(begun: list[int]) -> None:
    items = ahead(partial(part, number, begun) for number in range(PARTS))
    for item in items:
        assert max(begun) <= item // ITEMS + 1
    assert begun == list(range(PARTS))


def test_what_a_part_raises_comes_after_the_items_before_it(begun: list[int]) -> None:
    def broken() -> Iterator[int]:
        yield 100
        raise ValueError("torn")

    items = ahead(iter([partial(part, 0, begun), broken, partial(part, 1, begun)]))
    assert [next(items) for _ in range(ITEMS + 1)] == [0, 1, 2, 100]
    with pytest.raises(ValueError, match="torn"):
        next(items)
    assert begun == [0]


def test_a_consumer_that_stops_early_leaves_no_thread_and_no_part_half_run(begun: list[int]) -> None:
    ended = []

    def watched(number: int) -> Iterator[int]:
        yield from part(number, begun)
        ended.append(number)

    items = ahead(partial(watched, number) for number in range(PARTS))
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert ended == begun
    assert len(begun) < PARTS
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize(("values", "opened"), [(1, [3, 5, 7, 9, 10]), (4, [3, 7]), (100, [3])])
def test_slices_give_every_row_once_however_often_they_are_opened(
    monkeypatch: pytest.MonkeyPatch, values: int, opened: list[int]
) -> None:
    """Ten rows in batches of two; asked for rows from the third up to a thousandth, so that rows end before."""
    monkeypatch.setattr("ml_core.data.ahead.SLICE_VALUES", values)
    begun, closed = [], []

    def read(first: int, stop: int) -> Batches:
        begun.append(first)
        try:
            for start in range(first, min(stop, 10), 2):
                yield pa.RecordBatch.from_pydict({"row": list(range(start, min(start + 2, 10)))})
        finally:
            closed.append(first)

    rows = [row for part in slices(read, 3, 1_000) for batch in part() for row in batch.column("row").to_pylist()]
    assert rows == list(range(3, 10))
    assert begun == closed == opened
