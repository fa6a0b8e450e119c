"""Loops that begin with the wrong value: the usual ones, and the constant that fits best."""

from collections.abc import Iterator

import numpy as np

from runner.batch import F32, F64
from runner.gap.case import Alternative, Case
from runner.score import naive_last

FEW_WINDOWS = 32
GRID = np.concatenate([np.linspace(-10, 10, 201), np.arange(-100, 101, 10)])
FINER = 33
DIGITS = 6
ROUNDS = 7
"""Each makes the grid 16 times as fine: 0.1 becomes less than float32 can tell."""


def wrong_starts(case: Case) -> Iterator[Alternative]:
    """Simulate loops that begin with something else than the start value."""
    right = case.encoded.previous
    meant = f"{right[0, 0]:.6g}" if np.ptp(right) == 0 else "the window's own start value"
    for first, name in _candidates(case):
        if np.abs(first - right).max() > 0:
            said = f"The decoder's first input was {name}, not {meant}; begin as the training did."
            yield Alternative("start_value", said, case.run(np.concatenate([first, case.inputs[:, 1:]], axis=1)))


def _candidates(case: Case) -> Iterator[tuple[F32, str]]:
    batch, like = case.batch, np.zeros_like(case.encoded.previous)
    for constant in (0.0, 1.0, -1.0):
        yield like + np.float32(constant), f"{constant:g}"
    there = np.ones(batch.past.shape[:2], bool) if batch.past_observed is None else batch.past_observed == 1
    for index in range(batch.past.shape[2]):
        feature = batch.past[:, :, index].astype(np.float64)
        of_which = f"of feature {index} of past"
        yield _column(naive_last(feature, there)), f"the last observed value {of_which}"
        yield _column(batch.past[:, -1, index]), f"the last value {of_which}, missing or not"
        yield _column(naive_last(feature[:, ::-1], there[:, ::-1])), f"the first observed value {of_which}"
        yield _column((feature * there).sum(axis=1) / there.sum(axis=1)), f"the mean {of_which}"
    if batch.target is not None:
        yield _column(batch.target[:, 0]), "the first target itself"
    if batch.decoder_input is not None:
        yield batch.decoder_input[:, :1], "the first value of decoder_input"
    found = fitting_constant(case)
    yield like + np.float32(found), f"{found:.6g}"


def fitting_constant(case: Case) -> float:
    """Return the constant that, as first input, brings step 1 nearest to the forecasts that are to be explained.

    Of those that cannot be told apart it is the one with the fewest digits.
    """
    grid = np.unique(np.concatenate([GRID, float(case.right.mean()) + case.scale * np.linspace(-6, 6, 121)]))
    for _ in range(ROUNDS):
        best = int(np.argmin(_misfits(case, grid)))
        grid = np.linspace(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)], FINER)
    found = float(grid[int(np.argmin(_misfits(case, grid)))])
    shorter = np.array([*(round(found, digits) for digits in range(DIGITS)), found])
    misfits = _misfits(case, shorter)
    return float(shorter[int(np.argmax(misfits <= max(misfits[-1], case.allowed * case.scale)))])


def _misfits(case: Case, constants: F64) -> F64:
    """Return the largest difference at step 1 for each constant [constants]."""
    few = case.batch.take(slice(0, FEW_WINDOWS))
    encoded = case.machine.encode(few).repeated(len(constants))
    known = few.future_known
    future = None if known is None else np.repeat(np.ascontiguousarray(known[:, :1]), len(constants), axis=0)
    previous = np.tile(constants, len(few)).astype(np.float32)[:, None]
    predicted, _ = case.machine.step(previous, future, encoded.state, encoded.memory)
    difference = np.abs(predicted.reshape(len(few), -1) - case.given[: len(few), :1])
    return np.asarray(difference.max(axis=0), np.float64)


def _column(values: F32 | F64) -> F32:
    return np.ascontiguousarray(values[:, None], np.float32)
