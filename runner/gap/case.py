"""Forecasts that are to be explained, and what others would look like."""

from dataclasses import dataclass

import numpy as np

from runner.batch import F32, WindowBatch
from runner.gap.machine import Encoded, Hooks, Machine, unroll

PARITY = 1e-5
RESOLUTION_STEPS = 4
"""Forecasts are the same within PARITY deviations of the target, or so many float32 steps at their level."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """What would be forecast if one thing were done wrong.

    Attributes:
        key: of the fault.
        said: what was done wrong and what to do about it, a sentence or two.
        prediction: in raw units, NaN where the fault leaves it open [N, H].
    """

    key: str
    said: str
    prediction: F32


@dataclass(frozen=True, slots=True)
class Case:
    """Forecasts that somebody made, and the machine that should have made them.

    Attributes:
        machine: encoder and step.
        batch: windows without rejects [N, ...].
        given: the forecasts to explain, in raw units [N, H].
        encoded: what the encoder makes of the windows.
        inputs: what the decoder of a right loop that forecasts `given` is fed [N, H].
        right: what the machine itself forecasts [N, H].
        free: each prediction was the next input; False = teacher-forced.
        scale: deviation of the target.
    """

    machine: Machine
    batch: WindowBatch
    given: F32
    encoded: Encoded
    inputs: F32
    right: F32
    free: bool
    scale: float

    @property
    def allowed(self) -> float:
        """Return the largest difference between forecasts that are the same, in deviations of the target."""
        return tolerance(float(np.abs(self.given).max()), self.scale)

    def run(self, inputs: F32 | None = None, hooks: Hooks | None = None, future: F32 | None = None) -> F32:
        """Run the loop with something changed; return predictions [N, H]."""
        known = self.batch.future_known if future is None else future
        return unroll(self.machine, self.encoded, known, self.inputs if inputs is None else inputs, hooks)


def tolerance(level: float, scale: float) -> float:
    """Return the largest difference between forecasts that are the same, in target deviations.

    Args:
        level: the largest absolute forecast.
        scale: deviation of the target.
    """
    return max(PARITY, RESOLUTION_STEPS * float(np.spacing(np.float32(level))) / scale)


def case_of(machine: Machine, batch: WindowBatch, given: F32, teacher: F32 | None, scale: float) -> Case:
    """Return the case that some forecasts are.

    Args:
        machine: what should have made them.
        batch: windows without rejects [N, ...].
        given: the forecasts, in raw units [N, H].
        teacher: what the decoder was to be fed [N, H]; None = its own predictions.
        scale: deviation of the target.
    """
    encoded = machine.encode(batch)
    inputs = teacher if teacher is not None else shifted_in(encoded.previous, given)
    right = unroll(machine, encoded, batch.future_known, teacher)
    return Case(machine, batch, given, encoded, inputs, right, teacher is None, scale)


def shifted_in(first: F32, values: F32) -> F32:
    """Return what a decoder is fed that begins with `first` [N, M] and goes on with `values`, in [N, H * M] both."""
    return np.ascontiguousarray(np.concatenate([first, values[:, : -first.shape[1]]], axis=1), np.float32)
