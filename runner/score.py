"""Masked errors of a block of forecasts, with the naive forecasts beside them, as sums in float64."""

import numpy as np

from runner.batch import F32, F64, Bool, Feature, WindowBatch, features_of
from runner.totals import ErrorSums, Score


def score_block(batch: WindowBatch, prediction: F32, feature: Feature, season_length: int | None) -> Score | None:
    """Add up the errors of the rows that have a target and a forecast.

    Args:
        batch: windows of one block, rejects included [B, ...].
        prediction: forecasts in raw units [B, H * M]; rows of rejects are ignored.
        feature: index of the target among the past features; of several targets one for each.
        season_length: steps of a season for the seasonal naive forecast; None leaves it out.

    Returns:
        The sums, in row order; None where no row counts. What the mask excludes is left out by selection, never by
        multiplication, so nothing that stands there can leak in.
    """
    rows = batch.good_rows()
    rows = rows[batch.has_target[rows]]
    if batch.target is None or batch.observed is None or not len(rows):
        return None
    target, observed = batch.target[rows], batch.observed[rows]
    features = features_of(feature)
    horizon = target.shape[1] // len(features)
    there = np.ones(batch.past.shape[:2], bool) if batch.past_observed is None else batch.past_observed == 1
    there = there[rows]
    pasts = [batch.past[rows, :, index].astype(np.float64) for index in features]
    last = np.tile(np.stack([naive_last(past, there) for past in pasts], axis=1), horizon)
    seasonal = None
    if season_length is not None:
        each = [naive_seasonal(past, there, horizon, season_length) for past in pasts]
        seasonal = np.stack(each, axis=2).reshape(target.shape)
    return Score(
        windows=len(rows),
        observed=tuple(int(count) for count in observed.sum(axis=0)),
        model=_sums(prediction[rows].astype(np.float64), target, observed),
        last=_sums(last, target, observed),
        seasonal=None if seasonal is None else _sums(seasonal, target, observed),
    )


def naive_last(past: F64, there: Bool) -> F64:
    """Return the last observed value of each context [B], from the target's past and its flags [B, C]."""
    steps = past.shape[1]
    latest = np.where(there, np.arange(steps), -1).max(axis=1)
    return np.asarray(past[np.arange(len(past)), latest])


def naive_seasonal(past: F64, there: Bool, horizon: int, season_length: int) -> F64:
    """Return the value one season before each horizon step, or the latest earlier season's that is there [B, H].

    Where no season of the context has it, the last observed value stands in.
    """
    context = past.shape[1]
    forecast = np.repeat(naive_last(past, there)[:, None], horizon, axis=1)
    for step in range(horizon):
        same_phase = np.arange(context + step - season_length, -1, -season_length)
        for origin in same_phase[same_phase < context][::-1]:  # the latest is written last
            forecast[there[:, origin], step] = past[there[:, origin], origin]
    return forecast


def _sums(prediction: F64, target: F64, observed: Bool) -> ErrorSums:
    error = np.where(observed, prediction - target, 0.0)
    return ErrorSums(
        squared=tuple((error * error).sum(axis=0).tolist()),
        absolute=tuple(np.abs(error).sum(axis=0).tolist()),
        signed=tuple(error.sum(axis=0).tolist()),
    )
