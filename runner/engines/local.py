"""Overlap the stages in this process: a thread of its own reads ahead while others decode and one writes."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Generator[Item, None, None], count: int) -> Generator[Item, None, None]:
    """Yield what `items` yields, in order, while a thread already makes up to `count` of the next ones.

    What `items` raises is raised here, in its turn. Leaving early ends `items` in that thread before this returns.
    """
    pending: deque[Future[list[Item]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="read") as thread:
        try:
            while True:
                while len(pending) < count:
                    pending.append(thread.submit(_next, items))
                found = pending.popleft().result()
                if not found:
                    return
                yield found[0]
        finally:
            for future in pending:
                future.cancel()
            thread.submit(items.close).result()


def _next(items: Iterator[Item]) -> list[Item]:
    """Return the next item alone in a list, or nothing: a StopIteration cannot pass through a future."""
    return list(islice(items, 1))
