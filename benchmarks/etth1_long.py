"""A backtest of series: ETTh1 melted into seven, windows cut by freerun beside the same windows cut by numpy.

    python benchmarks/etth1_long.py PATH-TO-ETTh1.csv [--work DIR] [--set KEY=VALUE ...]

The split is that of etth1.py; each series is standardised with its own training rows. One bundle is trained on
windows of all seven, whose past is the target alone. Then `freerun score --layout long --window rolling` cuts all of
the test split (stride 1) out of the whole 17,420 hours; numpy cuts the same ones for the windows layout; and
`freerun evaluate` holds the former against the series.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from etth1 import BORDERS, command

CONTEXT, HORIZON = 96, 24
STRIDE = 6
"""Of the windows that are trained on: one in six is plenty for a bundle that is not measured."""
SETTINGS = (
    "units=16",
    "scaling=window",
    "start=last",
    "base=linear",
    "epochs=2",
    "season_length=24",
    "feature_names=y",
)


@dataclass(frozen=True, slots=True)
class Panel:
    """Hours without a zone [T], and series [S, T] by name."""

    names: tuple[str, ...]
    times: np.ndarray
    values: np.ndarray

    def melt(self, path: Path) -> None:
        """Write a row for each hour of each series."""
        count, hours = self.values.shape
        columns = {
            "unique_id": np.repeat(self.names, hours),
            "ds": np.tile(self.times, count),
            "y": self.values.ravel(),
        }
        pq.write_table(pa.table(columns), path)

    def cut(self, path: Path, split: str, stride: int) -> None:
        """Cut every window whose horizon lies in a split, series after series."""
        path.parent.mkdir(parents=True)
        first, last = BORDERS[split]
        starts = np.arange(max(first - CONTEXT, 0), last - CONTEXT - HORIZON + 1, stride)
        cut = np.lib.stride_tricks.sliding_window_view(self.values, CONTEXT + HORIZON, axis=1)[:, starts]
        cut = cut.reshape(-1, CONTEXT + HORIZON)
        pq.write_table(pa.table({"past": lists(cut[:, :CONTEXT]), "target": lists(cut[:, CONTEXT:])}), path)


def lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def read_panel(path: Path) -> Panel:
    """Read the seven series, each standardised with its training rows."""
    table = pa.csv.read_csv(path)
    names = tuple(name for name in table.column_names if name != "date")
    values = np.stack([table[name].to_numpy().astype(np.float64) for name in names])
    train = values[:, slice(*BORDERS["train"])]
    values = (values - train.mean(axis=1, keepdims=True)) / train.std(axis=1, keepdims=True)
    return Panel(names, table["date"].to_numpy().astype("datetime64[us]"), values.astype(np.float32))


def timed(*words: object) -> float:
    """Run a command; return its seconds."""
    started = time.monotonic()
    command(*words)
    return time.monotonic() - started


def prepare(panel: Panel, folder: Path, settings: list[str]) -> Path:
    """Write the series and the windows, and train; return the bundle."""
    panel.melt(folder / "series.parquet")
    panel.cut(folder / "test" / "windows.parquet", "test", 1)
    for split in ("train", "valid"):
        panel.cut(folder / split / "windows.parquet", split, STRIDE)
    words = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
    command(
        "freerun-export", "train", folder / "train", "--valid", folder / "valid", "--out", folder / "bundle", *words
    )
    return folder / "bundle"


def score_both_ways(panel: Panel, bundle: Path, folder: Path) -> tuple[float, float]:
    """Score the test windows cut by freerun, and cut by numpy; return the seconds of each."""
    first, last = (panel.times[BORDERS["test"][0] - 1], panel.times[BORDERS["test"][1] - HORIZON - 1])
    rolling = "--layout", "long", "--freq", "h", "--window", "rolling", "--from", first, "--to", last
    cut = timed("freerun", "score", bundle, folder / "series.parquet", "--out", folder / "long", *rolling, "--quiet")
    given = timed("freerun", "score", bundle, folder / "test", "--out", folder / "windows", "--quiet")
    return cut, given


def largest_difference(left: Any, right: Any) -> float:
    """Return the largest relative difference of any number in two equal trees of JSON."""
    if isinstance(left, dict):
        return max((largest_difference(left[key], right[key]) for key in left), default=0.0)
    if isinstance(left, list):
        return max((largest_difference(*pair) for pair in zip(left, right, strict=True)), default=0.0)
    if left == right:
        return 0.0
    return abs(left - right) / abs(right)


def told(folder: Path) -> dict[str, Any]:
    total = json.loads((folder / "_report.json").read_text())["total"]
    return {key: total[key] for key in ("rows", "masked_mse", "observed_mse", "per_step", "naive")}


def show(folder: Path, seconds: tuple[float, float]) -> bool:
    """Print what came of it; return whether both ways agree."""
    long = pq.read_table(folder / "long" / "series.parquet", columns=["prediction"])
    windows = pq.read_table(folder / "windows" / "windows.parquet", columns=["prediction"])
    forecasts = long["prediction"].to_numpy(), windows["prediction"].combine_chunks().flatten().to_numpy()
    equal = np.array_equal(*forecasts)
    mine, theirs = told(folder / "long"), told(folder / "windows")
    run = {key: value for key, value in mine.items() if key != "rows"}
    found = {key: value for key, value in json.loads((folder / "evaluated.json").read_text()).items() if key in run}
    apart, evaluated = largest_difference(mine, theirs), largest_difference(found, run)
    print(f"\nwindows of {CONTEXT} + {HORIZON} hours: {mine['rows']['scored']:,} of seven series")
    print(f"forecasts, {len(forecasts[0]):,}: {'equal bit for bit' if equal else 'NOT equal'}")
    print(f"largest relative difference of any score, cut by freerun or by numpy: {apart:.3g}")
    print(f"largest relative difference of any score, by evaluate or by the run: {evaluated:.3g}")
    losses = {"freerun": mine["masked_mse"], **{name: naive["masked_mse"] for name, naive in mine["naive"].items()}}
    print("MSE " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
    print(f"seconds: series {seconds[0]:.1f}, windows {seconds[1]:.1f}")
    return equal and max(apart, evaluated) <= 1e-9


def main() -> None:
    """Train one bundle, score both ways, and print the figures; exit with 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--work", type=Path, help="keep everything in this new folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the config")
    chosen = parser.parse_args()
    folder = chosen.work or Path(tempfile.mkdtemp(prefix="etth1-long-"))
    folder.mkdir(exist_ok=True)
    panel = read_panel(chosen.csv)
    bundle = prepare(panel, folder, chosen.set)
    seconds = score_both_ways(panel, bundle, folder)
    actuals = "--actuals", folder / "series.parquet", "--on", "unique_id,ds", "--json"
    (folder / "evaluated.json").write_text(command("freerun", "evaluate", folder / "long", *actuals))
    sys.exit(not show(folder, seconds))


if __name__ == "__main__":
    main()
