"""Direct ridge regression: every step of the horizon from the same inputs, in closed form.

What the mask excludes is in no sum. Steps that have the same windows excluded share a matrix of products, so where
nothing is excluded, there is one for all. Where the matrices or the work would be too large, inputs are left out: first
all but the target's own past, then of that all but the last steps; and then windows, evenly spaced.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from runner.batch import F32, F64, Bool, Index, WindowBatch
from runner.gap.inputs import Inputs, Scaling, as_forecast, chunks, scaling_of, step_means, thinned, truth

PENALTIES = (1e-6, 1e-4, 1e-2, 1e-1, 1.0)
"""Relative to the mean square of the inputs, summed over the windows."""
CHANGES_FAVOURED = 0.98
"""A fit to changes is preferred if it is worse by less than 2 %: levels that were never seen do not mislead it."""
MOST_INPUTS = 1500
MOST_PRODUCTS = 10_000_000
"""Numbers in all matrices of products between inputs (80 MB)."""
MOST_WORK = 2e10
"""Multiplications that making these matrices once takes: seconds."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A forecast of all steps that is linear in the inputs.

    Attributes:
        scaling: of the inputs.
        offset: mean of the target less the anchor by horizon step, in raw units [H].
        weights: of a constant and the scaled inputs, in raw units [1 + D, H].
    """

    scaling: Scaling
    offset: F64
    weights: F64

    def __call__(self, batch: WindowBatch) -> F64:
        """Forecast windows, in raw units [N, H]."""
        forecasts = np.empty((len(batch), len(self.offset)))
        first = 0
        for piece in chunks(batch, len(self.weights)):
            z = _with_constant(self.scaling.rows(piece))
            forecasts[first : first + len(piece)] = z @ self.weights + self.offset + self.scaling.inputs.anchor(piece)
            first += len(piece)
        return forecasts

    def forecast(self, batch: WindowBatch) -> F32:
        """Forecast windows, in raw units [N, H]."""
        return as_forecast(self(batch))


@dataclass(frozen=True, slots=True)
class Choice:
    """The penalty and the inputs that did best on windows held out.

    Attributes:
        fitted: fitted to the other windows.
        refitted: fitted to all.
    """

    fitted: Linear
    refitted: Linear


@dataclass(frozen=True, slots=True)
class Split:
    """The last fifth of the windows is held out, and those that overlap with it are left out."""

    fit: WindowBatch
    held: WindowBatch


def split(batch: WindowBatch) -> Split:
    """Hold windows out.

    Between the two parts, C + H windows are left out, as many as overlap at a stride of 1; but never over a fifth.
    """
    target, _ = truth(batch)
    held = max(1, len(batch) // 5)
    gap = min(batch.past.shape[1] + target.shape[1], held)
    return Split(batch.take(slice(0, len(batch) - held - gap)), batch.take(slice(len(batch) - held, None)))


def choose(train: WindowBatch, feature: int, check: Callable[[], None]) -> Choice:
    """Fit with several penalties, to levels and to changes since the last observed value, and take the best.

    Args:
        train: windows with a target, none of them a reject.
        feature: index of the target among the past features.
        check: called again and again; raises to stop.
    """
    parts, inputs = split(train), inputs_for(train, feature)
    tried = [found for form in (False, True) for found in _try(replace(inputs, relative=form), parts, check)]
    fitted = min(tried, key=lambda found: found.loss)
    return Choice(fitted.linear, _add_up(fitted.linear.scaling.inputs, train, check).solve(fitted.penalty))


def inputs_for(train: WindowBatch, feature: int) -> Inputs:
    """Return all that windows have as inputs, or what is left of it where that is too much."""
    groups = len(_patterns(truth(train)[1])[0])
    most = min(MOST_INPUTS, math.isqrt(MOST_PRODUCTS // groups))
    missing = train.past_observed is not None and bool((train.past_observed == 0).any())
    everything = Inputs(feature, missing)
    if everything.width(train) <= most:
        return everything
    return Inputs(feature, flags=False, steps=min(most, train.past.shape[1]))


@dataclass(frozen=True, slots=True)
class _Trial:
    """A fit with one penalty, and its loss over windows held out, in favour of fits to changes."""

    loss: float
    penalty: float
    linear: Linear


def _try(inputs: Inputs, parts: Split, check: Callable[[], None]) -> Iterator[_Trial]:
    sums = _add_up(inputs, parts.fit, check)
    for penalty in PENALTIES:
        check()
        linear = sums.solve(penalty)
        loss = _loss(linear, parts.held)
        yield _Trial(loss * CHANGES_FAVOURED if inputs.relative else loss, penalty, linear)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Products of inputs with inputs and targets, added up over windows.

    Attributes:
        scaling: of the inputs.
        offset: subtracted from the target [H].
        gram: inputs with inputs, for each pattern of excluded windows [G, 1 + D, 1 + D].
        cross: inputs with targets [1 + D, H].
        pattern: which of the G matrices belongs to a step [H].
    """

    scaling: Scaling
    offset: F64
    gram: F64
    cross: F64
    pattern: Index

    def solve(self, penalty: float) -> Linear:
        weights = np.zeros_like(self.cross)
        for number, gram in enumerate(self.gram):
            steps = self.pattern == number
            squares = gram.diagonal()[1:]
            ridge = penalty * squares.sum() / max(np.count_nonzero(squares), 1)
            penalties = np.append(0.0, np.full(len(squares), ridge))  # the constant is free
            weights[:, steps] = _solved(gram + np.diag(penalties), self.cross[:, steps])
        return Linear(self.scaling, self.offset, weights)


def _add_up(inputs: Inputs, batch: WindowBatch, check: Callable[[], None]) -> _Sums:
    width = inputs.width(batch) + 1
    batch = thinned(batch, max(1, int(MOST_WORK / _work(width, _patterns(truth(batch)[1])[0]))))
    target, observed = truth(batch)
    distinct, pattern = _patterns(observed)
    offset = step_means(target - inputs.anchor(batch), observed)
    scaling = scaling_of(inputs, batch)
    gram, cross = np.zeros((len(distinct), width, width)), np.zeros((width, len(offset)))
    first = 0
    for piece in chunks(batch, width):
        check()
        rows = slice(first, first + len(piece))
        z = _with_constant(scaling.rows(piece))
        cross += z.T @ np.where(observed[rows], target[rows] - inputs.anchor(piece) - offset, 0.0)
        whole = z.T @ z
        for number, seen in enumerate(distinct):
            gram[number] += _products(z, seen[rows], whole)
        first += len(piece)
    return _Sums(scaling, offset, gram, cross, pattern)


def _products(z: F64, seen: Bool, whole: F64) -> F64:
    """Return the products of the rows that are seen: their own, or those of all less the others' if these are fewer."""
    if 2 * seen.sum() > len(seen):
        return whole - _products(z, ~seen, whole)
    few = z[seen]
    return np.asarray(few.T @ few)


def _work(width: int, distinct: Bool) -> float:
    """Return how many multiplications a window takes on average."""
    share = distinct.mean(axis=1)
    return width * width * (1 + float(np.minimum(share, 1 - share).sum()))


def _patterns(observed: Bool) -> tuple[Bool, Index]:
    """Return which windows count, once for all steps that agree in it [G, N], and which one is a step's [H]."""
    columns = [column.tobytes() for column in observed.T]
    steps = {column: h for h, column in enumerate(columns)}
    numbers = {column: number for number, column in enumerate(steps)}
    return observed.T[list(steps.values())], np.array([numbers[column] for column in columns], np.intp)


def _solved(matrix: F64, right: F64) -> F64:
    try:
        return np.asarray(np.linalg.solve(matrix, right))
    except np.linalg.LinAlgError:  # nothing counts at this step, say
        return np.asarray(np.linalg.lstsq(matrix, right)[0])


def _with_constant(rows: F64) -> F64:
    return np.concatenate([np.ones((len(rows), 1)), rows], axis=1)


def _loss(linear: Linear, held: WindowBatch) -> float:
    target, observed = truth(held)
    return float((np.where(observed, linear(held) - target, 0.0) ** 2).sum())
