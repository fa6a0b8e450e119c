"""Inputs and bundles of the benchmarks: made once into a folder, from a seed, and found there the next time."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sizes import Shape

POOL = 65_536
"""Different windows in an input; a larger input repeats them, a row group each."""
EXCLUDED_SHARE = 0.15
PERSISTENCE = 0.9
BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of inputs and bundles.

    Attributes:
        folder: where they are kept.
        precisions: that freerun offers, and that the bundles are therefore made with.
    """

    folder: Path
    precisions: tuple[str, ...]

    def windows(self, shape: Shape, count: int, files: int = 1) -> Path:
        """Return a Parquet file of `count` windows, or a folder that spreads them over `files` files."""
        name = f"c{shape.context}-h{shape.horizon}-n{count}"
        path = self.folder / "data" / (f"{name}.parquet" if files == 1 else f"{name}-files{files}")
        if not path.exists():
            pool = draw(shape, min(count, POOL), seed=0)
            _appear(path, lambda new: write(new, pool, count) if files == 1 else scatter(new, pool, count, files))
        return path

    def bomb(self, shape: Shape, decoded: int) -> Path:
        """Return a Parquet file of one row group that decodes to `decoded` bytes out of a thousandth of them."""
        path = self.folder / "data" / f"c{shape.context}-h{shape.horizon}-constant-{decoded}.parquet"
        if not path.exists():
            _appear(path, lambda new: write_constant(new, shape, decoded // shape.row_bytes))
        return path

    def bundle(self, shape: Shape) -> Path:
        """Return where a shape's bundle is; `train` puts it there."""
        return self.folder / "bundles" / f"c{shape.context}-h{shape.horizon}-u{shape.units}"

    def train(self, shapes: tuple[Shape, ...], windows: int) -> None:
        """Train the bundles that are missing, or that this freerun does not take any more; two at a time."""
        wanted = [shape for shape in shapes if not self._usable(self.bundle(shape))]
        inputs = [(self.windows(shape, windows), self.windows(shape, windows // 4)) for shape in wanted]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._train, wanted, inputs))

    def tune(self, shapes: tuple[Shape, ...], seconds: float) -> None:
        """Let freerun find batch size and threads for each bundle, once, as a first large run does by itself."""
        for shape in shapes:
            command = [BIN / "freerun", "bench", self.bundle(shape), "--seconds", str(seconds)]
            subprocess.run(command, capture_output=True, check=True)

    def missing(self, shape: Shape, precision: str) -> str:
        """Say why a shape's bundle holds no graphs of this precision; nothing where it does."""
        if precision not in self.precisions:
            return f"this freerun has no {precision}"
        if precision == "fp32" or (self.bundle(shape) / precision).is_dir():
            return ""
        note = _note(self.bundle(shape))
        return note.read_text() if note.exists() else f"the bundle has no {precision} graphs"

    def _usable(self, bundle: Path) -> bool:
        if not bundle.exists():
            return False
        verified = subprocess.run([BIN / "freerun", "verify", bundle], capture_output=True, check=False)
        complete = all(name == "fp32" or (bundle / name).is_dir() for name in self.precisions)
        return verified.returncode == 0 and (complete or _note(bundle).exists())

    def _train(self, shape: Shape, inputs: tuple[Path, Path]) -> None:
        bundle = self.bundle(shape)
        bundle.parent.mkdir(parents=True, exist_ok=True)
        failed = _train(bundle, shape, inputs, self.precisions)
        if failed and len(self.precisions) > 1:
            _note(bundle).write_text(failed)
            failed = _train(bundle, shape, inputs, ("fp32",))
        if failed:
            raise RuntimeError(f"training {bundle.name} failed: {failed}")


def draw(shape: Shape, count: int, seed: int) -> pa.Table:
    """Return windows of AR(1) features with mean 0 and deviation 1; the first feature goes on as the target."""
    rng = np.random.default_rng(seed)
    steps = shape.context + shape.horizon
    series = rng.standard_normal((count, steps, shape.features), np.float32)
    series[:, 1:] *= np.sqrt(1 - PERSISTENCE**2)
    for step in range(1, steps):
        series[:, step] += np.float32(PERSISTENCE) * series[:, step - 1]
    mask = (rng.random((count, shape.horizon)) < EXCLUDED_SHARE).astype(np.uint8)
    return table(series[:, : shape.context], series[:, shape.context :, 0], mask, np.arange(count))


def table(past: np.ndarray, target: np.ndarray, mask: np.ndarray, ids: np.ndarray) -> pa.Table:
    """Return windows as freerun's documents describe them: past [B, C, F], target [B, H], mask [B, H]."""
    horizon = target.shape[1]
    return pa.table(
        {
            "id": pa.array(ids),
            "past": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(past)),
            "target": pa.FixedSizeListArray.from_arrays(pa.array(target.ravel()), horizon),
            "mask": pa.FixedSizeListArray.from_arrays(pa.array(mask.ravel()), horizon),
        }
    )


def write(path: Path, pool: pa.Table, count: int) -> None:
    """Write `count` windows with pyarrow's own settings, one row group for each time the pool is used."""
    with pq.ParquetWriter(path, pool.schema) as file:
        for start in range(0, count, pool.num_rows):
            file.write_table(pool.slice(0, min(count - start, pool.num_rows)))


def scatter(folder: Path, pool: pa.Table, count: int, files: int) -> None:
    """Write `count` windows into `files` files of equal size."""
    folder.mkdir()
    rows = count // files
    for index in range(files):
        pq.write_table(pool.slice(index * rows % max(pool.num_rows - rows, 1), rows), folder / f"{index:05}.parquet")


def write_constant(path: Path, shape: Shape, count: int) -> None:
    """Write `count` windows that are all the same into a single row group."""
    rows = min(count, POOL)
    past = np.full((rows, shape.context, shape.features), 0.5, np.float32)
    target = np.full((rows, shape.horizon), 0.5, np.float32)
    same = table(past, target, np.zeros((rows, shape.horizon), np.uint8), np.zeros(rows, np.int64))
    batch = same.combine_chunks().to_batches()[0]
    with pq.ParquetWriter(path, same.schema, compression="zstd") as file:
        for start in range(0, count, rows):
            file.write_batch(batch.slice(0, min(count - start, rows)), row_group_size=count)


def _train(bundle: Path, shape: Shape, inputs: tuple[Path, Path], precisions: tuple[str, ...]) -> str:
    """Run `freerun-export train`; return what it said if it failed, else nothing."""
    for folder in (bundle, bundle.with_name(f"{bundle.name}.work")):
        shutil.rmtree(folder, ignore_errors=True)
    settings = [f"units={shape.units}", "epochs=1", "scaling=none", "batch_size=64"]
    if len(precisions) > 1:  # a freerun that knows float32 alone has no such key
        settings.append(f"precision={list(precisions)}")
    words = [word for setting in settings for word in ("--set", setting)]
    command = [BIN / "freerun-export", "train", inputs[0], "--valid", inputs[1], "--out", bundle, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def _note(bundle: Path) -> Path:
    """Return where it is written why a bundle lacks a precision."""
    return bundle.with_name(f"{bundle.name}.refused")


def _appear(path: Path, write_to: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    write_to(new)
    new.rename(path)
