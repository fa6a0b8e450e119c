"""Choose batch size and threads: as the job says, else as measured before on this machine, else by a short measurement.

What is chosen never changes a number, so a lost or wrong measurement costs time and nothing else.
"""

import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from runner.batch import WindowBatch
from runner.bundle import AuditedBundle
from runner.config import Job
from runner.decode import Loop
from runner.device import Device, cpu_count
from runner.digests import digest
from runner.forecaster import Decoding, open_forecaster, open_loop
from runner.precision import Precision
from runner.stop import Stop
from runner.storage import OutputFolder

BATCH_SIZES = {"cpu": (64, 128, 256, 512, 1024), "cuda": (1024, 4096, 16384)}
DEFAULT_BATCH_SIZE = {"cpu": 128, "cuda": 4096}
WORTH_MEASURING = 100_000
"""Windows of a run below which the measurement would cost more than it can win."""
SECONDS = 1.5
"""What the measurement before a run may take in all."""
TURNS = 3
LONGEST_BATCH = 0.25
"""Share of a measurement's time that one batch on every thread may take; larger sizes are not tried."""
LARGEST_FILE = 1 << 16

SMT_WORKERS = 4
"""Threads from which on half as many are tried too: two threads of one core can get in each other's way."""

Rates = dict[int, float]
"""Windows a second by batch size."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was found on this machine for one bundle: the number of threads that was best, and its rates."""

    workers: int
    rates: Rates

    @property
    def batch_size(self) -> int:
        return max(self.rates, key=lambda size: self.rates[size])


@dataclass(frozen=True, slots=True)
class Trial:
    """One batch size with one number of threads, and their windows a second."""

    batch_size: int
    workers: int
    windows_per_second: float


def settle(job: Job, bundle: AuditedBundle, device: Device, rows: int, stop: Stop) -> Decoding:
    """Decide how a run decodes.

    Args:
        job: what it says about batch size and workers stands.
        bundle: whose graphs will run.
        device: where they run.
        rows: windows to decode: a small run is not worth a measurement.
        stop: ends a measurement.
    """
    workers = job.workers or default_workers(device)
    how = Decoding(device, job.precision, job.batch_size or default_batch_size(bundle, job.precision, device), workers)
    if job.batch_size:
        return how
    known = recall(bundle, how)
    if known is None and rows >= WORTH_MEASURING:
        known = measure(bundle, how, SECONDS, stop)
        keep(bundle, how, known)
    return replace(how, batch_size=known.batch_size, workers=job.workers or known.workers) if known else how


def default_workers(device: Device) -> int:
    """Return one thread a processor; on a GPU two, so that one batch is copied while another is computed."""
    return cpu_count() if device.kind == "cpu" else 2


def default_batch_size(bundle: AuditedBundle, precision: Precision, device: Device) -> int:
    """Return a batch size that suits most models; a smaller one where the model is so large that memory counts."""
    return min(DEFAULT_BATCH_SIZE[device.kind], bundle.largest_batch(precision, device))


@dataclass(frozen=True, slots=True)
class Bench:
    """What was measured for one precision: all trials, the one that was chosen, and whether it could be remembered."""

    trials: tuple[Trial, ...]
    chosen: Trial
    kept: bool


def bench_bundle(bundle: AuditedBundle, device: Device, seconds: float, stop: Stop) -> dict[Precision, Bench]:
    """Measure every precision that the bundle holds, and remember what was found.

    Raises:
        DeviceError, BundleError: as when a bundle's sessions are opened.
    """
    found: dict[Precision, Bench] = {}
    held = bundle.manifest.held()
    for precision in held:
        how = Decoding(device, precision, default_batch_size(bundle, precision, device), default_workers(device))
        trials: list[Trial] = []
        best = measure(bundle, how, seconds / len(held), stop, trials.append)
        found[precision] = Bench(tuple(trials), max(trials, key=_speed), keep(bundle, how, best))
    return found


def measure(
    bundle: AuditedBundle, how: Decoding, seconds: float, stop: Stop, told: Callable[[Trial], None] = lambda _: None
) -> Measurement:
    """Decode copies of the golden windows for about so many seconds in all.

    Batch sizes take turns and the median of each counts, for no machine is at the same speed all the time. Of a heavy
    model only small sizes are tried, for the time is to be kept, and there is little to win. `told` hears what came of
    each.

    Raises:
        DeviceError, BundleError: as when a forecaster is opened: nothing is measured that would be refused.
    """
    with open_forecaster(bundle, how, stop):
        graphs, windows = bundle.graphs(how.precision), bundle.golden[how.precision].windows
    counts = [how.workers, *([how.workers // 2] if how.workers >= SMT_WORKERS else [])]
    sizes = _sizes(bundle, how) or [how.batch_size]
    share, started = seconds / len(counts) / len(sizes) / TURNS, time.perf_counter()
    loops: dict[int, tuple[Loop, WindowBatch]] = {}
    rates: dict[tuple[int, int], list[float]] = {}
    for size in sizes:
        if rates and size * how.workers > LONGEST_BATCH * seconds * max(made[0] for made in rates.values()):
            break
        batch = windows.take(np.resize(np.arange(len(windows)), size))
        loops[size] = open_loop(bundle.manifest, graphs, how.device, stop, size), batch
        loops[size][0](batch, False)  # what is only made once
        rates |= {(size, workers): [_rate(*loops[size], workers, share, stop)] for workers in counts}
    for _ in range(TURNS - 1):
        for (size, workers), made in rates.items():
            if time.perf_counter() - started < seconds:
                made.append(_rate(*loops[size], workers, share, stop))
    trials = [Trial(size, workers, statistics.median(made)) for (size, workers), made in rates.items()]
    for trial in trials:
        told(trial)
    best = max(trials, key=_speed)
    same = [trial for trial in trials if trial.workers == best.workers]
    return Measurement(best.workers, {trial.batch_size: trial.windows_per_second for trial in same})


def _sizes(bundle: AuditedBundle, how: Decoding) -> list[int]:
    """Return the batch sizes worth a trial that do not take too much memory."""
    largest = bundle.largest_batch(how.precision, how.device)
    return [size for size in BATCH_SIZES[how.device.kind] if size <= largest]


def _speed(trial: Trial) -> float:
    return trial.windows_per_second


def _rate(loop: Loop, batch: WindowBatch, workers: int, seconds: float, stop: Stop) -> float:
    """Return windows a second of all threads together."""
    started = time.perf_counter()

    def work(_: int) -> int:
        done = 0
        while not done or time.perf_counter() - started < seconds:
            stop.check()
            loop(batch, False)
            done += len(batch)
        return done

    with ThreadPoolExecutor(workers) as pool:
        done = sum(pool.map(work, range(workers)))
    return done / (time.perf_counter() - started)


def recall(bundle: AuditedBundle, how: Decoding) -> Measurement | None:
    """Return what was measured before under the same conditions; None where nothing usable was."""
    try:
        kept = json.loads(_cache().read(_name(bundle, how), LARGEST_FILE) or b"")
        found = Measurement(int(kept["workers"]), {int(size): float(rate) for size, rate in kept["rates"].items()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError):
        return None
    sizes = {*_sizes(bundle, how), how.batch_size}
    return found if found.rates and found.rates.keys() <= sizes and 1 <= found.workers <= how.workers else None


def keep(bundle: AuditedBundle, how: Decoding, found: Measurement) -> bool:
    """Remember a measurement; return whether that was possible, for a cache that cannot be written is no error."""
    content = json.dumps({"conditions": _conditions(bundle, how), **asdict(found)})
    with contextlib.suppress(OSError, RuntimeError):
        _cache().write(_name(bundle, how), content.encode())
        return True
    return False


def _cache() -> OutputFolder:
    """Return the user's cache folder. RuntimeError: nobody can tell where the home is."""
    root = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return OutputFolder(Path(root) / "freerun")


def _name(bundle: AuditedBundle, how: Decoding) -> str:
    return f"{digest(_conditions(bundle, how))}.json"


def _conditions(bundle: AuditedBundle, how: Decoding) -> dict[str, str | int]:
    """Return what a measurement depends on."""
    from importlib.metadata import PackageNotFoundError, version

    runtime = ""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(PackageNotFoundError):
            runtime += f"{name} {version(name)} "
    return {
        "bundle_id": bundle.manifest.bundle_id,
        "device": str(how.device),
        "precision": how.precision,
        "processor": _processor(),
        "runtime": runtime.strip(),
        "workers": how.workers,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
