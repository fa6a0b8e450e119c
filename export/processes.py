"""What a process with a known floor is: something that draws windows, and what to train on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from runner.batch import F32, F64, Bool

HORIZON = 12
MASKED_SHARE = 0.15
SPOILED = 1e3
"""What stands in `target` where the mask excludes it: a leak cannot go unnoticed."""

Setting = str | int | float | list[str]


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows drawn independently of each other (B windows, C context, H = 12).

    Attributes:
        past: the value first, covariates after it, NaN where a step is missing [B, C, F].
        target: the truth, spoiled where the mask excludes it [B, H].
        decoder_input: the start value, then the true previous values, never spoiled [B, H].
        optimal: the best forecast that the context allows [B, H].
        optimal_teacher_forced: the best one-step forecasts, given exactly `decoder_input` as well [B, H].
        past_observed: False = that step is missing; None = none is [B, C].
        future_known: what is known of the horizon beforehand, if anything [B, H, K].
        mask: True = excluded; None = nothing is [B, H].
        hour: hours since the epoch of the last context step, where the process knows the time of day [B].
    """

    past: F32
    target: F32
    decoder_input: F32
    optimal: F32
    optimal_teacher_forced: F32
    past_observed: Bool | None = None
    future_known: F32 | None = None
    mask: Bool | None = None
    hour: F64 | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A process whose optimal forecast is known.

    Attributes:
        draw: draws a number of windows; what it draws depends on the generator alone.
        settings: a training config under which a small model comes near the floor.
    """

    name: str
    draw: Callable[[int, np.random.Generator], Windows]
    settings: Mapping[str, Setting]


def cut(path: F64, optimal: F64, one_step: F64, mask: Bool | None = None) -> Windows:
    """Cut paths into context and horizon; the start value is the last value of the context.

    Args:
        path: values, one path a window [B, C + H].
        optimal: the best forecast from the origin [B, H].
        one_step: the best forecast from each previous value [B, H].
        mask: True = excluded [B, H].
    """
    horizon = optimal.shape[1]
    return Windows(
        past=path[:, :-horizon, None].astype(np.float32),
        target=spoiled(path[:, -horizon:], mask),
        decoder_input=path[:, -horizon - 1 : -1].astype(np.float32),
        optimal=optimal.astype(np.float32),
        optimal_teacher_forced=one_step.astype(np.float32),
        mask=mask,
    )


def drawn_mask(count: int, rng: np.random.Generator) -> Bool:
    """Draw what is excluded, 15 % of all steps [B, H]."""
    return rng.random((count, HORIZON)) < MASKED_SHARE


def spoiled(truth: F64, mask: Bool | None) -> F32:
    """Return the truth as float32, spoiled where the mask excludes it [B, H]."""
    return (truth if mask is None else np.where(mask, SPOILED, truth)).astype(np.float32)
