"""Parity of every kind of forecaster that `freerun-export train` can make, read off the certificates.

    python benchmarks/parity.py > docs/parity.md

Trains each kind for one epoch on a small demo data set (the weights do not matter, the wiring does), exports it, and
prints the largest differences between Keras and the runner's loop over batch sizes 1, 2, 7 and 64.
"""

import itertools
import json
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from export.config import TrainConfig
from export.demo_data import write_demo
from export.pipeline import Data, train_bundle

LAYERS = ([16], [16, 8], [16, 8, 8])
SCALINGS = ("none", "standard", "window")
STARTS = (-1.0, "last")
FUTURES = (True, False)
LOOPS = {
    "teacher_forced": "teacher-forced",
    "free_running": "free-running",
    "fused_teacher_forced": "fused, teacher-forced",
    "fused_free_running": "fused, free-running",
}


def without_future(folder: Path) -> Path:
    """Copy the data without the covariates of the horizon."""
    target = folder / "bare"
    for split in ("train", "valid"):
        (target / split).mkdir(parents=True)
        for path in sorted((folder / split).glob("*.parquet")):
            table = pq.read_table(path)
            pq.write_table(table.drop_columns(["future_known"]), target / split / path.name, row_group_size=100)
    return target


def largest(certificate: dict) -> list[float]:
    """Return the largest difference of the encoder, one step, and the loops: of the two graphs, then fused."""
    parity = certificate["parity"]
    states = [max(max(entry[part].values()) for entry in parity) for part in ("encoder", "step")]
    return states + [max(max(entry[mode]) for entry in parity) for mode in LOOPS]


def main() -> None:
    """Print one table row for each kind."""
    work = Path(tempfile.mkdtemp(prefix="parity-"))
    write_demo(work, 600, 200, seed=0)
    data = {True: work, False: without_future(work)}
    print("# Parity, measured\n")
    print(
        "Largest difference between Keras and the runner's loop over batch sizes 1, 2, 7 and 64, from the certificates:"
    )
    print("predictions in units of the target's deviation, states in units of their largest value (at least 1).")
    print("Allowed: 1e-5.")
    print("Written by `python benchmarks/parity.py`.\n")
    print(f"| units | scaling | start | future_known | encoder | one step | {' | '.join(LOOPS.values())} |")
    print("|" + "---|" * (6 + len(LOOPS)))
    worst = 0.0
    for index, (units, scaling, start, future) in enumerate(itertools.product(LAYERS, SCALINGS, STARTS, FUTURES)):
        config = TrainConfig(units=units, scaling=scaling, start=start, epochs=1, batch_size=64)
        out = work / f"bundle-{index}"
        folder = data[future]
        data_of_kind = Data(str(folder / "train"), str(folder / "valid"))
        train_bundle(data_of_kind, out, config, lambda _line: None, lambda _folder: [])
        found = largest(json.loads((out / "certificate.json").read_text()))
        worst = max(worst, *found)
        cells = " | ".join(f"{value:.1e}" for value in found)
        names = f"{', '.join(map(str, units))} | {scaling} | {start} | {'yes' if future else 'no'}"
        print(f"| {names} | {cells} |", flush=True)
    print(f"\nThe largest of all: {worst:.1e}.")
    print(f"{worst:.1e}", file=sys.stderr)


if __name__ == "__main__":
    main()
