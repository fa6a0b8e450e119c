"""Try one thing after the other in a few processes, and survive whatever becomes of them.

A process prepares itself once (imports, an opened session) and then tries thousands of things. One that crashes or
hangs loses the try it was at, and a fresh one goes on with the next.
"""

import multiprocessing
import resource
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from campaigns.watch import peak_mib

Prepare = Callable[[Any], Callable[[int], Any]]
SPAWN = multiprocessing.get_context("spawn")
"""Fresh interpreters: a fork of a process with threads (pyarrow's, pytest's) may hang for reasons of its own."""


@dataclass(frozen=True, slots=True)
class Try:
    """What became of one try.

    Attributes:
        result: what the work returned; None if it did not live to.
        death: how its process ended, or the traceback of the work; None = it went well.
        peak_mib: the largest resident set of its process so far; 0 if it died.
    """

    index: int
    result: Any
    death: str | None
    peak_mib: float


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    answers: Connection
    indexes: range
    since: float
    ready: bool = False


def each(
    prepare: Prepare, argument: object, count: int, *, processes: int = 2, patience: float = 30.0, room_mib: int = 1024
) -> Iterator[Try]:
    """Try `prepare(argument)(index)` for every index below `count`; yield the outcomes as they come.

    Args:
        prepare: called once in each process; a function of a module.
        argument: for it.
        patience: seconds after which a try hangs.
        room_mib: how much address space a process may add to what it has when it is prepared.
    """
    workers = [_start(prepare, argument, range(first, count, processes), room_mib) for first in range(processes)]
    try:
        while workers:
            answered = wait([worker.answers for worker in workers], timeout=1)
            for worker in list(workers):
                found = _ask(worker, heard=worker.answers in answered, patience=patience)
                if found is None:
                    continue
                yield found
                worker.indexes, worker.since = worker.indexes[1:], time.monotonic()
                if found.death and not worker.process.is_alive():
                    workers.remove(worker)
                    workers += [_start(prepare, argument, worker.indexes, room_mib)] if worker.indexes else []
                elif not worker.indexes:
                    workers.remove(worker)
                    worker.process.join()
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()


def _start(prepare: Prepare, argument: object, indexes: range, room_mib: int) -> _Worker:
    answers, sink = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_serve, args=(prepare, argument, indexes, room_mib, sink), daemon=True)
    process.start()
    sink.close()
    return _Worker(process, answers, indexes, time.monotonic())


def _ask(worker: _Worker, *, heard: bool, patience: float) -> Try | None:
    """Return what became of the worker's present try; None while that is open."""
    if heard:
        try:
            answer = worker.answers.recv()
        except (EOFError, OSError):
            return _death(worker, "")
        if answer is None:
            worker.ready, worker.since = True, time.monotonic()
            return None
        return Try(*answer)
    if time.monotonic() - worker.since > patience:
        worker.process.kill()
        return _death(worker, f"no answer within {patience:.0f} s; ")
    return None


def _death(worker: _Worker, how: str) -> Try:
    worker.process.join()
    if not worker.ready:
        raise RuntimeError(f"the campaign's own preparation failed: exit {worker.process.exitcode}")
    return Try(worker.indexes[0], None, f"{how}exit {worker.process.exitcode}", 0.0)


def _serve(prepare: Prepare, argument: object, indexes: range, room_mib: int, sink: Connection) -> None:
    work = prepare(argument)
    _limit(room_mib)
    sink.send(None)
    for index in indexes:
        result, death = None, None
        try:
            result = work(index)
        except Exception:  # noqa: BLE001  (whatever it is, it is told, and the next try begins)
            death = traceback.format_exc()
        sink.send((index, result, death, peak_mib()))
    sink.close()


def _limit(room_mib: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        now = int(file.read().split()[0]) * resource.getpagesize()
    limit = now + (room_mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
