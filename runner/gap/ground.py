"""What an explanation stands on: a bundle, windows, and both ways to decode them."""

import json
from dataclasses import dataclass

import numpy as np

from runner.batch import F32
from runner.bundle import AuditedBundle
from runner.device import Device, cpu_count
from runner.errors import InputError, explain
from runner.forecaster import Decoding, open_forecaster
from runner.gap.forecasts import Forecast, squared_errors
from runner.gap.machine import Machine, machine_of
from runner.gap.windows import LossWindows, digest_of
from runner.manifest import Manifest
from runner.session import open_session
from runner.stop import Stop

BATCH = 128
WIRING = 1e-5
"""A difference of two losses, as a share of the target's variance, above which one of the graphs is not the model."""


@dataclass(frozen=True, slots=True)
class Ground:
    """A bundle's forecasts of the same windows in both modes.

    Attributes:
        teacher_forced: with the teacher's input at every step, by the production loop [N, H].
        free_running: with its own predictions [N, H].
        certified: the Keras model's teacher-forced loss as the certificate has it; None where that is of other windows.
    """

    audited: AuditedBundle
    windows: LossWindows
    teacher_forced: F32
    free_running: F32
    certified: float | None

    @property
    def manifest(self) -> Manifest:
        return self.audited.manifest

    @property
    def scale(self) -> float:
        """Return the target's deviation."""
        return self.manifest.target.scale

    @property
    def tolerance(self) -> float:
        """Return the largest difference of two losses that rounding makes, in squared target units."""
        return max(WIRING, self.manifest.tolerances.parity) * self.scale**2

    def loss(self, prediction: F32) -> float:
        """Return a forecast's masked MSE."""
        return float(squared_errors(self.windows.batch, Forecast("", prediction)).mean())


def stand(audited: AuditedBundle, windows: LossWindows, stop: Stop) -> Ground:
    """Decode the windows in both modes with the loop that production runs.

    Raises:
        BundleError: the golden windows come out differently here.
        InputError: no forecast is finite.
    """
    workers = cpu_count()
    size = min(BATCH, audited.largest_batch("fp32", Device("cpu")))
    with open_forecaster(audited, Decoding(Device("cpu"), "fp32", size, workers), stop) as forecaster:
        forced, free = (
            forecaster.queue(teacher=teacher, check=stop.check).add(windows.batch).result()[0]
            for teacher in (True, False)
        )
    certified, finite = _certified(audited, windows), np.isfinite(forced + free).all(axis=1)
    if not finite.any():
        raise InputError(explain("no forecast is finite", got=f"{len(windows)} windows", remedy="look at their values"))
    return Ground(audited, windows.only(finite), forced[finite], free[finite], certified)


def machine_on(audited: AuditedBundle, stop: Stop) -> Machine:
    """Open the bundle's encoder and step for loops that production does not run."""
    graphs = audited.graphs("fp32")
    encoder, step = (
        open_session(graphs[name], name, Device("cpu"), threads=1, stop=stop) for name in ("encoder", "decoder_step")
    )
    return machine_of(encoder, step, audited.manifest)


def first_step_difference(ground: Ground) -> float:
    """Return by how much the two modes differ at step 1, where both get the start value."""
    return float(np.abs(ground.teacher_forced[:, 0] - ground.free_running[:, 0]).max())


def _certified(audited: AuditedBundle, windows: LossWindows) -> float | None:
    """Read the Keras model's loss off the certificate, if these are the windows that it was measured on."""
    try:
        certificate = json.loads(audited.bundle.content(audited.manifest.certificate))
        same = windows.taken_every == 1 and certificate["windows_digest"] == digest_of([windows.batch])
        return float(certificate["losses"]["keras"]["teacher_forced"]["masked_mse"]) if same else None
    except (ValueError, TypeError, KeyError, RecursionError):  # a bundle that was not written by this export
        return None
