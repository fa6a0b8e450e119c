"""Score the latest window of many series from rows of time steps, beside the very same windows cut beforehand.

    python benchmarks/long.py [--series 100000] [--steps 500] [--rounds 5]

Both runs are whole `freerun score` processes, Parquet to Parquet, taking turns; their forecasts must be equal, bit
for bit. Prints windows a second of both, their ratio by turn, and the peaks of memory over the imports.
"""

import argparse
import shutil
import statistics
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from data import PERSISTENCE, Store, table
from processes import one_run
from sizes import Shape

ROOT = Path(__file__).parents[1]
SERIES_AT_ONCE = 2_000
BEGIN = np.datetime64("2026-01-01T00:00", "us")


def draw(shape: Shape, series: int, steps: int, seed: int) -> np.ndarray:
    """Return AR(1) features of series with mean 0 and deviation 1 [series, steps, F]."""
    values = np.random.default_rng(seed).standard_normal((series, steps, shape.features), np.float32)
    values[:, 1:] *= np.sqrt(1 - PERSISTENCE**2)
    for step in range(1, steps):
        values[:, step] += np.float32(PERSISTENCE) * values[:, step - 1]
    return values


def rows_of(values: np.ndarray, first: int) -> pa.Table:
    """Return rows of time steps as teams store them: name, hour, target, further features."""
    series, steps, features = values.shape
    names = np.char.add("meter-", np.char.zfill(np.arange(first, first + series).astype(str), 7))
    hours = BEGIN + np.arange(steps) * np.timedelta64(1, "h")
    columns = {"unique_id": pa.array(np.repeat(names, steps)), "ds": pa.array(np.tile(hours, series))}
    columns["y"] = pa.array(values[:, :, 0].ravel())
    return pa.table(columns | {f"f{index}": pa.array(values[:, :, index].ravel()) for index in range(1, features)})


def write(folder: Path, shape: Shape, series: int, steps: int) -> tuple[Path, Path]:
    """Write both inputs, or find them."""
    long, windows = (folder / "data" / f"{kind}-{series}-{steps}.parquet" for kind in ("steps", "cut"))
    if not (long.exists() and windows.exists()):
        long.parent.mkdir(parents=True, exist_ok=True)
        writers: list[pq.ParquetWriter] = []
        for first in range(0, series, SERIES_AT_ONCE):
            values = draw(shape, min(SERIES_AT_ONCE, series - first), steps, first)
            past = values[:, -shape.context :]
            nothing = np.zeros((len(past), shape.horizon), np.float32)
            cut = table(past, nothing, nothing.astype(np.uint8), np.arange(first, first + len(past))).select(
                ["id", "past"]
            )
            tables = rows_of(values, first), cut
            writers = writers or [
                pq.ParquetWriter(path, made.schema) for path, made in zip((long, windows), tables, strict=True)
            ]
            for writer, made in zip(writers, tables, strict=True):
                writer.write_table(made)
        for writer in writers:
            writer.close()
    return long, windows


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    shape, store = Shape(), Store(ROOT / "build" / "bench", ("fp32",))
    store.train((shape,), 1_024)
    store.tune((shape,), 4.0)
    sources = dict(zip(("long", "windows"), write(store.folder, shape, asked.series, asked.steps), strict=True))
    flags = {"long": ["--layout", "long", "--freq", "h"], "windows": []}
    scratch = store.folder / "scratch"
    scratch.mkdir(exist_ok=True)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sources}
    for _ in range(asked.rounds):
        for name, source in sources.items():
            out, modules = scratch / f"by-{name}", scratch / f"modules-{name}.txt"
            shutil.rmtree(out, ignore_errors=True)
            words = ["score", store.bundle(shape), source, "--out", out, "--quiet", *flags[name]]
            if not modules.exists():  # the first run, which does not count, says what is imported
                one_run(modules, words)
                shutil.rmtree(out)
            found[name].append({**one_run(modules, words), "imports": one_run(modules, [])["peak"]})
    rates = {name: [asked.series / run["seconds"] for run in runs] for name, runs in found.items()}
    for name, runs in found.items():
        peak = max(run["peak"] - run["imports"] for run in runs) / 1e6
        print(f"{name}: {statistics.median(rates[name]):,.0f} windows a second, peak {peak:.0f} MB over the imports")
    quotients = [a / b for a, b in zip(rates["long"], rates["windows"], strict=True)]
    print(f"ratio: {statistics.median(quotients):.3f} (by turn: {', '.join(f'{q:.3f}' for q in quotients)})")
    long = pq.read_table(scratch / "by-long", columns=["prediction"])["prediction"].to_numpy()
    windows = pq.read_table(scratch / "by-windows", columns=["prediction"])["prediction"].combine_chunks().values
    print("the same forecasts, bit for bit" if np.array_equal(long, np.asarray(windows)) else "THE FORECASTS DIFFER")


if __name__ == "__main__":
    main()
