"""SIGTERM, SIGINT and a second SIGINT at random moments of a light and of a heavy run (F3)."""

import importlib.util
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from campaigns.result import Result
from runner.config import Job
from runner.run import run_job
from runner.stop import Stop

LATEST_SECONDS = 6.0
"""What counts as too late: three times what is promised, for a machine with other work; `exit_p99` tells the truth."""
ROWS = {f"day={number % 2}/f{number:02d}.parquet": 60 + number for number in range(8)}
ANNOUNCED = """
import os, runner.cli as cli
run_command = cli.run_command
def begin(*arguments):
    os.write(int(os.environ["BEGUN"]), b".")
    return run_command(*arguments)
cli.run_command = begin
cli.main()
"""
"""The command, which says when it has begun: before that, signals are the kernel's business."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is run: a bundle over its input, with what an undisturbed run makes of it.

    Attributes:
        batch_size: windows in a call; where it is large, one call takes longer than a stop may.
        longest: seconds until the last moment at which a signal is sent.
    """

    name: str
    folder: Path
    batch_size: int
    longest: float

    def command(self, out: Path) -> list[str]:
        words = ["score", self.folder / "bundle", self.folder / "in", "--out", out, "--batch-size", self.batch_size]
        return [sys.executable, "-c", ANNOUNCED, *map(str, words), "--quiet"]

    def parts(self, out: Path) -> dict[str, bytes]:
        return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}

    def finish(self, out: Path) -> str | None:
        """Run it again, here and in small batches, which changes no byte; return what is not as it should be then."""
        job = Job(self.folder / "bundle", str(self.folder / "in"), out, batch_size=64, workers=1)
        report = run_job(job, Stop(), lambda *_: None)
        if report.exit_code or not (out / "_SUCCESS").exists():
            return f"the same command ended with {report.exit_code}: {report.error}"
        if self.parts(out) != self.parts(self.folder / "whole"):
            return "the parts are not those of an undisturbed run"
        left = [path.name for path in out.rglob(".*") if path.name != ".lock"]
        return f"left behind: {left}" if left else None


@dataclass(frozen=True, slots=True)
class Shot:
    """What is sent when, and what came of it."""

    task: Task
    signals: tuple[signal.Signals, ...]
    moment: float

    def __str__(self) -> str:
        sent = ", ".join(number.name for number in self.signals)
        return f"{sent} {self.moment:.3f} s after the beginning of a {self.task.name} run"

    def fire(self, out: Path) -> tuple[float, str | None]:
        """Start a run and send the signals; return the seconds until it ended, and which promise was broken."""
        with begun(self.task.command(out)) as running:
            time.sleep(self.moment)
            sent = time.monotonic()
            for number in self.signals:
                running.send_signal(number)
                time.sleep(0.01 * (number is not self.signals[-1]))
            _, words = running.communicate(timeout=60)
            seconds = time.monotonic() - sent
        return seconds, self._broken(running.returncode, words, out) or self._late(seconds) or self.task.finish(out)

    def _late(self, seconds: float) -> str | None:
        return f"took {seconds:.2f} s to end" if seconds > LATEST_SECONDS else None

    def _broken(self, code: int, words: str, out: Path) -> str | None:
        whole = self.task.parts(self.task.folder / "whole")
        if any(whole[name] != content for name, content in self.task.parts(out).items()):
            return "a part is not whole"
        if code == 0:  # it was done before the signal came
            return None if (out / "_SUCCESS").exists() else "ended with 0 before it was done"
        if code not in {128 + number for number in self.signals}:
            return f"ended with {code}: {words[-500:]}"
        if "Traceback" in words:
            return words[-500:]
        return self._unreported(code, out) if len(self.signals) == 1 else None

    def _unreported(self, code: int, out: Path) -> str | None:
        if not (out / ".lock").exists():
            return None
        told = out / "_report.json"
        found = json.loads(told.read_bytes()) if told.exists() else {}
        fits = (found.get("status"), found.get("exit_code")) == ("interrupted", code)
        return None if fits else f"ended with {code}, reported {found.get('status')} {found.get('exit_code')}"


def begun(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a command that announces itself, and wait until it has begun."""
    reading, writing = os.pipe()
    settings = {**os.environ, "BEGUN": str(writing), **environment}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, pass_fds=[writing], env=settings)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    return running


def make_light(folder: Path) -> Task:
    """Make eight small files for the tiny bundle: the whole run takes half a second."""
    return _make("light", folder, 16, 0.7, hand_made(), ROWS)


def make_heavy(folder: Path) -> Task:
    """Make one file for a bundle whose graph takes seconds in a single node, which no request ends."""
    return _make("heavy", folder, 512, 4.0, hand_made(C=32, U=1024), {"a.parquet": 70})


def _make(name: str, folder: Path, batch_size: int, longest: float, made_by: ModuleType, rows: dict[str, int]) -> Task:
    task = Task(name, folder, batch_size, longest)
    made_by.make_bundle(folder / "bundle", tolerances={"parity": 1e-5, "golden": 1000.0})
    made_by.write_dataset(folder / "in", rows)
    broken = task.finish(folder / "whole")
    if broken:
        raise AssertionError(broken)
    return task


def hand_made(**sizes: int) -> ModuleType:
    """Return what makes bundles and data by hand, of these sizes."""
    place = Path(__file__).parents[2] / "conftest.py"
    spec = importlib.util.spec_from_file_location(f"hand_made_{sum(sizes.values())}", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    for name, size in sizes.items():
        setattr(module, name, size)
    if sizes:  # the forecast by the book takes as long as the graph, and no certificate is needed here
        module.reference_forecast = lambda _weights, past, *_, **__: np.zeros((len(past), module.H))
    return module


def run(count: int, seed: int, folder: Path) -> Result:
    """Signal so many runs, one in four of them heavy; each must end in time and be finished by the same command."""
    draw, started = random.Random(seed), time.monotonic()
    tasks = [make_light(folder / "light"), make_heavy(folder / "heavy")]
    kinds = [(signal.SIGTERM,), (signal.SIGINT,), (signal.SIGINT, signal.SIGINT)]
    shots = []
    for number in range(count):
        task = tasks[number % 4 == 0]
        shots.append(Shot(task, draw.choice(kinds), draw.uniform(0, task.longest)))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda entry: entry[1].fire(folder / f"out-{entry[0]}"), enumerate(shots)))
    broken = tuple(f"seed {seed}: {shot}: {why}" for shot, (_, why) in zip(shots, found, strict=True) if why)
    seconds = sorted(seconds for seconds, _ in found)
    return Result(
        fault="F3",
        what="SIGTERM, SIGINT or two SIGINTs at a random moment",
        seed=seed,
        tried=count,
        survived=count - len(broken),
        failures=broken,
        exit_p99=seconds[math.ceil(0.99 * count) - 1],
        seconds=time.monotonic() - started,
    )
