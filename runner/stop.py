"""The wish to stop: set by the main thread on a signal, looked at by the working thread between two batches."""

import signal
import threading
from collections.abc import Callable

from runner.errors import ExitCode, InterruptedBySigintError, InterruptedRunError


class Stop:
    """Carry a stop request from the signal handler to the stages; the one mutable value that they share."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._hooks: list[Callable[[], None]] = []
        self.signal: signal.Signals | None = None

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.SIGINT if self.signal is signal.SIGINT else ExitCode.SIGTERM

    def request(self, number: signal.Signals) -> None:
        """Ask for a stop, and end what is running inside native code."""
        self.signal = self.signal or number
        self._event.set()
        for hook in self._hooks:
            hook()

    def on_request(self, hook: Callable[[], None]) -> None:
        """Register what ends a native call that would otherwise run to its end (a graph, say)."""
        self._hooks.append(hook)
        if self._event.is_set():
            hook()

    def requested(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise if a stop was requested.

        Raises:
            InterruptedRunError: the process got SIGINT or SIGTERM.
        """
        if self._event.is_set():
            name = self.signal.name if self.signal else "a signal"
            kind = InterruptedBySigintError if self.signal is signal.SIGINT else InterruptedRunError
            raise kind(f"interrupted by {name}: committed parts are whole, the same command resumes")
