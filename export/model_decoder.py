"""The decoder: recurrent layers over previous values, all at once in training and step by step in production."""

from typing import Any

from export.config import TrainConfig
from export.model_attention import MEMORY, Attention
from export.model_base import BASE, turned
from export.model_recurrent import all_steps, one_step, recurrent_layers, state_names
from export.model_scaling import GraphScaling


class Decoder:
    """Layers that make predictions of previous values, states and memory."""

    def __init__(self, config: TrainConfig, scaling: GraphScaling, attention: Attention | None) -> None:
        import keras

        self.scaling, self.attention = scaling, attention
        self.layers, self.names = recurrent_layers(config, "decoder"), state_names(config)
        begin = "glorot_uniform" if config.base == "none" else "zeros"  # beside a base, nothing is added at first
        self.dense = keras.layers.Dense(1, kernel_initializer=begin, name="decoder_dense")

    def __call__(
        self, previous: Any, future: Any, states: dict[str, Any], memory: dict[str, Any], *, cells: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        """Decode as many steps as there are previous values.

        Args:
            previous: in raw units [B, T, 1].
            future: known covariates [B, T, K]; None where there are none.
            states: before the first step, by name [B, U].
            memory: by name [B, ...].
            cells: T is 1, and no layer starts a loop of its own.

        Returns:
            Predictions in raw units [B, T, 1], and the states after the last step.
        """
        now = states[BASE][:, : previous.shape[1], None] if BASE in states else None
        units = self.scaling.units(memory)
        y = self._input(previous, future, now, units)
        following: dict[str, Any] = {}
        for layer, names in zip(self.layers, self.names, strict=True):
            y, *after = (one_step if cells else all_steps)(layer, y, [states[name] for name in names])
            following |= dict(zip(names, after, strict=True))
        if self.attention is not None:
            y = self.attention(y, memory[MEMORY])
        if now is not None:
            following[BASE] = turned(states[BASE])
        return self.scaling.raw(self.dense(y), now, units), following

    def _input(self, previous: Any, future: Any, now: Any, units: tuple[Any, Any]) -> Any:
        """Return what the first layer reads: the previous value, the covariates and the base, all scaled."""
        from keras import ops

        x = [self.scaling.target(previous, units)]
        x += [] if future is None else [self.scaling.future(future)]
        x += [] if now is None else [self.scaling.target(now, units)]
        return x[0] if len(x) == 1 else ops.concatenate(x, axis=-1)
