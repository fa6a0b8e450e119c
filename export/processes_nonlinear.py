"""Processes that are not linear: a noisy map with two wells, and the Mackey-Glass equation, which is chaos."""

from functools import cache

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from export.processes import HORIZON, Process, Windows, cut
from runner.batch import F64

CONTEXT = 24

NOISE = 0.55
"""Deviation of the bistable map's noise; the one-step floor is its square, 0.3025."""
WASHED_OUT = 100
"""Steps after which the bistable map has forgotten where it began."""
GRID = np.linspace(-6.0, 6.0, 2401)
"""Where conditional means are tabulated; the map leads to within 1.3 of 0, so 6 is 8 deviations of noise away."""
NODES = 48

DELAY = 17
SAMPLED_EVERY = 8
TRANSIENT = 500
"""Units of time after which Mackey-Glass is on its attractor."""
SPREAD = 300
"""Units of time within which windows begin, six swings or so: trajectories stay in step with each other for long."""


def draw_bistable(count: int, rng: np.random.Generator) -> Windows:
    """Draw the bistable map y' = 1.3 tanh(1.5 y) + 0.55 e, and compute the optimal forecasts.

    The best forecast `h` steps ahead is the mean of y after h steps given the last value (the map remembers no more):
    between the wells, since noise carries some paths to the other one. The true one-step function fed with its own
    forecasts never leaves its well, so free-running is worse than the floor even for a model without any error.
    """
    path = _bistable(count, rng)
    previous = path[:, -HORIZON - 1 : -1]
    return cut(path, expected_after(previous[:, 0]), bistable_step(previous))


def draw_mackey_glass(count: int, rng: np.random.Generator) -> Windows:
    """Draw the Mackey-Glass equation, delay 17, sampled every 8 units of time, each window of its own trajectory.

    Nothing is random after the start, and 24 samples determine the state (the attractor has some two dimensions): the
    best forecast is the truth, and both floors are 0. What a model scores is its own error, which chaos lets grow: to
    three times the one-step error within the 96 units of the horizon, for the model that `settings` describe.
    """
    path = _mackey_glass(count, rng)
    truth = path[:, -HORIZON:]
    return cut(path, truth, truth)


def bistable_step(value: F64) -> F64:
    """Return the mean of the bistable map's next value, any shape."""
    return np.asarray(1.3 * np.tanh(1.5 * value))


def expected_after(last: F64) -> F64:
    """Return the bistable map's mean after 1 to 12 steps, given the last value [B]; [B, H]."""
    return np.stack([np.interp(last, GRID, mean) for mean in _conditional_means()], axis=1)


def integrate(history: F64, steps: int) -> F64:
    """Integrate dx/dt = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x(t) by RK4 with a step of 1.

    Half a step past a grid point, the delayed value is interpolated by the cubic through the values and slopes around
    it, so that it is as exact as the rest. Slopes within the history count as 0.

    Args:
        history: values at the times -17 to 0 [18, B].
        steps: units of time to go.

    Returns:
        Values at the times 1 to `steps` [steps, B].
    """
    x = np.concatenate([history, np.empty((steps, history.shape[1]))])
    slope = np.zeros_like(x)
    for now in range(DELAY, DELAY + steps):
        late, later = now - DELAY, now - DELAY + 1
        halfway = (x[late] + x[later]) / 2 + (slope[late] - slope[later]) / 8
        gains = [_gain(x[late]), _gain(halfway), _gain(x[later])]
        slope[now], x[now + 1] = _runge_kutta(x[now], *gains)
    return x[DELAY + 1 :]


@cache
def _conditional_means() -> F64:
    """Return E[y after h steps | y] on the grid [H, grid].

    One step of the transition kernel after the other: the mean after h steps is the mean, over the noise of the first
    step (by Gauss-Hermite quadrature), of the mean after h - 1 steps from where that step leads.
    """
    nodes, weights = hermegauss(NODES)
    reached = bistable_step(GRID)[:, None] + NOISE * nodes
    means = [bistable_step(GRID)]
    for _ in range(1, HORIZON):
        means.append(np.interp(reached, GRID, means[-1]) @ weights / weights.sum())
    return np.stack(means)


def _bistable(count: int, rng: np.random.Generator) -> F64:
    """Draw stationary paths over context and horizon [B, C + H]."""
    path = NOISE * rng.normal(size=(count, WASHED_OUT + CONTEXT + HORIZON))
    for step in range(1, path.shape[1]):
        path[:, step] += bistable_step(path[:, step - 1])
    return path[:, WASHED_OUT:]


def _mackey_glass(count: int, rng: np.random.Generator) -> F64:
    """Draw trajectories over context and horizon, each from noise and cut at a time of its own [B, C + H]."""
    history = rng.uniform(0.5, 1.3, (DELAY + 1, count))
    times = TRANSIENT + rng.integers(0, SPREAD, (count, 1)) + SAMPLED_EVERY * np.arange(CONTEXT + HORIZON)
    path = integrate(history, TRANSIENT + SPREAD + SAMPLED_EVERY * (CONTEXT + HORIZON))
    return np.asarray(path[times, np.arange(count)[:, None]])


def _gain(delayed: F64) -> F64:
    return np.asarray(0.2 * delayed / (1 + delayed**10))


def _runge_kutta(x: F64, first: F64, halfway: F64, last: F64) -> tuple[F64, F64]:
    """Return the slope at x, and x one step on, given what the delayed value adds at the beginning, middle and end."""
    a = first - 0.1 * x
    b = halfway - 0.1 * (x + a / 2)
    c = halfway - 0.1 * (x + b / 2)
    d = last - 0.1 * (x + c)
    return a, x + (a + 2 * b + 2 * c + d) / 6


BISTABLE = Process(
    "bistable",
    draw_bistable,
    {
        "name": "bistable",
        "units": 16,
        "epochs": 4,
        "batch_size": 32,
        "learning_rate": 0.008,
        "patience": 4,
        "scaling": "standard",
        "start": "last",
        "feature_names": ["y"],
    },
)
MACKEY_GLASS = Process(
    "mackey-glass",
    draw_mackey_glass,
    {
        "name": "mackey-glass",
        "units": 32,
        "epochs": 10,
        "batch_size": 128,
        "learning_rate": 0.004,
        "patience": 4,
        "scaling": "standard",
        "start": "last",
        "feature_names": ["y"],
    },
)
