"""The forecaster in Keras: a training model, an encoder and a single-step decoder around the same layers.

What they are made of: `model_encoder`, `model_decoder`, and between these `model_attention`, `model_base`,
`model_recurrent` and `model_scaling`. A kind of cell, of attention or of base is an entry of its table there.
"""

from dataclasses import dataclass
from typing import Any

from export.config import TrainConfig
from export.model_attention import attention_of
from export.model_base import BASE, base_of
from export.model_decoder import Decoder
from export.model_encoder import Encoded, Encoder
from export.model_scaling import GraphScaling
from export.model_static import StaticFeatures
from export.windows import Statistics
from runner.schema import Sizes

__all__ = ["BASE", "Forecasters", "build"]


@dataclass(frozen=True, slots=True)
class Forecasters:
    """Keras models that share every weight. Inputs and outputs are in raw units.

    Attributes:
        training: past, past_observed?, static?, decoder_input [B, H, 1], future_known? -> prediction [B, H, 1].
        encoder: past, past_observed?, static? -> `encoder_roles`.
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
        sizes: C, H, F and K, and the static features.
        statistics: of the training data, for the scaling.
        feature: index of the target among the past features.
        flagged: the encoder takes `past_observed`, and sees the flags as one more feature.
    """
    import keras

    scaling = GraphScaling(config, statistics, feature)
    attention = attention_of(config.attention, config.layers[-1])
    static = StaticFeatures(sizes, config, scaling) if sizes.static else None
    encode = Encoder(config, scaling, base_of(sizes, config, scaling), attention, static)
    decode = Decoder(config, scaling, attention)
    context = _context_inputs(sizes, flagged=flagged)
    encoded = encode(**{entry.name: entry for entry in context})
    return Forecasters(
        training=_training_model(decode, context, encoded, sizes),
        encoder=keras.Model(
            context, [encoded.previous, *encoded.states.values(), *encoded.memory.values()], name="encoder"
        ),
        step=_step_model(decode, encoded, sizes),
        states=tuple(encoded.states),
        memory=tuple(encoded.memory),
        widths={name: tuple(tensor.shape[1:]) for name, tensor in {**encoded.states, **encoded.memory}.items()},
        cell_step=_step_model(decode, encoded, sizes, cells=True),
    )


def _context_inputs(sizes: Sizes, *, flagged: bool) -> list[Any]:
    import keras

    inputs = [keras.Input((sizes.context, sizes.past), name="past")]
    inputs += [keras.Input((sizes.context,), name="past_observed")] if flagged else []
    return inputs + ([keras.Input((sizes.static_width,), name="static")] if sizes.static else [])


def _future_inputs(steps: int, sizes: Sizes) -> list[Any]:
    import keras

    return [keras.Input((steps, sizes.future), name="future_known")] if sizes.future else []


def _training_model(decode: Decoder, context: list[Any], encoded: Encoded, sizes: Sizes) -> Any:
    import keras

    teacher, known = keras.Input((sizes.horizon, 1), name="decoder_input"), _future_inputs(sizes.horizon, sizes)
    prediction, _ = decode(teacher, known[0] if known else None, encoded.states, encoded.memory)
    return keras.Model([*context, teacher, *known], prediction, name="training")


def _step_model(decode: Decoder, encoded: Encoded, sizes: Sizes, *, cells: bool = False) -> Any:
    import keras

    previous, known = keras.Input((1, 1), name="previous"), _future_inputs(1, sizes)
    states, memory = (
        {name: keras.Input(tuple(tensor.shape[1:]), name=name) for name, tensor in tensors.items()}
        for tensors in (encoded.states, encoded.memory)
    )
    prediction, following = decode(previous, known[0] if known else None, states, memory, cells=cells)
    inputs = [previous, *known, *states.values(), *memory.values()]
    return keras.Model(inputs, [prediction, *(following[name] for name in states)], name="decoder_step")
