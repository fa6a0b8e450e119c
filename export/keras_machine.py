"""Keras models as a machine: the loop that can be changed, around TensorFlow instead of onnxruntime."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from export.model import Forecasters
from runner.batch import F32, WindowBatch
from runner.gap.machine import Encoded, Machine, State, layers_of

CHUNK = 2048
"""Windows that TensorFlow is given at once."""
Compiled = Callable[[Sequence[F32]], list[F32]]


def machine_of_keras(models: Forecasters) -> Machine:
    """Return the machine of an encoder and a step model; both run in inference mode, any number of windows at once."""
    encoder, step = compiled(models.encoder), compiled(models.step)
    width = len(models.states)

    def encode(batch: WindowBatch) -> Encoded:
        previous, *rest = encoder(context_of(batch))
        return Encoded(
            previous,
            dict(zip(models.states, rest[:width], strict=True)),
            dict(zip(models.memory, rest[width:], strict=True)),
        )

    def once(previous: F32, future: F32 | None, state: State, memory: State) -> tuple[F32, State]:
        known = [previous[:, None], *([] if future is None else [future])]
        carried = [state[name] for name in models.states]
        prediction, *following = step([*known, *carried, *(memory[name] for name in models.memory)])
        return prediction[:, 0], dict(zip(models.states, following, strict=True))

    return Machine(encode, once, layers_of(list(models.states)), models.training.outputs[0].shape[1])


def compiled(model: Any, *, training: bool = False) -> Compiled:
    """Return a model as a function of arrays, traced once for batches of any size.

    Args:
        model: takes a list of tensors.
        training: run it as in training: dropout is on.
    """
    import tensorflow as tf

    shapes = [tf.TensorSpec((None, *entry.shape[1:]), tf.float32) for entry in model.inputs]

    @tf.function(input_signature=[shapes])  # type: ignore[untyped-decorator]
    def run(tensors: Any) -> Any:
        outputs = model(tensors, training=training)
        return list(outputs) if isinstance(outputs, list | tuple) else [outputs]

    def call(arrays: Sequence[F32]) -> list[F32]:
        pieces = [
            [np.asarray(output) for output in run([tf.constant(array[first : first + CHUNK]) for array in arrays])]
            for first in range(0, len(arrays[0]), CHUNK)
        ]
        return [np.concatenate(outputs) for outputs in zip(*pieces, strict=True)]

    return call


def context_of(batch: WindowBatch) -> list[F32]:
    """Return the encoder's inputs in its order."""
    return list(batch.context().values())
