"""Where the command `freerun` begins: from here on signals end it, also while the command line is being loaded."""

import os
import signal
from typing import NoReturn


def main() -> NoReturn:
    """End with the code of a signal, should one come, until the command line has handlers of its own; then run it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    from runner.cli import main as run

    run()


def _end(number: int, _frame: object) -> None:
    os._exit(128 + number)
