"""Iterators that run ahead of their consumer, so that they can let go of what they hold."""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from queue import SimpleQueue
from threading import Event, Semaphore
from typing import TypeAlias, TypeVar

import pyarrow as pa

T = TypeVar("T")
Batches: TypeAlias = Generator[pa.RecordBatch, None, None]

SLICE_VALUES = 32_000_000
"""What one slice holds, about 128 MB; what comes before its first row costs as much as reading a sixth of one."""

_PARTS = 2


def ahead(parts: Iterable[Callable[[], Iterator[T]]]) -> Iterator[T]:
    """Yield what `parts` give, one after another, while they run in a thread of their own.

    A part runs to its end without waiting for the consumer, and the next one while the consumer has this one; so as
    much as two parts give is held in memory. What one raises is raised after the items before it. A consumer that
    stops early waits for the part that runs to end.
    """
    given: SimpleQueue[tuple[T] | tuple[()] | None] = SimpleQueue()
    room, stopped = Semaphore(_PARTS), Event()

    def run() -> None:
        try:
            for part in parts:
                room.acquire()
                if stopped.is_set():
                    return
                for item in part():
                    given.put((item,))
                given.put(())
        finally:
            given.put(None)

    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        running = pool.submit(run)
        try:
            while (item := given.get()) is not None:
                if item:
                    yield item[0]
                else:
                    room.release()
        finally:
            stopped.set()
            room.release()
        running.result()


def slices(read: Callable[[int, int], Batches], first: int, stop: int) -> Iterator[Callable[[], Batches]]:
    """Yield parts, for `ahead`, that give the rows [first, stop) between them, each at least one batch of them.

    Parameters
    ----------
    read : callable
        Opens what is read, from a row up to another, or up to where rows end, and closes it with its iterator. It is
        called anew for each part.
    """
    at = first

    def part() -> Batches:
        nonlocal at
        values = 0
        with closing(read(at, stop)) as batches:
            for batch in batches:
                at += batch.num_rows
                values += batch.num_rows * batch.num_columns
                yield batch
                if values >= SLICE_VALUES:
                    return
        at = stop

    while at < stop:
        yield part
