"""Fill the places of rejects with a naive forecast, where enough of their past is known for one."""

import numpy as np

from runner.batch import F32, GOOD, Bool, WindowBatch
from runner.config import Fallback
from runner.score import naive_last, naive_seasonal


def fill(
    batch: WindowBatch, prediction: F32, kind: Fallback, features: tuple[int, ...], season_length: int | None
) -> tuple[F32, Bool]:
    """Forecast the rejects naively.

    Args:
        batch: windows with `naive`, which says what is known of their targets' past [B, ...].
        prediction: the model's forecasts in raw units [B, H * M].
        kind: repeat the last known value, or that of a season ago.
        features: index of each target among the past features [M].
        season_length: steps of a season; needed for the seasonal one.

    Returns:
        The forecasts, those of good rows as they were [B, H * M]; and which of the others were filled [B].
    """
    filled = np.zeros(len(batch), bool)
    if batch.naive is None or not (batch.reasons != GOOD).any():
        return prediction, filled
    filled = (batch.reasons != GOOD) & np.all(batch.naive.any(axis=1), axis=1)
    rows, horizon = np.flatnonzero(filled), prediction.shape[1] // len(features)
    each = np.empty((len(rows), horizon, len(features)))
    for index, feature in enumerate(features):
        past, known = batch.past[rows, :, feature].astype(np.float64), batch.naive[rows, :, index]
        if kind == "seasonal" and season_length is not None:
            each[:, :, index] = naive_seasonal(past, known, horizon, season_length)
        else:
            each[:, :, index] = naive_last(past, known)[:, None]
    found = prediction.copy()
    found[rows] = each.reshape(len(rows), prediction.shape[1])
    return found, filled
