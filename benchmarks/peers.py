"""The same forecaster in the libraries that people have: Keras in two ways, and PyTorch. Arrays in, arrays out.

They read no Parquet and write none, which is to their advantage.
"""

import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rounds import CHECKED, Racer, SkippedError
from task import Task

from runner.device import cpu_count

KERAS_DEFAULT = 32
START = -1.0
"""The decoder's first input: the default of `freerun-export train`."""
Forecast = Callable[[np.ndarray, int], np.ndarray]
"""Takes windows [B, C, F] and a batch size, returns predictions [B, H]."""


def keras_default(task: Task) -> Racer:
    """Run the unrolled inference model as `predict` does when nothing is said."""
    return racer(task, unrolled(task), KERAS_DEFAULT)


def keras_best(task: Task) -> Racer:
    """Run the unrolled inference model at the batch size that suits it best."""
    return swept(task, unrolled(task))


def keras_loop(task: Task) -> Racer:
    """Run encoder and step model by `predict`, the loop in Python, at its best batch size."""
    return swept(task, stepwise(task))


def torch_loop(task: Task) -> Racer:
    """Run PyTorch's LSTM with the same weights, at its best batch size."""
    if find_spec("torch") is None:
        raise SkippedError("PyTorch is not installed")
    return swept(task, torch_forecast(task))


def unrolled(task: Task) -> Forecast:
    """Return one Keras model with the decoder unrolled over the horizon, each prediction the next step's input."""
    keras, encoder, decoder, dense = trained(task, "tensorflow")
    past = keras.Input((task.shape.context, task.shape.features))
    _, *state = encoder(past)
    previous = keras.ops.zeros_like(past[:, :1, :1]) + START
    steps = []
    for _ in range(task.shape.horizon):
        hidden, *state = decoder(previous, initial_state=state)
        previous = dense(hidden)
        steps.append(previous)
    model = keras.Model(past, keras.ops.concatenate(steps, axis=1)[:, :, 0])
    return lambda windows, batch: model.predict(windows, batch_size=batch, verbose=0)


def stepwise(task: Task) -> Forecast:
    """Return encoder and step model as two Keras models; state goes through numpy, as in every tutorial."""
    keras, encoder, decoder, dense = trained(task, "tensorflow")
    past, previous = keras.Input((task.shape.context, task.shape.features)), keras.Input((1, 1))
    carried = [keras.Input((task.shape.units,)) for _ in range(2)]
    encode = keras.Model(past, encoder(past)[1:])
    hidden, *state = decoder(previous, initial_state=carried)
    step = keras.Model([previous, *carried], [dense(hidden), *state])

    def forecast(windows: np.ndarray, batch: int) -> np.ndarray:
        state = encode.predict(windows, batch_size=batch, verbose=0)
        last, steps = np.full((len(windows), 1, 1), START, np.float32), []
        for _ in range(task.shape.horizon):
            last, *state = step.predict([last, *state], batch_size=batch, verbose=0)
            steps.append(last[:, :, 0])
        return np.concatenate(steps, axis=1)

    return forecast


def torch_forecast(task: Task) -> Forecast:
    """Return PyTorch's LSTM for the encoder and for each step of the decoder; its gates are in Keras' order."""
    _, *layers = trained(task, "torch")
    import torch  # noqa: PLC0415  (seconds, and not everywhere)

    torch.set_num_threads(cpu_count())
    shape = task.shape
    encoder = torch.nn.LSTM(shape.features, shape.units, batch_first=True)
    decoder = torch.nn.LSTM(1, shape.units, batch_first=True)
    dense = torch.nn.Linear(shape.units, 1)
    for module, layer in zip((encoder, decoder, dense), layers, strict=True):
        adopt(torch, module, [np.asarray(weight) for weight in layer.get_weights()])

    def forecast(windows: np.ndarray, batch: int) -> np.ndarray:
        found = np.empty((len(windows), shape.horizon), np.float32)
        edges = [*range(0, len(windows), batch), len(windows)]
        with torch.inference_mode():
            for first, last in pairwise(edges):
                _, state = encoder(torch.from_numpy(windows[first:last]))
                previous = torch.full((last - first, 1, 1), START)
                for h in range(shape.horizon):
                    hidden, state = decoder(previous, state)
                    previous = dense(hidden)
                    found[first:last, h] = previous[:, 0, 0]
        return found

    return forecast


def adopt(torch: Any, module: Any, weights: list[np.ndarray]) -> None:
    """Give a PyTorch layer the weights of a Keras layer: kernels are transposed, and Keras has one bias, not two."""
    *kernels, bias = weights
    values = [*(kernel.T for kernel in kernels), bias]
    parameters = list(module.parameters())
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=False):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))
        for parameter in parameters[len(values) :]:
            parameter.zero_()


def trained(task: Task, backend: str) -> tuple[Any, Any, Any, Any]:
    """Return Keras, and the encoder, decoder and output layers that the training left in the bundle's work folder."""
    os.environ["KERAS_BACKEND"] = backend
    import keras  # noqa: PLC0415, TID251  (a contestant; its backend is chosen when it is imported)

    path = Path(f"{task.bundle}.work") / "model.keras"
    model = keras.models.load_model(path, compile=False)
    names = ("encoder_lstm", "decoder_lstm", "decoder_dense")
    return keras, *(model.get_layer(name) for name in names)


def swept(task: Task, forecast: Forecast) -> Racer:
    """Return a racer at the fastest of the batch sizes."""
    windows = task.past()
    speeds = {}
    for batch in task.batches:
        forecast(windows[:batch], batch)
        speeds[batch] = speed(forecast, windows[: max(batch, len(windows) // 4)], batch)
    best = max(speeds, key=lambda batch: speeds[batch])
    return racer(task, forecast, best, f", the best of {', '.join(f'{batch:,}' for batch in task.batches)}")


def racer(task: Task, forecast: Forecast, batch: int, why: str = "") -> Racer:
    """Return a racer at a batch size, warm."""
    windows = task.past()
    first = forecast(windows[: max(CHECKED, batch)], batch)
    return Racer(lambda: speed(forecast, windows, batch), first[:CHECKED], f"batch {batch:,}{why}")


def speed(forecast: Forecast, windows: np.ndarray, batch: int) -> float:
    """Return windows a second."""
    started = time.perf_counter()
    forecast(windows, batch)
    return len(windows) / (time.perf_counter() - started)
