"""freerun on a real series: ETTh1, by the commands that a user would type.

    python benchmarks/etth1.py PATH-TO-ETTh1.csv [--target OT] [--context 168] [--horizon 24] [--work DIR]

The usual protocol: the first 12 x 30 x 24 rows train, the next 4 x 30 x 24 validate, the next 4 x 30 x 24 test; values
standardised with the training rows' mean and deviation; every window of stride 1; MSE over all windows and steps.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

MONTH = 30 * 24
BORDERS = {"train": (0, 12 * MONTH), "valid": (12 * MONTH, 16 * MONTH), "test": (16 * MONTH, 20 * MONTH)}
PUBLISHED = {("OT", 24): [("Informer, horizon 168, univariate (published)", 0.183)]}
"""Figures of others on the same protocol, for scale only."""
SETTINGS = ["units=64", "scaling=window", "start=last", "epochs=12", "patience=4", "batch_size=128",
            "learning_rate=0.002", "season_length=24"]  # fmt: skip
BIN = Path(sys.executable).parent


def series(path: Path, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the standardised target [T], and sine and cosine of the hour [T, 2]."""
    table = pa.csv.read_csv(path)
    values = table.column(target).to_numpy().astype(np.float64)
    first, last = BORDERS["train"]
    values = (values - values[first:last].mean()) / values[first:last].std()
    hour = table.column("date").to_numpy().astype("datetime64[h]").astype(int) % 24
    angle = 2 * np.pi * hour / 24
    return values, np.stack([np.sin(angle), np.cos(angle)], axis=1)


def write_split(folder: Path, values: np.ndarray, clock: np.ndarray, split: str, context: int, horizon: int) -> int:
    """Cut every window whose horizon lies in the split (its context may reach back before it) into one Parquet file."""
    first, last = BORDERS[split]
    origins = np.arange(max(first, context), last - horizon + 1)
    back, ahead = origins[:, None] + np.arange(-context, 0), origins[:, None] + np.arange(horizon)
    past = np.concatenate([values[back][:, :, None], clock[back]], axis=2).astype(np.float32)
    columns = {
        "origin": pa.array(origins - 1),
        "past": tensor(past),
        "future_known": tensor(clock[ahead].astype(np.float32)),
        "target": pa.FixedSizeListArray.from_arrays(pa.array(values[ahead].ravel()), horizon),
    }
    (folder / split).mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / split / "windows.parquet", row_group_size=1024)
    return len(origins)


def tensor(values: np.ndarray) -> pa.Array:
    """Return rows [N, A, B] as a fixed-shape tensor column."""
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))


def command(*words: object) -> None:
    """Run one of freerun's commands, showing it."""
    print("$", *words, flush=True)
    subprocess.run([BIN / str(words[0]), *map(str, words[1:])], check=True)


def score(folder: Path, mode: str) -> dict[str, object]:
    """Score the test split by `freerun score`; return the report."""
    out = folder / f"scored-{mode}"
    command("freerun", "score", folder / "bundle", folder / "test", "--out", out, "--mode", mode, "--quiet")
    return json.loads((out / "_report.json").read_text())["total"]


def main() -> None:
    """Cut, train, score, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--target", default="OT")
    parser.add_argument("--context", type=int, default=168)
    parser.add_argument("--horizon", type=int, default=24)
    parser.add_argument("--work", type=Path, help="keep everything in this new folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the config")
    chosen = parser.parse_args()
    folder = chosen.work or Path(tempfile.mkdtemp(prefix="etth1-"))
    values, clock = series(chosen.csv, chosen.target)
    counts = {split: write_split(folder, values, clock, split, chosen.context, chosen.horizon) for split in BORDERS}
    settings = [word for setting in [*SETTINGS, *chosen.set] for word in ("--set", setting)]
    data = [folder / "train", "--valid", folder / "valid"]
    command("freerun-export", "train", *data, "--out", folder / "bundle", *settings)
    forced, free = score(folder, "teacher-forced"), score(folder, "free-running")
    rows = [
        ("freerun, free-running (what production gets)", free["masked_mse"]),
        ("freerun, teacher-forced (the illusion)", forced["masked_mse"]),
        ("last value repeated", free["naive"]["last"]["masked_mse"]),
        ("seasonal naive, 24 hours", free["naive"]["seasonal"]["masked_mse"]),
        *PUBLISHED.get((chosen.target, chosen.horizon), []),
    ]
    sizes = f"context {chosen.context}, horizon {chosen.horizon}"
    print(f"\nETTh1 {chosen.target}, {sizes}, {counts['test']:,} test windows")
    for name, value in rows:
        print(f"{name:<48}{value:>9.4f}")


if __name__ == "__main__":
    main()
