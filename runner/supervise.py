"""Keep the main thread free for signals while a worker thread does the work."""

import os
import signal
import threading
from collections.abc import Callable
from typing import TypeVar

from runner.stop import Stop

Result = TypeVar("Result")
GRACE_SECONDS = 1.5
"""How long a stop may take before the process ends without waiting for it."""


def supervise(work: Callable[[Stop], Result]) -> Result:
    """Run `work` in a thread; SIGTERM and SIGINT ask it to stop, a second SIGINT ends the process at once.

    Returns:
        What `work` returned; what it raised is raised here.
    """
    stop = Stop()
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(work(stop))
        except BaseException as error:  # noqa: BLE001  (handed over to the main thread)
            failure.append(error)

    def on_signal(number: int, _frame: object) -> None:
        if stop.requested() and number == signal.SIGINT:
            os._exit(int(stop.exit_code))
        stop.request(signal.Signals(number))

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    worker = threading.Thread(target=target, name="run", daemon=True)
    try:
        worker.start()
        _wait(worker, stop)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if failure:
        raise failure[0]
    return outcome[0]


def _wait(worker: threading.Thread, stop: Stop) -> None:
    while worker.is_alive() and not stop.requested():
        worker.join(0.2)
    worker.join(GRACE_SECONDS if stop.requested() else None)
    if worker.is_alive():
        os._exit(int(stop.exit_code))
