"""freerun on a real series: ETTh1, every strategy beside simple forecasts, by the commands that a user would type.

    python benchmarks/etth1.py PATH-TO-ETTh1.csv [--page docs/etth1.md] [--work DIR] [--set KEY=VALUE ...]

The usual protocol: the first 12 x 30 x 24 rows train, the next 4 x 30 x 24 validate, the next 4 x 30 x 24 test; values
standardised with the training rows' mean and deviation; every window of stride 1; MSE over all windows and steps. A
window's past holds the target, and sine and cosine of the hour; its future those two. Two trainings run at a time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import etth1_page
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from etth1_linear import linear_forecast
from etth1_page import Result, Task

MONTH = 30 * 24
BORDERS = {"train": (0, 12 * MONTH), "valid": (12 * MONTH, 16 * MONTH), "test": (16 * MONTH, 20 * MONTH)}
SETTINGS = ("units=32", "scaling=window", "start=last", "base=linear", "epochs=6", "patience=6", "batch_size=256",
            "learning_rate=0.003", "season_length=24")  # fmt: skip
STRATEGIES = ("teacher-forcing", "scheduled-sampling", "curriculum", "free-running")
BIN = Path(sys.executable).parent
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Bench:
    """Where everything goes, and what is laid over the settings."""

    csv: Path
    folder: Path
    settings: tuple[str, ...]

    def cut(self, task: Task) -> Path:
        """Cut a task's windows into Parquet; return their folder."""
        folder = self.folder / f"{task.target}-h{task.horizon}-c{task.context}"
        values, clock = series(self.csv, task.target)
        for split in BORDERS:
            (folder / split).mkdir(parents=True)
            table = pa.table(windows(values, clock, split, task))
            pq.write_table(table, folder / split / "windows.parquet", row_group_size=1024)
        return folder

    def simple(self, task: Task, folder: Path) -> Result:
        """Return the test MSE of the linear forecast on the same windows."""
        splits = [pq.read_table(folder / split / "windows.parquet") for split in BORDERS]
        arrays = [(column.combine_chunks() for column in (table["past"], table["target"])) for table in splits]
        train, valid, test = ((past.to_numpy_ndarray(), np.stack(target.to_numpy(False))) for past, target in arrays)
        return Result(task, "linear", linear_forecast(train, valid, test))

    def train(self, task: Task, folder: Path, strategy: str) -> list[Result]:
        """Train, export and score one strategy; return its test MSE, and those of the naive forecasts."""
        bundle, out = folder / strategy, folder / f"scored-{strategy}"
        words = [w for setting in (*SETTINGS, f"strategy={strategy}", *self.settings) for w in ("--set", setting)]
        command("freerun-export", "train", folder / "train", "--valid", folder / "valid", "--out", bundle, *words)
        command("freerun", "score", bundle, folder / "test", "--out", out, "--quiet")
        return etth1_page.read_report(task, strategy, out / "_report.json")


def series(path: Path, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the standardised target [T], and sine and cosine of the hour [T, 2]."""
    table = pa.csv.read_csv(path)
    values = table.column(target).to_numpy().astype(np.float64)
    first, last = BORDERS["train"]
    values = (values - values[first:last].mean()) / values[first:last].std()
    hour = table.column("date").to_numpy().astype("datetime64[h]").astype(int) % 24
    angle = 2 * np.pi * hour / 24
    return values, np.stack([np.sin(angle), np.cos(angle)], axis=1)


def windows(values: np.ndarray, clock: np.ndarray, split: str, task: Task) -> dict[str, pa.Array]:
    """Cut every window whose horizon lies in the split; its context may reach back before it."""
    first, last = BORDERS[split]
    origins = np.arange(max(first, task.context), last - task.horizon + 1)
    back, ahead = origins[:, None] + np.arange(-task.context, 0), origins[:, None] + np.arange(task.horizon)
    return {
        "origin": pa.array(origins - 1),
        "past": tensor(np.concatenate([values[back][:, :, None], clock[back]], axis=2)),
        "future_known": tensor(clock[ahead]),
        "target": pa.FixedSizeListArray.from_arrays(pa.array(values[ahead].ravel()), task.horizon),
    }


def tensor(values: np.ndarray) -> pa.Array:
    """Return rows [N, A, B] as a fixed-shape tensor column of float32."""
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values, np.float32))


def command(*words: object) -> str:
    """Run one of freerun's commands, showing it; return its result. What it says is shown only if it fails."""
    print("$", *words, flush=True)
    line = [BIN / str(words[0]), *map(str, words[1:])]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ | ONE_THREAD)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def main() -> None:
    """Cut, train and score everything, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--targets", default="OT,HUFL")
    parser.add_argument("--horizons", default="24,48")
    parser.add_argument("--contexts", default="96,336")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--work", type=Path, help="keep everything in this new folder")
    parser.add_argument("--page", type=Path, help="write the table into this Markdown file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the config")
    chosen = parser.parse_args()
    started = time.monotonic()
    folder = chosen.work or Path(tempfile.mkdtemp(prefix="etth1-"))
    bench = Bench(chosen.csv, folder, tuple(chosen.set))
    targets, strategies = chosen.targets.split(","), chosen.strategies.split(",")
    sizes = [[int(number) for number in given.split(",")] for given in (chosen.horizons, chosen.contexts)]
    tasks = [Task(target, horizon, context) for target in targets for horizon in sizes[0] for context in sizes[1]]
    folders = {task: bench.cut(task) for task in tasks}
    results = [bench.simple(task, folders[task]) for task in tasks]
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(bench.train, task, folders[task], name) for task in tasks for name in strategies]
        results += [result for run in runs for result in run.result()]
    table = etth1_page.table(results, strategies)
    print(f"\n{table}")
    if chosen.page:
        settings = " ".join((*SETTINGS, *chosen.set))
        chosen.page.write_text(etth1_page.page(table, settings, (time.monotonic() - started) / 60))


if __name__ == "__main__":
    main()
