"""SIGKILL at random moments, again and again, while somebody reads; then the same command has to finish the work."""

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from campaigns.commit_path import left, parts_of
from campaigns.processes import freerun, side_by_side, start
from campaigns.readers import start_reader, stop_reader
from campaigns.result import Result

Writer = Callable[[Path], Callable[[], int | None]]
"""Given an output folder, what brings it up to date."""


@dataclass(slots=True)
class Tally:
    """What one share of the campaign counted."""

    kills: int = 0
    finished: int = 0
    looks: int = 0
    lost: int = 0
    doubled: int = 0
    peak_mib: float = 0.0
    torn: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Victim:
    """Who is killed: what it runs, and what must be there in the end.

    Attributes:
        rows: by part, its rows; ids: all ids of the input, sorted.
        expected: the bytes of each part, where they have to be the same.
    """

    write: Writer
    rows: dict[str, int]
    ids: list[int]
    expected: dict[str, bytes] | None


def scoring(bundle: Path, data: Path, *options: object) -> Writer:
    """Return the writer that is on trial: the `freerun score` command."""
    return lambda out: freerun("score", bundle, data, "--out", out, "--batch-size", 16, "--quiet", *options)


def undisturbed(bundle: Path, data: Path, folder: Path) -> tuple[Victim, float]:
    """Score once without a fault; return what has to come out, and how long it takes."""
    write = scoring(bundle, data)
    ended = start(write(folder / "whole"), folder / "whole.log").wait()
    if ended.code:
        raise RuntimeError(f"the undisturbed run ended with {ended.code}: {ended.text}")
    parts = parts_of(left(folder / "whole"))
    rows = {name: pq.read_metadata(folder / "whole" / name).num_rows for name in parts}
    return Victim(write, rows, ids_in(folder / "whole"), parts), ended.seconds


def ids_in(folder: Path) -> list[int]:
    """Return the ids of all rows that a reader finds, sorted; a file that does not read has none."""
    found: list[int] = []
    for path in folder.rglob("*.parquet"):
        with contextlib.suppress(OSError, pa.ArrowException):
            found += pq.ParquetFile(path).read(["id"])["id"].to_pylist()
    return sorted(found)


def run(count: int, seed: int, folder: Path, bundle: Path, data: Path) -> Result:
    """Kill `freerun score` so many times, in two processes side by side."""
    started = time.perf_counter()
    victim, seconds = undisturbed(bundle, data, folder)
    tallies = kill_side_by_side(victim, seconds, count, seed, folder)
    what = f"SIGKILL at a random moment; {sum(t.finished for t in tallies)} times the same command finished"
    return result_of("F1", what, tallies, seed, time.perf_counter() - started)


def kill_side_by_side(victim: Victim, seconds: float, count: int, seed: int, folder: Path) -> list[Tally]:
    shares = [
        lambda share=share: kill_repeatedly(victim, seconds, count // 2, seed + share, folder / f"share-{share}")
        for share in range(2)
    ]
    return list(side_by_side(shares))


def kill_repeatedly(victim: Victim, seconds: float, count: int, seed: int, folder: Path) -> Tally:
    """Kill until it has been done `count` times, each time at another moment, whatever state the last kill left."""
    draw, tally, round_ = random.Random(seed), Tally(), 0
    while tally.kills < count:
        round_ += 1
        out = folder / str(round_)
        out.mkdir(parents=True)
        reader = start_reader(out, victim.rows, folder / f"{round_}.seen")
        try:
            _until_finished(victim, out, draw, seconds, tally, count)
        finally:
            seen = stop_reader(reader, folder / f"{round_}.seen")
        tally.looks += seen.looks
        tally.torn += seen.torn
        tally.failures += _final_problems(victim, out, f"seed {seed}, round {round_}", tally)
        shutil.rmtree(out)
    return tally


def _until_finished(victim: Victim, out: Path, draw: random.Random, seconds: float, tally: Tally, count: int) -> None:
    while True:
        running = start(victim.write(out), out.with_suffix(".log"))
        deadline = time.perf_counter() + draw.uniform(0, 1.1 * seconds)
        while not (ended := running.poll()) and time.perf_counter() < deadline:
            time.sleep(0.001)
        if ended is None and tally.kills < count:
            running.send(signal.SIGKILL)
            running.wait()
            tally.kills += 1
            continue
        ended = ended or running.wait()
        tally.peak_mib = max(tally.peak_mib, ended.peak_mib)
        if ended.code:
            tally.failures.append(f"the same command ended with {ended.code}: {ended.text}")
        tally.finished += 1
        return


def _final_problems(victim: Victim, out: Path, where: str, tally: Tally) -> list[str]:
    found = ids_in(out)
    tally.lost += len(set(victim.ids) - set(found))
    tally.doubled += len(found) - len(set(found))
    problems = [f"{where}: rows were lost or doubled"] if found != victim.ids else []
    if victim.expected is not None and parts_of(left(out)) != victim.expected:
        problems.append(f"{where}: other bytes than an undisturbed run's")
    return problems


def result_of(fault: str, what: str, tallies: list[Tally], seed: int, seconds: float) -> Result:
    kills, looks = sum(t.kills for t in tallies), sum(t.looks for t in tallies)
    failures = tuple(line for t in tallies for line in [*t.torn, *t.failures])
    return Result(
        fault,
        f"{what}; {looks:,} looks of a reader",
        seed,
        kills,
        max(0, kills - len(failures)),
        rows_lost=sum(t.lost for t in tallies),
        rows_doubled=sum(t.doubled for t in tallies),
        torn=sum(len(t.torn) for t in tallies),
        failures=failures,
        peak_mib=max(t.peak_mib for t in tallies),
        seconds=seconds,
    )
