"""Loops whose steps are fed the wrong values, or whose forecasts are written down wrongly."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from runner.batch import F32, F64, WindowBatch
from runner.decode import teacher_inputs
from runner.gap.case import Alternative, Case, shifted_in

FEWEST_FOR_A_LINE = 4
"""Through fewer steps a line of each window's own goes nearly always."""
FLAT = 1e-3
"""A line that rises by less than this, in target deviations, explains nothing."""
NO_FACTOR = 1e-6
"""Another unit's factor that is as near to 1 is rounding."""
NEAR = 1e-2
"""A line of each window's own comes nearer than other faults in any case; further off than this, it is not told."""


def never_fed_back(case: Case) -> Iterator[Alternative]:
    """Simulate loops in which no prediction is the next input."""
    if not case.free:
        return
    start, zeros = case.inputs[:, :1], np.zeros_like(case.inputs)
    for later, name in ((zeros + start, "the start value"), (zeros, "0"), (zeros + 1, "1"), (zeros - 1, "-1")):
        for first in (start, later[:, :1]):
            said = f"The decoder was fed {name} instead of its predictions; feed each one to the next step."
            yield Alternative("not_fed_back", said, case.run(shifted_in(first, later)))


def teacher_forced(case: Case) -> Iterator[Alternative]:
    """Simulate that the truth was fed, in each form in which the data has it."""
    batch, start = case.batch, case.encoded.previous
    if not case.free or batch.target is None or batch.observed is None:
        return
    said = (
        "The true previous targets were fed, so this is teacher forcing and no forecast that production could make; "
        "feed the predictions."
    )
    known = [teacher_inputs(start, batch), shifted_in(start, batch.target.astype(np.float32))]
    known += [] if batch.decoder_input is None else [batch.decoder_input, teacher_inputs(start, _without_own(batch))]
    for inputs in known:
        yield Alternative("teacher_forced", said, case.run(inputs))


def _without_own(batch: WindowBatch) -> WindowBatch:
    return replace(batch, decoder_input=None)


def shifted_inputs(case: Case) -> Iterator[Alternative]:
    """Simulate loops that feed the value of another step."""
    batch, inputs = case.batch, case.inputs
    what = "prediction was fed back" if case.free else "previous target was fed"
    said = f"Each {what} one step too late (step h was fed that of step h - 2); feed that of the step before."
    yield Alternative("inputs_shifted", said, case.run(shifted_in(inputs[:, :1], inputs)))
    if batch.target is None or batch.observed is None:
        return
    true = teacher_inputs(case.encoded.previous, batch)
    said = "The decoder was fed the target of the very step that it forecasts; feed that of the step before."
    current = np.concatenate([true[:, 1:], batch.target[:, -1:].astype(np.float32)], axis=1)
    unknown = np.zeros(current.shape, bool)
    unknown[:, -1] = ~batch.observed[:, -1]
    yield Alternative("inputs_shifted", said, np.where(unknown, np.float32(np.nan), case.run(current)))
    if case.free:
        said = "The decoder was fed the true targets of two steps before; feed its own predictions of the step before."
        yield Alternative("inputs_shifted", said, case.run(shifted_in(true[:, :1], true)))


def shifted_future(case: Case) -> Iterator[Alternative]:
    """Simulate loops that read the covariates of another step."""
    known = case.batch.future_known
    if known is None:
        return
    said = "future_known was read one step too {}; step h needs the covariates of step h."
    late, early = known[:, :-1], known[:, 1:]
    zeros = np.zeros_like(known[:, :1])
    for edge in (known[:, :1], zeros, known[:, -1:]):
        moved = np.concatenate([edge, late], axis=1)
        yield Alternative("inputs_shifted", said.format("late"), case.run(future=moved))
    for edge in (known[:, -1:], zeros, known[:, :1]):
        moved = np.concatenate([early, edge], axis=1)
        yield Alternative("inputs_shifted", said.format("early"), case.run(future=moved))


def moved(case: Case) -> Iterator[Alternative]:
    """Take the right forecasts, written down in the wrong place or in other units."""
    right, open_end = case.right, np.full_like(case.right[:, :1], np.nan)
    if right.shape[1] > 1:
        said = "The forecasts are right, but stand one step too {} in their column; move them."
        late, early = (
            np.concatenate([open_end, right[:, :-1]], axis=1),
            np.concatenate([right[:, 1:], open_end], axis=1),
        )
        yield Alternative("inputs_shifted", said.format("late"), late)
        yield Alternative("inputs_shifted", said.format("early"), early)
    line = _line(right.ravel()[None], case.given.ravel()[None], case.scale)
    slope, offset = (float(found[0, 0]) for found in line)
    yield Alternative("scaling_dropped", _in_units(slope, offset, case.allowed * case.scale), _on(line, right))
    if right.shape[1] >= FEWEST_FOR_A_LINE:
        said = "The forecasts are right, but in units of each window's own scale; unscale them."
        prediction = _on(_line(right, case.given, case.scale), right)
        if np.abs(prediction.astype(np.float64) - case.given).max() < NEAR * case.scale:
            yield Alternative("scaling_dropped", said, prediction)


def _in_units(slope: float, offset: float, nothing: float) -> str:
    """Say how forecasts in other units are made of the right ones; an offset below `nothing` is rounding."""
    if abs(slope - 1) < NO_FACTOR:
        return f"The forecasts are right, but {offset:+.4g} was added to each; take it off."
    rest = "" if abs(offset) < nothing else f", {'plus' if offset > 0 else 'less'} {abs(offset):.4g}"
    return f"The forecasts are right, but in other units: each is {slope:.6g} times the right one{rest}; unscale them."


def _line(x: F32, y: F32, scale: float) -> tuple[F64, F64]:
    """Fit a line through each row, infinite where it is flat; return slopes and offsets, both [rows, 1]."""
    first, second = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = first.mean(axis=1, keepdims=True), second.mean(axis=1, keepdims=True)
    spread = ((first - mean_x) ** 2).sum(axis=1, keepdims=True)
    slope = ((first - mean_x) * (second - mean_y)).sum(axis=1, keepdims=True) / np.where(spread > 0, spread, 1.0)
    rise = np.abs(slope) * np.ptp(first, axis=1, keepdims=True)
    return slope, np.where(rise > FLAT * scale, mean_y - slope * mean_x, np.inf)


def _on(line: tuple[F64, F64], x: F32) -> F32:
    slope, offset = line
    with np.errstate(over="ignore"):  # beyond float32 it is infinitely far from any forecast
        return (slope * x + offset).astype(np.float32)
