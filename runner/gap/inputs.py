"""Windows as rows of numbers, for forecasters that are fitted to the whole horizon at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from runner.batch import F32, F64, Bool, WindowBatch
from runner.score import naive_last

CHUNK_NUMBERS = 1 << 21
"""Inputs that are made at once (16 MB)."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Which numbers of a window a forecaster is fed, and what they are relative to.

    Attributes:
        feature: index of the target among the past features.
        flags: which steps of the context are missing is told too.
        steps: the target's own past alone is fed, and of it only so many last steps; None = all that a window has.
        relative: the last observed value is subtracted from the target and its past, so a level is of no account.
    """

    feature: int
    flags: bool
    steps: int | None = None
    relative: bool = False

    def rows(self, batch: WindowBatch) -> F64:
        """Return the inputs of these windows [N, D]."""
        past = filled(batch)
        past[:, :, self.feature] -= self.anchor(batch)
        if self.steps is not None:
            return np.ascontiguousarray(past[:, -self.steps :, self.feature])
        parts = [past, batch.past_observed if self.flags else None, batch.future_known]
        return np.concatenate([part.reshape(len(batch), -1) for part in parts if part is not None], axis=1, dtype=float)

    def anchor(self, batch: WindowBatch) -> F64:
        """Return what the target is relative to, in raw units [N, 1]."""
        if not self.relative:
            return np.zeros((len(batch), 1))
        past = batch.past[:, :, self.feature].astype(np.float64)
        return naive_last(past, there(batch))[:, None]

    def width(self, batch: WindowBatch) -> int:
        """Return D."""
        return len(self.rows(batch.take(slice(0, 1)))[0])


@dataclass(frozen=True, slots=True)
class Scaling:
    """Inputs less their mean, in units of their deviation; an input that never varied becomes 0.

    Attributes:
        inputs: of which windows are made.
        mean: [D].
        factor: one over the deviation, 0 where it is 0 [D].
    """

    inputs: Inputs
    mean: F64
    factor: F64

    def rows(self, batch: WindowBatch) -> F64:
        """Return the scaled inputs of these windows [N, D]."""
        return np.asarray((self.inputs.rows(batch) - self.mean) * self.factor)


def scaling_of(inputs: Inputs, batch: WindowBatch) -> Scaling:
    """Measure mean and deviation of the inputs of these windows."""
    first = inputs.rows(batch.take(slice(0, 1)))[0]  # subtracted, so that a high level costs no digits
    total, squares = np.zeros((2, len(first)))
    for piece in chunks(batch, len(first)):
        rows = inputs.rows(piece) - first
        total += rows.sum(axis=0)
        squares += (rows * rows).sum(axis=0)
    mean = total / len(batch)
    deviation = np.sqrt(np.maximum(squares / len(batch) - mean * mean, 0))
    varied = deviation > 1e-7 * np.abs(first + mean)
    return Scaling(inputs, first + mean, np.divide(1, deviation, out=np.zeros_like(mean), where=varied))


def filled(batch: WindowBatch) -> F64:
    """Return the past with the last observed values where steps are missing, or the first where none came before.

    Returns:
        In raw units [N, C, F].
    """
    past, known = batch.past.astype(np.float64), there(batch)
    if known.all():
        return past
    latest = np.maximum.accumulate(np.where(known, np.arange(past.shape[1]), -1), axis=1)
    latest = np.where(latest < 0, known.argmax(axis=1)[:, None], latest)
    return past[np.arange(len(past))[:, None], latest]


def there(batch: WindowBatch) -> Bool:
    """Return which steps of the context are there [N, C]."""
    if batch.past_observed is None:
        return np.ones(batch.past.shape[:2], bool)
    return np.asarray(batch.past_observed == 1)


def truth(batch: WindowBatch) -> tuple[F64, Bool]:
    """Return target and observed [N, H] of windows that have them."""
    if batch.target is None or batch.observed is None:
        raise ValueError("a forecaster is fitted to windows with a target")
    return batch.target, batch.observed


def step_means(values: F64, observed: Bool) -> F64:
    """Return the means of the observed cells by horizon step [H]; the mean of all where a step has none."""
    counts = observed.sum(axis=0)
    sums = np.where(observed, values, 0.0).sum(axis=0)
    everything = sums.sum() / max(counts.sum(), 1)
    means = np.full(len(sums), everything)
    return np.asarray(np.divide(sums, counts, out=means, where=counts > 0))


def thinned(batch: WindowBatch, most: int) -> WindowBatch:
    """Return at most `most` of the windows, evenly spaced."""
    return batch.take(slice(None, None, max(1, -(-len(batch) // most))))


def chunks(batch: WindowBatch, width: int) -> Iterator[WindowBatch]:
    """Yield the windows in order, so many at once that their inputs [B, width] take little memory."""
    size = max(1, CHUNK_NUMBERS // max(width, batch.past[0].size, 1))
    for first in range(0, len(batch), size):
        yield batch.take(slice(first, first + size))


def as_forecast(values: F64) -> F32:
    """Return a forecast as float32, with the largest numbers there are where it is larger."""
    largest = np.finfo(np.float32).max
    return np.clip(values, -largest, largest).astype(np.float32)
