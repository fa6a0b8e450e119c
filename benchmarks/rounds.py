"""Contestants that take turns: A B C A B C ..., each in a process of its own that sleeps while the others run."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

Say = Callable[[str], None]
CHECKED = 256
"""Windows whose forecasts are compared between the contestants."""


class SkippedError(Exception):
    """A contestant cannot run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Racer:
    """A contestant that is ready, warm, and has made its first forecasts.

    Attributes:
        rate: runs one round and returns windows a second.
        forecast: predictions of the first windows [CHECKED, H]; None where it makes none.
        note: what was chosen for it, such as its best batch.
    """

    rate: Callable[[], float]
    forecast: np.ndarray | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Contestant:
    """Somebody who takes part: `make(task)` is called in its own process."""

    name: str
    label: str
    make: Callable[[Any], Racer]
    task: Any


@dataclass(slots=True)
class Rates:
    """A contestant's windows a second by round; none, and the reason, where it was skipped."""

    label: str
    note: str = ""
    skipped: str = ""
    rates: list[float] = field(default_factory=list)
    forecast: np.ndarray | None = None


def compare(contestants: list[Contestant], rounds: int, logs: Path, say: Say) -> dict[str, Rates]:
    """Let the contestants take turns.

    Args:
        contestants: in the order of their turns.
        rounds: turns of each; a first one to warm up is not counted.
        logs: a folder that gets what their libraries print.
        say: takes a line about the progress.

    Returns:
        What each reached, by name.
    """
    found = {one.name: Rates(one.label) for one in contestants}
    with _seated(contestants, logs) as seats:
        for name, seat in list(seats.items()):
            seat.send("make")
            found[name].skipped, found[name].note, found[name].forecast = _answer(name, seat, logs)
            say(f"  {found[name].label}: {found[name].skipped or found[name].note or 'ready'}")
            if found[name].skipped:
                del seats[name]
        for index in range(rounds):
            for name, seat in seats.items():
                seat.send("go")
                found[name].rates.append(_answer(name, seat, logs))
            rates = ", ".join(f"{name} {rates.rates[-1]:,.0f}" for name, rates in found.items() if rates.rates)
            say(f"  round {index + 1} of {rounds}: {rates}")
    return found


@contextmanager
def _seated(contestants: list[Contestant], logs: Path) -> Iterator[dict[str, Connection]]:
    context = multiprocessing.get_context("spawn")
    seats: dict[str, Connection] = {}
    processes = []
    try:
        for one in contestants:
            seats[one.name], theirs = context.Pipe()
            processes.append(context.Process(target=_sit, args=(theirs, one, logs / f"{one.name}.log"), daemon=True))
            processes[-1].start()
            theirs.close()
        yield dict(seats)
    finally:
        for seat in seats.values():
            seat.close()
        for process in processes:
            process.join()


def _answer(name: str, seat: Connection, logs: Path) -> Any:
    try:
        return seat.recv()
    except EOFError:
        last = (logs / f"{name}.log").read_text().strip().splitlines()[-1:]
        raise RuntimeError(f"contestant {name} died: {''.join(last)}") from None


def _sit(seat: Connection, contestant: Contestant, log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        seat.recv()
        racer = contestant.make(contestant.task)
        seat.send(("", racer.note, racer.forecast))
        while seat.recv():
            seat.send(racer.rate())
    except SkippedError as reason:
        seat.send((str(reason), "", None))
    except EOFError:
        return  # the race is over
