"""A bundle whose sessions are open on the device asked for, and whose golden windows came out as certified."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from runner.batch import F32, WindowBatch
from runner.batches import BatchQueue
from runner.bundle import AuditedBundle
from runner.decode import Loop, decode, decode_fused
from runner.device import Device
from runner.errors import BundleError, FreerunError, InterruptedRunError, UsageError, explain
from runner.manifest import Manifest
from runner.precision import Precision
from runner.resident import ResidentLoop
from runner.session import GraphSession, open_capturing, open_session
from runner.stop import Stop

BATCHES_AHEAD = 4
"""For each thread."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to decode; no choice here changes a number, but for the precision.

    Attributes:
        device: where the graphs run.
        precision: which of the bundle's forms.
        batch_size: windows in one call of a graph.
        workers: threads that decode batches side by side.
    """

    device: Device
    precision: Precision
    batch_size: int
    workers: int


@dataclass(frozen=True, slots=True)
class Forecaster:
    """What turns windows into forecasts.

    Attributes:
        loop: decodes one batch; safe from several threads at once.
        pool: threads that decode batches side by side.
        batch_size: windows in one call; the tail is padded to it, so that a graph sees one shape only.
        workers: the threads of the pool.
        golden_difference: how far the golden windows came out from their certificate, in the target's deviation.
    """

    manifest: Manifest
    loop: Loop
    pool: ThreadPoolExecutor
    batch_size: int
    workers: int = 1
    golden_difference: float = 0.0

    @property
    def rows_ahead(self) -> int:
        """Return how many windows should be queued, so that no thread waits while a part is written."""
        return BATCHES_AHEAD * self.workers * self.batch_size

    def queue(self, *, teacher: bool, check: Callable[[], None] = lambda: None) -> BatchQueue:
        """Return a queue that takes block after block and decodes them in the background.

        Who waits for a forecast calls `check` now and then, which may raise.
        """
        return BatchQueue(self.loop, self.pool, self.batch_size, self.manifest.cells, teacher, check)

    def predict(self, windows: WindowBatch, *, teacher: bool) -> F32:
        """Forecast the good rows of a block; rows of rejects are 0.

        Returns:
            Predictions in raw units [B, H * M], the same for any batch size and any number of threads.
        """
        return self.queue(teacher=teacher).add(windows).result()[0]


@contextmanager
def open_forecaster(audited: AuditedBundle, how: Decoding, stop: Stop) -> Iterator[Forecaster]:
    """Open sessions and replay the golden windows.

    Raises:
        UsageError: batches of that size would take more memory than a run may.
        DeviceError: the device was not granted.
        BundleError: the bundle has not this precision, or it was not audited; its graphs do not load, or the golden
            windows come out differently.
    """
    graphs, manifest = audited.graphs(how.precision), audited.manifest
    if how.batch_size > (most := audited.largest_batch(how.precision, how.device)):
        what = "batches of this size take too much memory"
        got = f"{how.batch_size} windows"
        raise UsageError(explain(what, got=got, expected=f"at most {most}", remedy=f"--batch-size {most}"))
    pool = ThreadPoolExecutor(how.workers, thread_name_prefix="decode")
    try:
        loop = open_loop(manifest, graphs, how.device, stop, how.batch_size)
        forecaster = Forecaster(manifest, loop, pool, how.batch_size, how.workers)
        yield replace(forecaster, golden_difference=replay_golden(forecaster, audited, how.precision))
    finally:
        pool.shutdown(wait=not stop.requested(), cancel_futures=True)


def open_loop(
    manifest: Manifest, graphs: Mapping[str, bytes], device: Device, stop: Stop, batch_size: int | None = None
) -> Loop:
    """Open sessions for audited graphs; return the loop over them.

    On the CPU the fused graph is taken where it is there. On a CUDA device the tensors stay there for the whole loop.

    Args:
        manifest: the names of the tensors.
        graphs: ONNX files' bytes by manifest key.
        device: where they run.
        stop: ends a running call when a signal arrives.
        batch_size: windows in every call; None where calls differ.

    Raises:
        DeviceError: the device was not granted, or not for every node.
        BundleError: onnxruntime cannot load a graph.
    """

    def session(name: str) -> GraphSession:
        return open_session(graphs[name], name, device, threads=1, stop=stop, batch_size=batch_size)

    if device.kind == "cuda" and batch_size is not None:
        encoder, step, graph = session("encoder"), session("decoder_step"), graphs["decoder_step"]
        capturing = open_capturing(graph, "decoder_step", device, threads=1, stop=stop, batch_size=batch_size)
        return ResidentLoop(manifest, encoder, step, capturing, batch_size)
    if "fused" in graphs:
        fused, names, horizon, targets = (
            session("fused"),
            manifest.fused_tensors(),
            manifest.horizon,
            manifest.target_width,
        )
        return lambda batch, teacher: decode_fused(fused, names, horizon, batch, teacher=teacher, targets=targets)
    encoder, step = session("encoder"), session("decoder_step")
    return lambda batch, teacher: decode(encoder, step, manifest, batch, teacher=teacher)


def replay_golden(forecaster: Forecaster, audited: AuditedBundle, precision: Precision) -> float:
    """Forecast the golden windows again.

    Returns:
        The largest difference from the certified forecasts, in units of the target's deviation.

    Raises:
        BundleError: they differ by more than the manifest allows.
    """
    manifest, golden = audited.manifest, audited.golden[precision]
    try:
        found = forecaster.predict(golden.windows, teacher=False)
    except InterruptedRunError:
        raise
    except FreerunError as error:
        raise BundleError(explain(f"the graphs of {audited.path} do not run", got=error)) from error
    difference = float(np.max(np.abs(found - golden.certified) / np.tile(manifest.scales, manifest.horizon)))
    if not difference <= manifest.tolerances.golden:  # NaN is no agreement either
        other = "--precision fp32 where the processor has no VNNI, or " if precision == "int8" else ""
        raise BundleError(
            explain(
                "the golden windows do not come out as certified on this machine",
                got=f"a largest difference of {difference:.3g} deviations of the target",
                expected=f"at most {manifest.tolerances.golden:.3g}",
                remedy=f"{other}use the onnxruntime version that the manifest names, or export the bundle again",
            )
        )
    return difference
