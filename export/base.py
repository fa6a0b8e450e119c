"""Fit the base that a network starts from: a linear forecast of all steps from the context, in closed form."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from export.examples import context_inputs
from export.model import BASE, Forecasters
from export.source import TrainingWindows, trainable
from runner.batch import F64, Bool, WindowBatch
from runner.errors import UsageError, explain

PENALTIES = 10.0 ** np.arange(-4, 1.5, 0.5)
"""Ridge penalties that are tried, in units of the inputs' mean square; the one that is best on VALID is kept."""
MOST_INPUTS = 4096
"""Inputs of the regression, C times the features: beyond, its matrix would not be small any more."""
ROWS = 1024

Reader = Callable[[WindowBatch], tuple[F64, F64]]
"""Makes the regression's inputs [B, D] and the last value [B, 1] of a batch."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What a ridge regression needs to know of its data (D inputs, H outputs).

    Attributes:
        count: windows.
        observed: how many targets count, by step [H].
        inputs: sums of the inputs [D]; outputs: of the targets that count [H].
        squares: of the inputs with each other [D, D]; products: with the targets that count [D, H].
    """

    count: int
    observed: F64
    inputs: F64
    outputs: F64
    squares: F64
    products: F64


@dataclass(frozen=True, slots=True)
class Fitted:
    """The penalty that was chosen, and the base's masked MSE on the windows that chose it."""

    penalty: float
    masked_mse: float


def fit_base(models: Forecasters, train: TrainingWindows, valid: TrainingWindows) -> Fitted:
    """Fit the base of the models in place.

    Args:
        models: built with a base; nothing but the base's weights changes.
        train: windows to fit on.
        valid: windows to choose the penalty on.

    Raises:
        UsageError: the context is too wide.
    """
    layer = models.encoder.get_layer(BASE)
    width = layer.kernel.shape[0]
    if width > MOST_INPUTS:
        remedy = "a shorter context, fewer features, or base=none"
        raise UsageError(
            explain("base=linear does not fit", got=f"{width} inputs", expected=f"at most {MOST_INPUTS}", remedy=remedy)
        )
    read = _reader(models)
    candidates = solve(_sums(read, train, layer.kernel.shape), PENALTIES)
    squared, cells = np.zeros(len(PENALTIES)), 0
    for inputs, target, observed in _examples(read, valid):
        cells += observed.size
        for index, (kernel, bias) in enumerate(candidates):
            squared[index] += (np.where(observed, inputs @ kernel + bias - target, 0.0) ** 2).sum()
    best = int(squared.argmin())
    layer.set_weights([array.astype(np.float32) for array in candidates[best]])
    return Fitted(float(PENALTIES[best]), float(squared[best] / cells))


def solve(sums: Sums, penalties: F64) -> list[tuple[F64, F64]]:
    """Return kernel [D, H] and bias [H] for each penalty.

    Targets that do not count are taken to be missing whatever the inputs: their share is divided out.
    """
    mean, level = sums.inputs / sums.count, sums.outputs / np.maximum(sums.observed, 1)
    squares = sums.squares / sums.count - np.outer(mean, mean)
    products = sums.products / np.maximum(sums.observed, 1) - np.outer(mean, level)
    values, vectors = np.linalg.eigh(squares)
    values, unit = np.maximum(values, 0.0), max(float(np.trace(squares)) / len(squares), np.finfo(float).tiny)
    turned = vectors.T @ products
    kernels = [vectors @ (turned / (values + penalty * unit)[:, None]) for penalty in penalties]
    return [(kernel, level - mean @ kernel) for kernel in kernels]


def _sums(read: Reader, train: TrainingWindows, shape: tuple[int, int]) -> Sums:
    width, horizon = shape
    total = Sums(0, *(np.zeros(shape) for shape in (horizon, width, horizon, (width, width), (width, horizon))))
    for inputs, target, observed in _examples(read, train):
        counted = np.where(observed, target, 0.0)
        total = Sums(
            total.count + len(inputs),
            total.observed + observed.sum(axis=0),
            total.inputs + inputs.sum(axis=0),
            total.outputs + counted.sum(axis=0),
            total.squares + inputs.T @ inputs,
            total.products + inputs.T @ counted,
        )
    return total


def _reader(models: Forecasters) -> Reader:
    """Return what reads the regression's inputs off the encoder itself, so that there is no second way to make them."""
    import keras

    layer = models.encoder.get_layer(BASE)
    forecast = models.encoder.outputs[models.encoder_roles.index(BASE)]
    model = keras.Model(models.encoder.inputs, [layer.input, layer.output, forecast])

    def read(batch: WindowBatch) -> tuple[F64, F64]:
        inputs, added, base = (np.asarray(found, np.float64) for found in model(context_inputs(batch)))
        return inputs, (base - added)[:, :1]

    return read


def _examples(read: Reader, windows: TrainingWindows) -> Iterator[tuple[F64, F64, Bool]]:
    """Yield inputs [B, D], targets relative to the last value [B, H], and which of them count [B, H]."""
    for block in windows.blocks():
        kept = trainable(block)
        for first in range(0, len(kept), ROWS):
            batch = kept.take(slice(first, first + ROWS))
            if batch.target is None or batch.observed is None:
                raise ValueError("fitting needs targets")
            inputs, last = read(batch)
            yield inputs, batch.target - last, batch.observed
