"""Seconds spent by stage, added up over the threads that work at it."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(slots=True)
class Clock:
    """A stopwatch for each stage; safe from several threads at once."""

    spent: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def timing(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; making them is the stage's time, what is done with them is not."""
        iterator = iter(items)
        while True:
            with self.time(stage):
                found = list(islice(iterator, 1))
            if not found:
                return
            yield found[0]

    def add(self, stage: str, seconds: float) -> None:
        with self.lock:
            self.spent[stage] = self.spent.get(stage, 0.0) + seconds
