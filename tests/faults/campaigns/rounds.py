"""Eight runs at once for one output folder, some of them killed; with the lock, and without it."""

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from campaigns import kills
from campaigns.commit_path import left, parts_of
from campaigns.processes import Ended, start
from campaigns.result import Result

RUNS = 8


def run(count: int, seed: int, folder: Path, bundle: Path, data: Path, *, lock: bool) -> Result:
    """Let eight runs race so many times; in every second round some are killed."""
    started, draw = time.perf_counter(), random.Random(seed)
    victim, seconds = kills.undisturbed(bundle, data, folder)
    failures, lost, doubled, torn, peak = [], 0, 0, 0, 0.0
    for round_ in range(1, count + 1):
        out = folder / str(round_)
        ended = list(_race(victim, out, draw, seconds, lock=lock, kill=round_ % 2 == 0))
        whole = parts_of(left(out))
        torn += sum(content != (victim.expected or {})[name] for name, content in whole.items())
        problems = list(_problems(ended, lock=lock))
        last = start(victim.write(out), out.with_suffix(".last")).wait()
        problems += [f"the last run ended with {last.code}: {last.text}"] if last.code else []
        problems += ["other bytes than an undisturbed run's"] if parts_of(left(out)) != victim.expected else []
        found = kills.ids_in(out)
        lost, doubled = lost + len(set(victim.ids) - set(found)), doubled + len(found) - len(set(found))
        failures += [f"seed {seed}, round {round_}: {problem}" for problem in problems]
        peak = max([peak, *(one.peak_mib for one in ended)])
        shutil.rmtree(out)
    what = f"{RUNS} runs at once{'' if lock else ', without the lock'}, killed in every second round"
    return Result(
        "F16", what, seed, count, count - len({line.split(":")[0] for line in failures}), rows_lost=lost,
        rows_doubled=doubled, torn=torn, failures=tuple(failures), peak_mib=peak,
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def _race(
    victim: kills.Victim, out: Path, draw: random.Random, seconds: float, *, lock: bool, kill: bool
) -> Iterator[Ended]:
    out.mkdir()
    work = victim.write(out) if lock else _unlocked(victim.write(out))
    running = [start(work, out.with_suffix(f".{index}")) for index in range(RUNS)]
    if kill:
        for one in draw.sample(running, 3):
            time.sleep(draw.uniform(0, seconds))
            one.send(signal.SIGKILL)
    for one in running:
        yield one.wait()


def _unlocked(work: Callable[[], int | None]) -> Callable[[], int | None]:
    def run_without_lock() -> int | None:
        import runner.run  # noqa: PLC0415

        runner.run.locked = lambda _: contextlib.nullcontext()
        return work()

    return run_without_lock


def _problems(ended: list[Ended], *, lock: bool) -> Iterator[str]:
    """Yield what nobody may end with: with the lock all but one say 75; without it, some lose their files (14)."""
    allowed = {0, 75, -signal.SIGKILL} if lock else {0, 14, -signal.SIGKILL}
    yield from (f"a run ended with {one.code}: {one.text}" for one in ended if one.code not in allowed)
    if lock and not any(one.code in {0, -signal.SIGKILL} for one in ended):
        yield "nobody got the lock"
    yield from (f"a traceback: {one.text}" for one in ended if "Traceback" in one.text)
