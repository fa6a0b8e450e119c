"""A forecast of the validation windows that has a name, and its squared errors."""

from dataclasses import dataclass

import numpy as np

from runner.batch import F32, F64, WindowBatch

WORST = float(np.finfo(np.float32).max)
"""What is no number counts as this: a network that diverged is worse than any other, but can still be told of."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What somebody, or something, forecasts for the same windows.

    Attributes:
        name: as it stands in the report.
        prediction: in raw units [N, H].
        excess: what its squared errors are too large by, because it is the mean of few paths [N, H]; None = nothing.
    """

    name: str
    prediction: F32
    excess: F64 | None = None


def squared_errors(batch: WindowBatch, forecast: Forecast) -> F64:
    """Return the squared errors [N, H] in float64; 0 where a step does not count."""
    if batch.target is None or batch.observed is None:
        raise ValueError("errors need a target")
    told = np.nan_to_num(forecast.prediction.astype(np.float64), nan=WORST, posinf=WORST, neginf=-WORST)
    error = np.where(batch.observed, told - batch.target, 0.0)
    excess = 0.0 if forecast.excess is None else np.where(batch.observed, forecast.excess, 0.0)
    return np.asarray(error * error - excess)
