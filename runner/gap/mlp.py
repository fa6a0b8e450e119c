"""A small network beside the ridge regression: what bends in the relation of the horizon to the context.

It learns what the linear forecast leaves: one hidden layer, whose outputs start at 0 and are added to the regression.
So training that finds nothing leaves the regression as it is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runner.batch import F32, F64, WindowBatch
from runner.gap.inputs import as_forecast, chunks, thinned, truth
from runner.gap.ridge import Linear

HIDDEN = 64
BATCH = 128
MOST_STEPS, FEWEST_EPOCHS, PATIENCE = 4000, 10, 5
"""Of training: steps, but so many epochs at least, and epochs that may pass without anything gained."""
LEARNING_RATE = np.float32(2e-3)
DECAYS = np.float32(0.9), np.float32(0.999)
"""Of Adam's running means of the gradients and of their squares."""
MOST_WINDOWS = 20_000
MOST_NUMBERS = 1 << 24
"""Windows to train on, and their inputs altogether (64 MB); evenly spaced where there are more."""
LARGEST_INPUT = 10.0
"""In deviations; what lies beyond is fed as this, for nothing was learnt there."""


@dataclass(frozen=True, slots=True)
class Layers:
    """The weights of a network.

    Attributes:
        inward: from the inputs to the hidden layer [D, 64].
        bend: added there [64].
        outward: from the hidden layer to the steps [64, H].
        shift: added there [H].
    """

    inward: F32
    bend: F32
    outward: F32
    shift: F32

    def hidden(self, x: F32) -> F32:
        return np.asarray(np.tanh(x @ self.inward + self.bend))

    def outputs(self, hidden: F32) -> F32:
        return hidden @ self.outward + self.shift

    def arrays(self) -> tuple[F32, ...]:
        return (self.inward, self.bend, self.outward, self.shift)


@dataclass(frozen=True, slots=True)
class Network:
    """A linear forecast, and what a hidden layer adds to it.

    Attributes:
        linear: the forecast that the network starts from.
        deviation: of what that one leaves, in raw units.
        layers: give the rest in these deviations.
    """

    linear: Linear
    deviation: float
    layers: Layers

    def forecast(self, batch: WindowBatch) -> F32:
        """Forecast windows, in raw units [N, H]."""
        pieces = chunks(batch, len(self.linear.weights))
        rest = [self.layers.outputs(self.layers.hidden(_fed(self.linear, piece))) for piece in pieces]
        return as_forecast(self.linear(batch) + self.deviation * np.concatenate(rest, dtype=np.float64))


def train_network(linear: Linear, fit: WindowBatch, held: WindowBatch, seed: int, check: Callable[[], None]) -> Network:
    """Train until the forecasts of windows held out get no better.

    Args:
        linear: the forecast to start from, fitted to no window that is held out.
        fit: windows to train on.
        held: windows held out.
        seed: of the first weights, and of the order.
        check: called again and again; raises to stop.
    """
    most = min(MOST_WINDOWS, MOST_NUMBERS // len(linear.weights))
    fit, held = thinned(fit, most), thinned(held, most // 4)
    deviation = _deviation(linear, fit)
    training, judging = _examples(linear, fit, deviation), _examples(linear, held, deviation)
    random = np.random.default_rng(seed)
    layers = _start(training.x.shape[1], training.rest.shape[1], random)
    best, lowest, since = _copy(layers), judging.loss(layers), 0
    adam = _Adam(_zeros(layers), _zeros(layers))
    for epoch in range(max(MOST_STEPS // -(-len(fit) // BATCH), FEWEST_EPOCHS)):
        check()
        _train(layers, training, adam, random, epoch)
        loss, since = judging.loss(layers), since + 1
        if loss < lowest:
            best, lowest, since = _copy(layers), loss, 0
        if since == PATIENCE:
            break
    return Network(linear, deviation, best)


@dataclass(frozen=True, slots=True)
class _Examples:
    """Windows as a network is shown them.

    Attributes:
        x: scaled inputs [N, D].
        rest: what the linear forecast leaves, in deviations [N, H].
        counts: 1 = the step counts, else 0 [N, H].
    """

    x: F32
    rest: F32
    counts: F32

    def loss(self, layers: Layers) -> float:
        error = (layers.outputs(layers.hidden(self.x)) - self.rest) * self.counts
        return float(np.square(error, dtype=np.float64).sum())


@dataclass(frozen=True, slots=True)
class _Adam:
    """Running means of the gradients and of their squares, changed in place."""

    means: Layers
    squares: Layers

    def update(self, layers: Layers, gradients: Layers, step: int) -> None:
        """Change the weights in place; `step` counts from 1 on."""
        both = zip(*(each.arrays() for each in (layers, gradients, self.means, self.squares)), strict=True)
        for weights, gradient, mean, square in both:
            mean[...] += (1 - DECAYS[0]) * (gradient - mean)
            square[...] += (1 - DECAYS[1]) * (gradient * gradient - square)
            scale = np.sqrt(square / (1 - DECAYS[1] ** step)) + np.float32(1e-7)
            weights[...] -= LEARNING_RATE * mean / (1 - DECAYS[0] ** step) / scale


def _train(layers: Layers, examples: _Examples, adam: _Adam, random: np.random.Generator, epoch: int) -> None:
    """Go through the windows once, in another order each time."""
    order = random.permutation(len(examples.x))
    starts = range(0, len(order), BATCH)
    for number, first in enumerate(starts):
        rows = order[first : first + BATCH]
        gradients = _gradients(layers, _Examples(examples.x[rows], examples.rest[rows], examples.counts[rows]))
        adam.update(layers, gradients, epoch * len(starts) + number + 1)


def _gradients(layers: Layers, batch: _Examples) -> Layers:
    """Return how the mean squared error of the steps that count changes with each weight."""
    hidden = layers.hidden(batch.x)
    error = (layers.outputs(hidden) - batch.rest) * batch.counts
    error *= np.float32(2 / max(float(batch.counts.sum()), 1.0))
    bent = (error @ layers.outward.T) * (1 - hidden * hidden)
    return Layers(batch.x.T @ bent, bent.sum(axis=0), hidden.T @ error, error.sum(axis=0))


def _fed(linear: Linear, batch: WindowBatch) -> F32:
    return np.clip(linear.scaling.rows(batch), -LARGEST_INPUT, LARGEST_INPUT).astype(np.float32)


def _rest(linear: Linear, batch: WindowBatch) -> F64:
    target, observed = truth(batch)
    return np.where(observed, target - linear(batch), 0.0)


def _deviation(linear: Linear, batch: WindowBatch) -> float:
    counted = max(int(truth(batch)[1].sum()), 1)
    return math.sqrt(float(np.square(_rest(linear, batch)).sum()) / counted) or 1.0


def _examples(linear: Linear, batch: WindowBatch, deviation: float) -> _Examples:
    x = np.concatenate([_fed(linear, piece) for piece in chunks(batch, len(linear.weights))])
    rest = as_forecast(_rest(linear, batch) / deviation)
    return _Examples(x, rest, truth(batch)[1].astype(np.float32))


def _start(inputs: int, steps: int, random: np.random.Generator) -> Layers:
    """Draw weights for scaled inputs; the outputs start at 0."""
    inward = random.standard_normal((inputs, HIDDEN), dtype=np.float32) / np.float32(math.sqrt(inputs))
    bend = random.standard_normal(HIDDEN, dtype=np.float32)  # without it, even functions are hard to learn
    return Layers(inward, bend, np.zeros((HIDDEN, steps), np.float32), np.zeros(steps, np.float32))


def _zeros(layers: Layers) -> Layers:
    return Layers(*map(np.zeros_like, layers.arrays()))


def _copy(layers: Layers) -> Layers:
    return Layers(*map(np.copy, layers.arrays()))
