"""Keep the main thread free for signals, the clock and the memory's limit while a worker thread does the work."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from runner.errors import InterruptedRunError, ResourcesError, explain, ran_out
from runner.stop import RESUMES, Stop

Result = TypeVar("Result")
GRACE_SECONDS = 1.2
"""How long a stop may take before the process ends without waiting for it."""
LAST_WORDS_SECONDS = 0.4
"""How long the report of a run that was cut off may take."""
TICK_SECONDS = 0.05
MEGABYTE = 10**6


def supervise(work: Callable[[Stop], Result]) -> Result:
    """Run `work` in a thread; SIGTERM and SIGINT ask it to stop, a second SIGINT ends the process at once.

    The handlers stay: the process is to end with what comes of this, and a late signal must not kill it on its way out.

    Returns:
        What `work` returned; what it raised is raised here.

    Raises:
        ResourcesError: the thread could not be started.
    """
    stop, started = Stop(), time.monotonic()
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(work(stop))
        except BaseException as error:  # noqa: BLE001  (handed over to the main thread)
            failure.append(error)

    _listen(stop)
    worker = threading.Thread(target=target, name="run", daemon=True)
    try:
        worker.start()
    except RuntimeError as error:
        raise ran_out("threads", error) from error
    _watch(worker, stop, started)
    if failure:
        raise failure[0]
    return outcome[0]


def _listen(stop: Stop) -> None:
    def on_signal(number: int, _frame: object) -> None:
        if stop.reason is not None and number == signal.SIGINT:
            os._exit(int(stop.reason.exit_code))
        stop.request(signal.Signals(number))

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)


def _watch(worker: threading.Thread, stop: Stop, started: float) -> None:
    while worker.is_alive():
        worker.join(TICK_SECONDS)
        if stop.since is None:
            _hold_to_limits(stop, started)
        elif time.monotonic() - stop.since > GRACE_SECONDS and worker.is_alive():
            _cut_off(stop)


def resident_megabytes() -> float:
    """Return how much memory this process has in use, shared libraries included; 0 where nobody can tell."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def _hold_to_limits(stop: Stop, started: float) -> None:
    limits = stop.limits
    if limits.seconds is not None and time.monotonic() - started >= limits.seconds:
        stop.end(InterruptedRunError(f"interrupted by --timeout after {limits.seconds:g} s: {RESUMES}"))
    elif limits.megabytes is not None and (taken := resident_megabytes()) > limits.megabytes:
        what = f"the run took more than --max-memory: {RESUMES}"
        got, expected = f"{taken:.0f} MB", f"at most {limits.megabytes} MB"
        remedy = "raise --max-memory, or give fewer --workers or a smaller --batch-size"
        stop.end(ResourcesError(explain(what, got=got, expected=expected, remedy=remedy)))


def _cut_off(stop: Stop) -> NoReturn:
    """End the process though the work goes on: in native code that cannot be stopped, or at a disk that hangs.

    Who speaks last may hang as well, at that very disk or at a stderr that nobody reads, so threads do.
    """
    reason, last_words = stop.reason, stop.last_words
    assert reason is not None, "a stop has its reason"  # noqa: S101
    message = f"error: {reason}\n  it did not stop by itself, and was cut off\n".encode()
    speakers = [lambda: os.write(2, message), *([lambda: last_words(reason)] if last_words else [])]
    threads = [threading.Thread(target=speaker, daemon=True) for speaker in speakers]
    until = time.monotonic() + LAST_WORDS_SECONDS
    with contextlib.suppress(RuntimeError):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
    os._exit(int(reason.exit_code))
