"""The forecaster in Keras: a training model, an encoder and a single-step decoder around the same layers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from export.config import TrainConfig
from export.windows import Statistics
from runner.schema import Sizes

BASE = "base"
"""Name of the base's layer, and of the state that holds what of it is still to come."""
SMALLEST_SCALE = 0.01
"""A window's own deviation counts as at least this share of the training data's: a constant context has none."""


@dataclass(frozen=True, slots=True)
class Forecasters:
    """Keras models that share every weight. Inputs and outputs are in raw units.

    Attributes:
        training: past, past_observed?, decoder_input [B, H, 1], future_known? -> prediction [B, H, 1].
        encoder: past, past_observed? -> `encoder_roles`.
        step: previous [B, 1, 1], future_known? [B, 1, K], states, memory -> prediction [B, 1, 1], the next states.
        states: names of the recurrent tensors, in the order of the encoder's and the step's outputs.
        memory: names of what the encoder makes once for all steps.
        widths: axes after the batch of each state and memory tensor.
        cell_step: what `step` does, from cells instead of layers: quick to repeat in training. None: `step` will do.
    """

    training: Any
    encoder: Any
    step: Any
    states: tuple[str, ...]
    memory: tuple[str, ...]
    widths: dict[str, tuple[int, ...]]
    cell_step: Any = None

    @property
    def encoder_roles(self) -> tuple[str, ...]:
        return ("previous_0", *self.states, *self.memory)

    @property
    def step_roles(self) -> tuple[str, ...]:
        return ("prediction", *(f"{state}_next" for state in self.states))


def build(config: TrainConfig, sizes: Sizes, statistics: Statistics, feature: int, *, flagged: bool) -> Forecasters:
    """Build the models that a config asks for.

    Args:
        config: layers, scaling and start value.
        sizes: C, H, F and K.
        statistics: of the training data, for the scaling.
        feature: index of the target among the past features.
        flagged: the encoder takes `past_observed`, and sees the flags as one more feature.
    """
    import keras

    parts = _Parts(config, sizes, statistics, feature)
    context = _context_inputs(keras, sizes, flagged=flagged)
    encoded = parts.encode(*context)
    memory = parts.memory_names
    states = parts.state_names
    encoder = keras.Model(context, list(encoded), name="encoder")
    return Forecasters(
        training=_training_model(keras, parts, context, encoded, sizes),
        encoder=encoder,
        step=_step_model(keras, parts, states, memory, sizes),
        states=states,
        memory=memory,
        widths={**parts.widths, **dict.fromkeys(memory, (1,))},
        cell_step=_step_model(keras, parts, states, memory, sizes, cells=True),
    )


class _Parts:
    """The shared layers, and how inputs flow through them."""

    def __init__(self, config: TrainConfig, sizes: Sizes, statistics: Statistics, feature: int) -> None:
        import keras

        self.keras, self.config, self.sizes, self.feature = keras, config, sizes, feature
        self.statistics = statistics
        depth = range(len(config.layers))
        last = len(config.layers) - 1
        self.encoder_layers = [
            keras.layers.LSTM(
                config.layers[i], return_sequences=i < last, return_state=True, name=_layer("encoder_lstm", i)
            )
            for i in depth
        ]
        self.decoder_layers = [
            keras.layers.LSTM(
                config.layers[i], return_sequences=True, return_state=True, name=_layer("decoder_lstm", i)
            )
            for i in depth
        ]
        self.base = keras.layers.Dense(sizes.horizon, kernel_initializer="zeros", trainable=False, name=BASE)
        begin = "glorot_uniform" if config.base == "none" else "zeros"  # beside a base, nothing is added at first
        self.dense = keras.layers.Dense(1, kernel_initializer=begin, name="decoder_dense")

    @property
    def widths(self) -> dict[str, tuple[int, ...]]:
        """Return the axes after the batch of each state, in order: those of the layers, then the base."""
        names = _state_names(len(self.config.layers))
        found: dict[str, tuple[int, ...]] = {name: (self.config.layers[i // 2],) for i, name in enumerate(names)}
        return found if self.config.base == "none" else {**found, BASE: (self.sizes.horizon,)}

    @property
    def state_names(self) -> tuple[str, ...]:
        return tuple(self.widths)

    @property
    def memory_names(self) -> tuple[str, ...]:
        return ("location", "scale") if self.config.scaling == "window" else ()

    def encode(self, past: Any, observed: Any = None) -> tuple[Any, ...]:
        """Return previous_0 [B, 1], the states [B, U] of each layer, and the memory [B, 1]."""
        ops = self.keras.ops
        flags = ops.ones_like(past[:, :, 0]) if observed is None else observed
        raw = past[:, :, self.feature]
        location, scale = self._window(raw, flags)
        x = self._scaled_past(past, location, scale)
        if observed is not None:
            x = ops.concatenate([x * flags[:, :, None], flags[:, :, None]], axis=-1)
        states, scaled = [], x
        for layer in self.encoder_layers:
            x, *state = layer(x)
            states += state
        if self.config.base != "none":
            states.append(self._base_forecast(scaled, raw, flags, scale))
        memory = (location, scale) if self.config.scaling == "window" else ()
        return (self._start(raw, flags), *states, *memory)

    def decode(
        self, previous: Any, future: Any, states: tuple[Any, ...], memory: tuple[Any, ...], *, cells: bool = False
    ) -> tuple[Any, ...]:
        """Return the predictions [B, T, 1] for the previous values [B, T, 1], and the states after the last of them.

        With `cells` T is 1, and no layer starts a loop of its own.
        """
        found = self.statistics
        location, scale = found.target_location, found.target_scale
        if memory:
            location, scale = (tensor[:, :, None] for tensor in memory)
        x = self._scale(previous, location, scale)
        if future is not None:
            known = self._scale(future, np.float32(found.future_location), np.float32(found.future_scale))
            x = self.keras.ops.concatenate([x, known], axis=-1)
        base = None if self.config.base == "none" else states[-1]
        now = None if base is None else base[:, : previous.shape[1], None]
        if now is not None:
            x = self.keras.ops.concatenate([x, self._scale(now, location, scale)], axis=-1)
        following = []
        for index, layer in enumerate(self.decoder_layers):
            x, *state = (_one_step if cells else _all_steps)(layer, x, list(states[2 * index : 2 * index + 2]))
            following += state
        y = self.dense(x)
        if self.config.scaling != "none":
            y = y * scale + (location if now is None else 0)
        if now is not None:
            y, following = y + now, [*following, self._turned(base)]
        return (y, *following)

    def _base_forecast(self, x: Any, raw: Any, flags: Any, scale: Any) -> Any:
        """Return the linear forecast [B, H] in raw units: the last value, and what the context tells beside it."""
        ops, last = self.keras.ops, self._last(raw, flags)
        units = {"none": 1.0, "standard": self.statistics.target_scale, "window": scale[:, :, None]}
        wide, own = x * units[self.config.scaling], ((raw - last) * flags)[:, :, None]
        inputs = ops.concatenate([wide[:, :, : self.feature], own, wide[:, :, self.feature + 1 :]], axis=-1)
        return last + self.base(ops.reshape(inputs, (-1, self.sizes.context * inputs.shape[-1])))

    def _turned(self, base: Any) -> Any:
        """Return the base with the next step's value first [B, H]."""
        return base if base.shape[1] == 1 else self.keras.ops.concatenate([base[:, 1:], base[:, :1]], axis=1)

    def _scale(self, x: Any, location: Any, scale: Any) -> Any:
        """Bring raw units near 0 and 1. Constants are plain numbers or numpy's, so that a trace keeps them inside."""
        return x if self.config.scaling == "none" else (x - location) / scale

    def _scaled_past(self, past: Any, location: Any, scale: Any) -> Any:
        x = self._scale(past, np.float32(self.statistics.past_location), np.float32(self.statistics.past_scale))
        if self.config.scaling != "window":
            return x
        own = ((past[:, :, self.feature] - location) / scale)[:, :, None]
        return self.keras.ops.concatenate([x[:, :, : self.feature], own, x[:, :, self.feature + 1 :]], axis=-1)

    def _window(self, raw: Any, flags: Any) -> tuple[Any, Any]:
        """Return the window's own location (its last observed target) and scale (its deviation), both [B, 1]."""
        ops = self.keras.ops
        location = self._last(raw, flags)
        count = ops.maximum(ops.sum(flags, axis=1, keepdims=True), 1.0)
        centred = (raw - location) * flags
        mean = ops.sum(centred, axis=1, keepdims=True) / count
        squares = ops.sum(flags * (centred - mean) ** 2, axis=1, keepdims=True) / count
        return location, ops.maximum(ops.sqrt(squares), SMALLEST_SCALE * self.statistics.target_scale)

    def _start(self, raw: Any, flags: Any) -> Any:
        if self.config.start == "last":
            return self._last(raw, flags)
        return self.keras.ops.zeros_like(raw[:, :1]) + float(self.config.start)

    def _last(self, raw: Any, flags: Any) -> Any:
        """Return the last observed target, exactly as it came in [B, 1]."""
        ops = self.keras.ops
        steps = np.arange(1, self.sizes.context + 1, dtype=np.float32)
        latest = ops.max(flags * steps, axis=1, keepdims=True)
        return ops.sum(ops.where(ops.equal(latest, steps), raw, ops.zeros_like(raw)), axis=1, keepdims=True)


def _layer(name: str, index: int) -> str:
    return name if index == 0 else f"{name}_{index}"


def _all_steps(layer: Any, x: Any, state: list[Any]) -> list[Any]:
    return list(layer(x, initial_state=state))


def _one_step(layer: Any, x: Any, state: list[Any]) -> list[Any]:
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


def _state_names(depth: int) -> tuple[str, ...]:
    return tuple(_layer(name, index) for index in range(depth) for name in ("hidden", "cell"))


def _context_inputs(keras: Any, sizes: Sizes, *, flagged: bool) -> list[Any]:
    inputs = [keras.Input((sizes.context, sizes.past), name="past")]
    return inputs + ([keras.Input((sizes.context,), name="past_observed")] if flagged else [])


def _training_model(keras: Any, parts: _Parts, context: list[Any], encoded: tuple[Any, ...], sizes: Sizes) -> Any:
    teacher = keras.Input((sizes.horizon, 1), name="decoder_input")
    known = keras.Input((sizes.horizon, sizes.future), name="future_known") if sizes.future else None
    width = len(parts.state_names)
    prediction, *_ = parts.decode(teacher, known, encoded[1 : 1 + width], encoded[1 + width :])
    return keras.Model([*context, teacher, *([] if known is None else [known])], prediction, name="training")


def _step_model(
    keras: Any,
    parts: _Parts,
    states: tuple[str, ...],
    memory: tuple[str, ...],
    sizes: Sizes,
    *,
    cells: bool = False,
) -> Any:
    previous = keras.Input((1, 1), name="previous")
    known = keras.Input((1, sizes.future), name="future_known") if sizes.future else None
    carried = tuple(keras.Input(parts.widths[name], name=name) for name in states)
    kept = tuple(keras.Input((1,), name=name) for name in memory)
    outputs = parts.decode(previous, known, carried, kept, cells=cells)
    return keras.Model(
        [previous, *([] if known is None else [known]), *carried, *kept], list(outputs), name="decoder_step"
    )
