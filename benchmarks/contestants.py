"""Who takes part in the comparison, in which order; here: freerun, its own loop in memory, and the plain loop."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import limit
import peers
from data import Store
from rounds import CHECKED, Contestant, Racer, SkippedError
from sizes import Plan
from task import Task, predictions

from runner.cli import cli


def freerun(task: Task) -> Racer:
    """Run `freerun score` in this process, from the call to its return: open, check, read, score, write, sync."""
    _need_graphs(task)
    words = ["score", str(task.bundle), str(task.source), "--out", str(task.out), "--quiet"]
    words += [] if task.precision == "fp32" else ["--precision", task.precision]

    def run() -> float:
        shutil.rmtree(task.out, ignore_errors=True)
        started = time.perf_counter()
        code = cli.main(words, standalone_mode=False)
        seconds = time.perf_counter() - started
        if code:
            raise RuntimeError(f"freerun score ended with {code}")
        return task.windows / seconds

    run()
    return Racer(run, predictions(task.out / task.source.name), "the defaults of `freerun score`")


def plain(task: Task) -> Racer:
    """Run the plain loop on the same file."""
    from plain_onnxruntime import BATCH, forecast  # noqa: PLC0415  (onnxruntime, in this contestant's process alone)

    task.out.mkdir(parents=True, exist_ok=True)
    target = task.out / "plain.parquet"

    def run() -> float:
        started = time.perf_counter()
        forecast(task.bundle, task.source, target)
        return task.windows / (time.perf_counter() - started)

    run()
    return Racer(run, predictions(target), f"batch {BATCH:,}, default session options")


def memory(task: Task) -> Racer:
    """Run freerun's own loop on arrays in memory."""
    from in_memory import memory_rate  # noqa: PLC0415  (it follows the runner's insides, in this process alone)

    _need_graphs(task)
    past = task.past()

    _, found = memory_rate(task.bundle, task.precision, past)

    def run() -> float:
        return memory_rate(task.bundle, task.precision, past)[0]

    return Racer(run, found[:CHECKED], "batch and threads of `freerun score`")


def everybody(plan: Plan, store: Store, out: Path) -> list[Contestant]:
    """Return the contestants in the order of their turns."""
    bundle = store.bundle(plan.shape)
    sources = {windows: store.windows(plan.shape, windows) for windows in (plan.score_windows, plan.plain_windows)}

    def one(name: str, label: str, make: Callable[[Task], Racer], windows: int, precision: str = "fp32") -> Contestant:
        missing, source = store.missing(plan.shape, precision), sources.get(windows, sources[plan.score_windows])
        task = Task(bundle, source, out / name, plan.shape, windows, precision, missing, plan.batches)
        return Contestant(name, label, make, task)

    return [
        one("keras_default", "Keras predict, unrolled, batch 32", peers.keras_default, plan.keras_windows),
        one("keras_best", "Keras predict, unrolled, best batch", peers.keras_best, 4 * plan.keras_windows),
        one("keras_loop", "Keras encoder and step in a loop", peers.keras_loop, plan.loop_windows),
        one("torch", "PyTorch LSTM in a loop", peers.torch_loop, plan.torch_windows),
        one("plain", "onnxruntime, plain loop, Parquet", plain, plan.plain_windows),
        one("memory_fp32", "freerun's loop in memory, float32", memory, plan.memory_windows),
        one("freerun_fp32", "freerun score, float32, Parquet", freerun, plan.score_windows),
        one("memory_int8", "freerun's loop in memory, int8", memory, plan.memory_windows, "int8"),
        one("freerun_int8", "freerun score, int8, Parquet", freerun, plan.score_windows, "int8"),
        one("limit", "limit of float32 matrix products", limit.limit, plan.memory_windows),
    ]


def _need_graphs(task: Task) -> None:
    if task.missing:
        raise SkippedError(task.missing)
