"""Iterators that run ahead of their consumer, so that they can let go of what they hold."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event, Semaphore
from typing import TypeVar

T = TypeVar("T")

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
