"""Recurrent layers by the name of their cell, in one or both directions, over all steps or over one."""

from typing import Any

from export.config import TrainConfig
from export.dissected import STATE_NAMES

LAYERS = {"lstm": "LSTM", "gru": "GRU"}
"""Keras' layer for a config's `cell`; `export.dissected` names its states."""


def recurrent_layers(config: TrainConfig, place: str, *, sequences: bool = True) -> list[Any]:
    """Return a stack of layers that return their states.

    Args:
        config: cell and units.
        place: encoder or decoder, for the layers' names.
        sequences: the last layer returns all steps, as those below it do.
    """
    import keras

    kind, last = getattr(keras.layers, LAYERS[config.cell]), len(config.layers) - 1
    return [
        kind(
            units,
            return_sequences=sequences or index < last,
            return_state=True,
            name=numbered(f"{place}_{config.cell}", index),
        )
        for index, units in enumerate(config.layers)
    ]


def state_names(config: TrainConfig) -> list[tuple[str, ...]]:
    """Return the names of each layer's states, the hidden state first."""
    names = STATE_NAMES[LAYERS[config.cell]]
    return [tuple(numbered(name, index) for name in names) for index in range(len(config.layers))]


def numbered(name: str, index: int) -> str:
    """Return a name in the layer of that number."""
    return name if index == 0 else f"{name}_{index}"


def all_steps(layer: Any, x: Any, state: list[Any]) -> list[Any]:
    """Run a layer over x [B, T, I] from a state; return its sequence [B, T, U], then the states after it."""
    return list(layer(x, initial_state=state))


def one_step(layer: Any, x: Any, state: list[Any]) -> list[Any]:
    """Do the same for a single step by the layer's cell, without a loop: quick to repeat."""
    import keras

    class Once(keras.layers.Layer):  # type: ignore[misc]
        """Gives a layer's cell a name of its own: Keras calls them all the same."""

        def __init__(self) -> None:
            super().__init__(name=f"{layer.name}_once")
            self.cell = layer.cell

        def call(self, x: Any, state: list[Any]) -> list[Any]:
            y, following = self.cell(x[:, 0], state)
            return [y[:, None], *following]

    return list(Once()(x, state))
