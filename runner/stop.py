"""The wish to stop: set by the main thread, looked at by the working threads between two batches."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from runner.errors import FreerunError, InterruptedBySigintError, InterruptedRunError

RESUMES = "committed parts are whole, the same command resumes"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may take: seconds since the process began, megabytes of resident memory; None is no limit."""

    seconds: float | None = None
    megabytes: int | None = None


class Stop:
    """Carry a stop request from the main thread to the stages; the one mutable value that they share.

    No lock is taken here: a signal handler may run in the middle of another one.

    Attributes:
        limits: what the main thread holds the run to.
        since: when the stop was requested, by the monotonic clock; None before.
        reason: what is raised in the working threads.
        last_words: called, from another thread, when the work did not stop in time and is about to be cut off.
    """

    def __init__(self) -> None:
        self.limits = Limits()
        self.since: float | None = None
        self.reason: FreerunError | None = None
        self.last_words: Callable[[FreerunError], object] | None = None
        self._hooks: list[Callable[[], None]] = []

    def request(self, number: signal.Signals) -> None:
        """Ask for a stop because of a signal."""
        kind = InterruptedBySigintError if number is signal.SIGINT else InterruptedRunError
        self.end(kind(f"interrupted by {number.name}: {RESUMES}"))

    def end(self, reason: FreerunError) -> None:
        """Ask for a stop, and end what is running inside native code; the first reason stands."""
        if self.reason is None:
            self.reason, self.since = reason, time.monotonic()
        for hook in self._hooks:
            hook()

    def on_request(self, hook: Callable[[], None]) -> None:
        """Register what ends a native call that would otherwise run to its end (a graph, say)."""
        self._hooks.append(hook)
        if self.requested():
            hook()

    def requested(self) -> bool:
        return self.reason is not None

    def check(self) -> None:
        """Raise if a stop was requested.

        Raises:
            InterruptedRunError: the process got SIGINT or SIGTERM, or its time is up.
            ResourcesError: the run took more memory than it was given.
        """
        if self.reason is not None:
            raise type(self.reason)(str(self.reason))
