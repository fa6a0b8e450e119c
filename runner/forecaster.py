"""A bundle whose sessions are open on the device asked for, and whose golden windows came out as certified."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from runner.batch import F32, Index, WindowBatch
from runner.bundle import Bundle, audit_bundle
from runner.decode import RunGraph, decode
from runner.device import Device
from runner.errors import BundleError, FreerunError, explain
from runner.manifest import Manifest
from runner.schema import match, sizes_of
from runner.session import open_session
from runner.stop import Stop
from runner.validate import validate


@dataclass(frozen=True, slots=True)
class Forecaster:
    """What turns windows into forecasts.

    Attributes:
        encoder, step: the two graphs.
        pool: threads that decode batches side by side.
        batch_size: windows in one call; the tail is padded to it, so that a graph sees one shape only.
    """

    manifest: Manifest
    encoder: RunGraph
    step: RunGraph
    pool: ThreadPoolExecutor
    batch_size: int

    def submit(self, windows: WindowBatch, *, teacher: bool) -> "Forecast":
        """Hand the good rows of a block to the threads, a batch each, and return at once."""
        good = windows.good_rows()
        chunks = tuple(good[start : start + self.batch_size] for start in range(0, len(good), self.batch_size))

        def run(rows: Index) -> tuple[F32, float]:
            started = time.perf_counter()
            padded = windows.take(np.resize(rows, self.batch_size))
            found = decode(self.encoder, self.step, self.manifest, padded, teacher=teacher)
            return found[: len(rows)], time.perf_counter() - started

        return Forecast((len(windows), self.manifest.horizon), chunks, tuple(self.pool.submit(run, c) for c in chunks))

    def predict(self, windows: WindowBatch, *, teacher: bool) -> F32:
        """Forecast the good rows of a block; rows of rejects are 0.

        Returns:
            Predictions in raw units [B, H], the same for any batch size and any number of threads.
        """
        return self.submit(windows, teacher=teacher).result()[0]


@dataclass(frozen=True, slots=True)
class Forecast:
    """A block's forecast in the making.

    Attributes:
        shape: rows and horizon steps of the block.
        chunks: rows of each batch.
        futures: each batch's predictions and the seconds that they took.
    """

    shape: tuple[int, int]
    chunks: tuple[Index, ...]
    futures: tuple[Future[tuple[F32, float]], ...]

    def result(self) -> tuple[F32, float]:
        """Wait for it; return predictions [B, H] (0 in the rows of rejects) and the seconds of all threads."""
        prediction, seconds = np.zeros(self.shape, np.float32), 0.0
        for rows, future in zip(self.chunks, self.futures, strict=True):
            prediction[rows], spent = future.result()
            seconds += spent
        return prediction, seconds

    def cancel(self) -> None:
        """Forget the batches that no thread has begun."""
        for future in self.futures:
            future.cancel()


@contextmanager
def open_forecaster(
    bundle: Bundle, device: Device, *, batch_size: int, workers: int, stop: Stop
) -> Iterator[Forecaster]:
    """Audit the graphs, open sessions and replay the golden windows.

    Raises:
        DeviceError: the device was not granted.
        BundleError: the graphs were refused or do not load, or the golden windows come out differently.
    """
    audit_bundle(bundle)
    encoder = open_session(bundle.encoder, bundle.manifest.encoder.file, device, threads=1, stop=stop)
    step = open_session(bundle.decoder_step, bundle.manifest.decoder_step.file, device, threads=1, stop=stop)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        forecaster = Forecaster(bundle.manifest, encoder, step, pool, batch_size)
        replay_golden(forecaster, bundle)
        yield forecaster
    finally:
        pool.shutdown(wait=not stop.requested(), cancel_futures=True)


def replay_golden(forecaster: Forecaster, bundle: Bundle) -> float:
    """Forecast the golden windows again.

    Returns:
        The largest difference from the certified forecasts, in units of the target's deviation.

    Raises:
        BundleError: they cannot be read, or differ by more than the manifest allows.
    """
    manifest = bundle.manifest
    windows, certified = read_golden(bundle)
    try:
        found = forecaster.predict(windows, teacher=False)
    except FreerunError as error:
        raise BundleError(explain(f"the graphs of {bundle.path} do not run", got=error)) from error
    difference = float(np.max(np.abs(found - certified))) / manifest.target.scale
    if not difference <= manifest.tolerances.golden:  # NaN is no agreement either
        raise BundleError(
            explain(
                "the golden windows do not come out as certified on this machine",
                got=f"a largest difference of {difference:.3g} deviations of the target",
                expected=f"at most {manifest.tolerances.golden:.3g}",
                remedy="use the onnxruntime version that the manifest names, or export the bundle again",
            )
        )
    return difference


def read_golden(bundle: Bundle) -> tuple[WindowBatch, F32]:
    """Return the golden windows and their certified free-running forecasts [B, H].

    Raises:
        BundleError: the file is not readable, or does not fit the manifest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from runner.dataset import READ_ERRORS

    manifest, sizes = bundle.manifest, sizes_of(bundle.manifest)
    try:
        table: Any = pq.read_table(pa.BufferReader(bundle.golden))
        batch = table.drop_columns(["prediction"]).combine_chunks().to_batches()[0]
        layout, problems = match(batch.schema, "", sizes, {}, teacher=False)
        if problems:
            raise BundleError(explain("the golden windows do not fit the manifest", got=problems))
        certified = np.array(table.column("prediction").to_pylist(), np.float32)
    except (*READ_ERRORS, IndexError) as error:
        raise BundleError(explain("the golden windows cannot be read", got=error)) from error
    windows = validate(batch, layout, sizes, flags_past=manifest.past_observed, teacher=False)
    if certified.shape != (len(windows), manifest.horizon) or len(windows.good_rows()) != len(windows):
        raise BundleError(explain("the golden windows do not fit the manifest", got=certified.shape))
    return windows, certified
