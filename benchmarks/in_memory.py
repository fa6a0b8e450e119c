"""freerun's own loop on arrays that are in memory already; the only place that knows what the loop is called."""

import time
from pathlib import Path

import numpy as np

from runner.batch import F32, WindowBatch
from runner.bundle import audit_bundle, open_bundle
from runner.config import Job
from runner.device import parse_device
from runner.forecaster import open_forecaster
from runner.stop import Stop
from runner.tune import settle


def memory_rate(bundle: Path, precision: str, past: F32) -> tuple[float, F32]:
    """Forecast windows from memory to memory, decoding as `freerun score` would.

    Args:
        bundle: the bundle's folder.
        precision: which of the bundle's forms.
        past: encoder inputs in raw units [B, C, F].

    Returns:
        Windows a second, and the predictions [B, H]. Opening the bundle counts, as it does for `freerun score`: what is
        left between the two is what Parquet, validation, scoring and writing cost.
    """
    windows, device, stop = windows_of(past), parse_device("cpu"), Stop()
    started = time.perf_counter()
    opened = audit_bundle(open_bundle(bundle), precision)
    how = settle(Job(bundle, "", Path(), precision=precision), opened, device, len(past), stop)
    with open_forecaster(opened, how, stop) as forecaster:
        predictions = forecaster.predict(windows, teacher=False)
    return len(past) / (time.perf_counter() - started), predictions


def windows_of(past: F32) -> WindowBatch:
    """Return encoder inputs as a batch without targets."""
    return WindowBatch(
        past=past,
        past_observed=None,
        future_known=None,
        target=None,
        observed=None,
        decoder_input=None,
        has_target=np.zeros(len(past), bool),
        reasons=np.zeros(len(past), np.uint8),
    )
