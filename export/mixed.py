"""The model that training unrolls where the decoder is fed by itself: encoder and step, with the loop in the graph."""

from typing import Any

from export.model import Forecasters


def mixed_model(models: Forecasters) -> Any:
    """Build a Keras model that feeds some steps with the teacher's input and the others with the last prediction.

    It is made of the encoder and the step alone and shares their weights, whoever built them. The loop is TensorFlow's
    own, so the graph does not grow with the horizon; gradients go through the predictions that are fed back.

    Returns:
        past, past_observed?, decoder_input [B, H, 1], use [B, H], future_known? -> prediction [B, H, 1]. Where `use` is
        0, and at the first step, the teacher's input counts for nothing.
    """
    import keras

    horizon = models.training.outputs[0].shape[1]
    context = [keras.Input(entry.shape[1:], name=entry.name) for entry in models.encoder.inputs]
    teacher, use = keras.Input((horizon, 1), name="decoder_input"), keras.Input((horizon,), name="use")
    widths = [entry.shape[-1] for entry in models.step.inputs if entry.name == "future_known"]
    known = [keras.Input((horizon, width), name="future_known") for width in widths]
    prediction = _loop(models)(models.encoder(context), teacher, use, *known)
    return keras.Model([*context, teacher, use, *known], prediction, name="mixed")


def _loop(models: Forecasters) -> Any:
    import keras
    import tensorflow as tf

    count = len(models.states)

    class Loop(keras.layers.Layer):  # type: ignore[misc]
        """Runs one step of the decoder H times."""

        def __init__(self) -> None:
            super().__init__(name="loop")
            self.step = models.step if models.cell_step is None else models.cell_step

        def call(self, encoded: list[Any], teacher: Any, use: Any, known: Any = None) -> Any:
            previous, states, memory = encoded[0], encoded[1 : 1 + count], encoded[1 + count :]
            own_first = tf.pad(use[:, 1:], [[0, 0], [1, 0]])  # the last prediction of the first step is the start value
            by_step = [_by_step(tensor) for tensor in (own_first[:, :, None], teacher, known) if tensor is not None]

            def step(carried: tuple[Any, ...], given: tuple[Any, ...]) -> tuple[Any, ...]:
                fed = tf.where(given[0] > 0, given[1], carried[0])
                return tuple(self.step([fed, *given[2:], *carried[1:], *memory]))

            predictions, *_ = tf.scan(step, tuple(by_step), (previous[:, :, None], *states))
            return tf.transpose(predictions[:, :, :, 0], [1, 0, 2])

    return Loop()


def _by_step(tensor: Any) -> Any:
    """Return [B, H, K] as [H, B, 1, K]."""
    import tensorflow as tf

    return tf.transpose(tensor, [1, 0, 2])[:, :, None]
