"""Whole processes: their seconds from start to finish, and the memory that a run takes over its imports."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from data import BIN, Store
from sizes import Plan, Point

ONE_RUN = Path(__file__).with_name("one_run.py")
START_WINDOWS = 1_000


@dataclass(frozen=True, slots=True)
class Run:
    """One `freerun score` in a fresh process: windows a second, and bytes at the peak over the imports."""

    rate: float
    peak: int


@dataclass(frozen=True, slots=True)
class Bench:
    """Where runs are made.

    Attributes:
        out: scratch folder for their output.
        modules: file that lists what a run imports.
        imports: bytes that a process takes which imports just these.
    """

    out: Path
    modules: Path
    imports: int

    def score(self, bundle: Path, source: Path, point: Point, limit: float | None = None) -> Run | None:
        """Score once; None where it took longer than `limit` seconds."""
        out = self.out / "scored"
        shutil.rmtree(out, ignore_errors=True)
        words = ["score", bundle, source, "--out", out, "--quiet", "--workers", point.workers]
        words += [] if point.precision == "fp32" else ["--precision", point.precision]
        try:
            found = one_run(self.modules, words, limit)
        except subprocess.TimeoutExpired:
            return None
        return Run(point.windows / found["seconds"], int(found["peak"]) - self.imports)


def one_run(modules: Path, words: list[object], limit: float | None = None) -> dict[str, float]:
    """Start `one_run.py` and return what it measured.

    Raises:
        RuntimeError: freerun failed; with the last of what it said.
    """
    command = [sys.executable, ONE_RUN, modules, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode:
        raise RuntimeError(f"freerun {words[0]} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def open_bench(plan: Plan, store: Store, out: Path) -> Bench:
    """Find out what a run imports, and what that alone takes."""
    modules = out / "modules.txt"
    modules.unlink(missing_ok=True)
    source = store.windows(plan.shape, plan.curve_windows[0])
    shutil.rmtree(out / "scored", ignore_errors=True)
    one_run(modules, ["score", store.bundle(plan.shape), source, "--out", out / "scored", "--quiet"])
    return Bench(out, modules, max(int(one_run(modules, [])["peak"]) for _ in range(3)))


def start_to_finish(plan: Plan, store: Store, out: Path) -> dict[str, list[float]]:
    """Time whole commands as cron would see them, taking turns; the first turn warms the disk and does not count.

    Returns:
        Seconds by turn: scoring START_WINDOWS windows, the same again with nothing left to do, and `--help`.
    """
    bundle, source = store.bundle(plan.shape), store.windows(plan.shape, START_WINDOWS)
    scored = out / "started"
    score = ["score", bundle, source, "--out", scored, "--quiet"]
    found: dict[str, list[float]] = {"score": [], "nothing": [], "help": []}
    for turn in range(plan.start_rounds + 1):
        shutil.rmtree(scored, ignore_errors=True)
        spent = {"score": wall(score), "nothing": wall(score), "help": wall(["--help"])}
        for name, seconds in spent.items() if turn else ():
            found[name].append(seconds)
    return found


def wall(words: list[object]) -> float:
    """Return the seconds of one `freerun` command, from its start to its end."""
    started = time.perf_counter()
    subprocess.run([BIN / "freerun", *map(str, words)], capture_output=True, check=True)
    return time.perf_counter() - started


def bomb(plan: Plan, store: Store, bench: Bench) -> dict[str, int]:
    """Score a tiny file that decodes to very much, and a usual one, with the same forecaster.

    Returns:
        Bytes: of the tiny file on disk, decoded, and the peaks over the imports of both runs.
    """
    shape = plan.bomb_shape
    bundle, usual, tiny = store.bundle(shape), plan.curve_windows[1], store.bomb(shape, plan.bomb_bytes)
    windows = plan.bomb_bytes // shape.row_bytes
    runs = [
        bench.score(bundle, store.windows(shape, usual), Point(shape, usual)),
        bench.score(bundle, tiny, Point(shape, windows)),
    ]
    usual_peak, tiny_peak = (run.peak for run in runs if run)
    return {
        "file": tiny.stat().st_size,
        "decoded": windows * shape.row_bytes,
        "usual_windows": usual,
        "usual_peak": usual_peak,
        "peak": tiny_peak,
    }
