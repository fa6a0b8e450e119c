"""The encoder: recurrent layers over the context, and what they hand over to the decoder."""

from dataclasses import dataclass
from typing import Any

from export.config import TrainConfig
from export.model_attention import MEMORY, Attention
from export.model_base import BASE, Base
from export.model_recurrent import recurrent_layers, state_names
from export.model_scaling import GraphScaling
from export.model_static import StaticFeatures


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder makes of contexts, symbolic tensors all.

    Attributes:
        previous: the start value in raw units [B, 1].
        states: recurrent tensors by name [B, U], in order.
        memory: what every step reads, by name [B, ...], in order.
    """

    previous: Any
    states: dict[str, Any]
    memory: dict[str, Any]


class Encoder:
    """Layers that share nothing with the decoder but the shapes of their states."""

    def __init__(
        self,
        config: TrainConfig,
        scaling: GraphScaling,
        base: Base | None,
        attention: Attention | None,
        static: StaticFeatures | None,
    ) -> None:
        self.scaling, self.base, self.attention, self.static = scaling, base, attention, static
        layers = recurrent_layers(config, "encoder", sequences=attention is not None)
        kind = Bidirectional if config.encoder == "bidirectional" else Forward
        self.layers = [kind(layer, names) for layer, names in zip(layers, state_names(config), strict=True)]

    def __call__(self, past: Any, past_observed: Any = None, static: Any = None) -> Encoded:
        context = self.scaling.context(past, past_observed)
        x, memory = context.features, dict(context.memory)
        if self.static is not None:
            x = self.static(static, x)
        states: dict[str, Any] = {}
        for layer in self.layers:
            x, found = layer(x)
            states |= found
        if self.base is not None:
            states[BASE] = self.base(context)
        if self.attention is not None:
            memory[MEMORY] = self.attention.remember(x)
        return Encoded(self.scaling.start(context), states, memory)


class Forward:
    """A layer that hands over its last states as they are."""

    def __init__(self, layer: Any, names: tuple[str, ...]) -> None:
        self.layer, self.names = layer, names

    def __call__(self, x: Any) -> tuple[Any, dict[str, Any]]:
        """Return outputs [B, C, W], or the last one [B, W], and the states by name [B, U]."""
        y, *states = self.layer(x)
        return y, dict(zip(self.names, states, strict=True))


class Bidirectional:
    """A layer that reads both ways. Its outputs are twice as wide; a dense bridge makes one state of each two.

    The bridge of a hidden state ends in a tanh, so that it lies in (-1, 1) like every other one.
    """

    def __init__(self, layer: Any, names: tuple[str, ...]) -> None:
        from keras import layers

        self.names = names
        self.layer = layers.Bidirectional(layer, name=f"{layer.name}_bidirectional")
        activations = ["tanh" if name.startswith("hidden") else None for name in names]
        self.bridges = [
            layers.Dense(layer.units, activation=activation, name=f"bridge_{name}")
            for name, activation in zip(names, activations, strict=True)
        ]

    def __call__(self, x: Any) -> tuple[Any, dict[str, Any]]:
        """Return outputs [B, C, 2 U], or the last ones [B, 2 U], and the states by name [B, U]."""
        from keras import ops

        y, *states = self.layer(x)
        pairs = zip(states[: len(self.names)], states[len(self.names) :], strict=True)
        joined = [ops.concatenate(pair, axis=-1) for pair in pairs]
        return y, {name: bridge(both) for name, bridge, both in zip(self.names, self.bridges, joined, strict=True)}
