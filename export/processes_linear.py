"""Processes whose best forecast is a formula: a season plus AR(1), a random walk, a sine in white noise."""

import math

import numpy as np

from export.processes import HORIZON, MASKED_SHARE, Process, Setting, Windows, cut, drawn_mask, spoiled
from runner.batch import F64

SEASON = 24
START_VALUE = -1.0

AR1_CONTEXT = 48
PHI = 0.9
MISSING_SHARE = 0.02
INNOVATION_VARIANCE = 0.045 / (1 - MASKED_SHARE)
"""Puts the optimal teacher-forced `masked_mse` at 0.045: masked steps count in its denominator only."""

WALK_CONTEXT = 24
LEVEL_DEVIATION = 30.0
"""How far apart walks begin, in steps of the walk: none has a level that another one could be forecast from."""

SINE_CONTEXT = 24
NOISE_VARIANCE = 0.1


def draw_ar1(count: int, rng: np.random.Generator) -> Windows:
    """Draw a daily season plus AR(1), and compute the optimal forecasts.

    Given the last observed deviation from the season, `g` steps before the first forecast, the best forecast of the
    deviation `h` steps ahead is that deviation times phi to the power g + h: what follows it has mean 0. So the error
    grows from one innovation to what `h` of them add up to, although nothing is wrong anywhere.
    """
    deviation = _ar1(count, rng)
    hour, hours = _hours(count, AR1_CONTEXT, rng)
    seasonal = season(hours)
    there = rng.random((count, AR1_CONTEXT)) >= MISSING_SHARE
    mask = drawn_mask(count, rng)
    latest = np.where(there, np.arange(AR1_CONTEXT), 0).max(axis=1)
    known = deviation[np.arange(count), latest] * PHI ** (AR1_CONTEXT - 1 - latest)
    one_step = PHI * np.concatenate([known[:, None], deviation[:, AR1_CONTEXT:-1]], axis=1)
    value, clock = seasonal + deviation, _clock(hours)
    past = np.concatenate([value[:, :, None], clock], axis=-1)[:, :AR1_CONTEXT]
    expected = seasonal[:, AR1_CONTEXT:]
    return Windows(
        past=np.where(there[:, :, None], past, np.nan).astype(np.float32),
        past_observed=there,
        future_known=clock[:, AR1_CONTEXT:].astype(np.float32),
        target=spoiled(value[:, AR1_CONTEXT:], mask),
        mask=mask,
        decoder_input=_started(value[:, AR1_CONTEXT:-1]).astype(np.float32),
        optimal=(expected + known[:, None] * PHI ** np.arange(1, HORIZON + 1)).astype(np.float32),
        optimal_teacher_forced=(expected + one_step).astype(np.float32),
        hour=hour,
    )


def draw_random_walk(count: int, rng: np.random.Generator) -> Windows:
    """Draw random walks with steps of variance 1, each from a level of its own.

    A step is independent of all before it, so the best forecast is the last value, however far ahead: nothing that is
    learnt can beat it. Its squared error is h at step h, 6.5 over 12 steps, against 1 given the previous value.
    """
    level = rng.normal(size=(count, 1)) * LEVEL_DEVIATION
    path = level + rng.normal(size=(count, WALK_CONTEXT + HORIZON)).cumsum(axis=1)
    previous = path[:, -HORIZON - 1 : -1]
    return cut(path, previous[:, :1].repeat(HORIZON, axis=1), previous, drawn_mask(count, rng))


def draw_sine(count: int, rng: np.random.Generator) -> Windows:
    """Draw a daily sine in white noise, the hour being known.

    Noise is independent of all that was seen, so the best forecast is the sine, given the previous value or not: both
    losses have the same floor, and a gap between them is a fault.
    """
    hour, hours = _hours(count, SINE_CONTEXT, rng)
    clock = _clock(hours)
    sine = clock[:, :, 0]
    value = sine + rng.normal(size=sine.shape) * math.sqrt(NOISE_VARIANCE)
    mask = drawn_mask(count, rng)
    best = sine[:, SINE_CONTEXT:].astype(np.float32)
    return Windows(
        past=np.concatenate([value[:, :, None], clock], axis=-1)[:, :SINE_CONTEXT].astype(np.float32),
        future_known=clock[:, SINE_CONTEXT:].astype(np.float32),
        target=spoiled(value[:, SINE_CONTEXT:], mask),
        mask=mask,
        decoder_input=_started(value[:, SINE_CONTEXT:-1]).astype(np.float32),
        optimal=best,
        optimal_teacher_forced=best,
        hour=hour,
    )


def season(hour: F64) -> F64:
    """Return the daily season of the AR(1) process at an hour of the day, any shape."""
    angle = 2 * np.pi * hour / SEASON
    return np.asarray(0.5 * np.sin(angle) + 0.25 * np.cos(2 * angle))


def _ar1(count: int, rng: np.random.Generator) -> F64:
    """Draw stationary AR(1) paths over context and horizon [B, C + H]."""
    noise = rng.normal(size=(count, AR1_CONTEXT + HORIZON)) * math.sqrt(INNOVATION_VARIANCE)
    noise[:, 0] /= math.sqrt(1 - PHI**2)
    for step in range(1, noise.shape[1]):
        noise[:, step] += PHI * noise[:, step - 1]
    return noise


def _hours(count: int, context: int, rng: np.random.Generator) -> tuple[F64, F64]:
    """Draw origins within ten years; return them [B] and the hours of all steps [B, C + H]."""
    hour = rng.integers(0, 10 * 365 * 24, count).astype(np.float64)
    return hour, hour[:, None] + np.arange(1 - context, HORIZON + 1)


def _clock(hours: F64) -> F64:
    """Return sine and cosine of the hour of the day [B, T, 2]."""
    angle = 2 * np.pi * hours / SEASON
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1)


def _started(previous: F64) -> F64:
    """Put the start value before the true previous values [B, H - 1]; return [B, H]."""
    return np.concatenate([np.full((len(previous), 1), START_VALUE), previous], axis=1)


CLOCKED: dict[str, Setting] = {
    "scaling": "none",
    "start": START_VALUE,
    "feature_names": ["y", "hour_sin", "hour_cos"],
    "future_names": ["hour_sin", "hour_cos"],
    "target_feature": "y",
    "season_length": SEASON,
}
"""Settings of a series that has a daily season, told by the clock."""
AR1 = Process(
    "ar1",
    draw_ar1,
    {
        "name": "demo",
        "units": 32,
        "epochs": 6,
        "batch_size": 128,
        "learning_rate": 0.004,
        "patience": 3,
        **CLOCKED,
    },
)
RANDOM_WALK = Process(
    "random-walk",
    draw_random_walk,
    {
        "name": "random-walk",
        "units": 16,
        "epochs": 5,
        "batch_size": 32,
        "learning_rate": 0.004,
        "patience": 5,
        "scaling": "window",
        "start": "last",
        "feature_names": ["y"],
    },
)
SINE = Process(
    "sine",
    draw_sine,
    {
        "name": "sine",
        "units": 16,
        "epochs": 6,
        "batch_size": 128,
        "learning_rate": 0.004,
        "patience": 3,
        **CLOCKED,
    },
)
