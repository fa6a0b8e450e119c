"""Which other way to average the same squared errors gives the loss that training reported."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np

from runner.batch import F32, F64, Bool, WindowBatch
from runner.errors import UsageError, explain

BATCH_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048)
LARGEST_EXPONENT = 300
FINEST = 1e-6
"""Share of a loss that float32 arithmetic may change it by."""


@dataclass(frozen=True, slots=True)
class Reported:
    """A loss as somebody read it off a screen: a number, and how far its last digit lets it be from the true one."""

    loss: float
    resolution: float

    def is_near(self, loss: float) -> bool:
        """Tell whether a loss could be what was reported."""
        if math.isnan(self.loss):
            return math.isnan(loss)
        return abs(loss - self.loss) <= self.resolution + FINEST * abs(loss)


@dataclass(frozen=True, slots=True)
class Averaging:
    """A way to turn squared errors into a loss.

    Attributes:
        key: for scripts.
        text: what was done, in the words of somebody who finds out.
        loss: what it gives on these windows.
    """

    key: str
    text: str
    loss: float


def read_reported(text: str) -> Reported:
    """Read a loss and its number of digits.

    Raises:
        UsageError: it is no number that a loss could be.
    """
    try:
        number = Decimal(text.strip())
        loss = float(number)
    except (InvalidOperation, ValueError):  # a NaN that signals is a number to Decimal, and none to float
        number, loss = Decimal(-1), -1.0
    if math.isinf(loss) or loss < 0:
        raise UsageError(explain("--reported does not fit", got=text, expected="a loss, such as 0.048"))
    exponent = number.as_tuple().exponent
    return Reported(loss, 0.5 * 10.0 ** min(exponent, LARGEST_EXPONENT) if isinstance(exponent, int) else 0.0)


def averagings(batch: WindowBatch, prediction: F32, scale: float, regularisation: float | None) -> list[Averaging]:
    """Average the teacher-forced errors in every way that is known to be mistaken for the masked MSE.

    Args:
        batch: windows with their targets.
        prediction: teacher-forced [N, H].
        scale: the target's deviation.
        regularisation: what the model's regularisers add to Keras' `val_loss`; None where that is not known.
    """
    if batch.target is None or batch.observed is None:
        raise ValueError("a loss needs targets")
    error = prediction.astype(np.float64) - batch.target
    squared = np.where(batch.observed, error**2, 0.0)
    exact, cells = float(squared.mean()), squared.size
    absolute = float(np.abs(error)[batch.observed].sum()) / cells
    found = [
        Averaging(
            "denominator", "divided by the steps that count, not by all of them", _over(squared, batch.observed.sum())
        ),
        Averaging("denominator", "summed over the horizon, not averaged", exact * batch.observed.shape[1]),
        Averaging(
            "mask_multiplied",
            "the target multiplied by the mask and the error of excluded steps counted: 0 was taken for their truth",
            float(np.square(prediction.astype(np.float64) - np.where(batch.observed, batch.target, 0.0)).mean()),
        ),
        Averaging("mask_multiplied", "a mask multiplied where it should select: NaN times 0 is NaN", math.nan),
        Averaging("units", "measured in deviations of the target, not in its unit", exact / scale**2),
        Averaging("root", "the root of the mean", math.sqrt(exact)),
        Averaging("absolute", "absolute errors, not squared ones", absolute),
        *_batch_means(squared, batch.observed),
    ]  # fmt: skip
    if regularisation:
        text = f"regularisation terms ({regularisation:.6g}) inside Keras' val_loss"
        found.insert(0, Averaging("regularisation", text, exact + regularisation))
    return found


def _batch_means(squared: F64, observed: Bool) -> Iterator[Averaging]:
    """Average each batch by itself, then the batches: wrong where they count different numbers of steps."""
    for size in BATCH_SIZES:
        starts = np.arange(0, len(squared), size)
        if len(starts) < 2:
            return
        sums = np.add.reduceat(squared.sum(axis=1), starts)
        counts, rows = np.add.reduceat(observed.sum(axis=1), starts), np.diff(np.append(starts, len(squared)))
        there = counts > 0
        text = f"a mean of the means of batches of {size}"
        yield Averaging(
            "batch_means", f"{text}, each over the steps that count", float((sums[there] / counts[there]).mean())
        )
        if rows[-1] != size:
            yield Averaging(
                "batch_means", f"{text}, the last one smaller", float((sums / (rows * squared.shape[1])).mean())
            )


def _over(squared: F64, count: int) -> float:
    return float(squared.sum() / count) if count else math.nan
