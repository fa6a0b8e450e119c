"""Models as teams build and train them, nothing in them knows of freerun; and windows for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from keras import layers

CONTEXT, HORIZON, FEATURES, UNITS = 9, 6, 2, 5
WINDOWS = 70


@dataclass(frozen=True, slots=True)
class Windows:
    """Arrays as Keras takes them, in the units of the series."""

    past: np.ndarray
    target: np.ndarray
    mask: np.ndarray

    @property
    def teacher(self) -> np.ndarray:
        """Return the decoder's inputs as in training: -1, then the last target that counts [N, H, M]."""
        given = np.empty_like(self.target)
        given[:, 0] = -1.0
        for h in range(1, HORIZON):
            given[:, h] = np.where(self.mask[:, h - 1], given[:, h - 1], self.target[:, h - 1])
        return given if given.ndim == 3 else given[:, :, None]

    def loss(self, prediction: np.ndarray) -> float:
        """Return the masked MSE of predictions [N, H] in float64."""
        errors = prediction.reshape(self.target.shape).astype(np.float64) - self.target
        return float(np.where(self.mask, 0.0, errors**2).mean())


def draw(seed: int = 0, count: int = WINDOWS) -> Windows:
    """Draw windows of an AR(1) process, a second feature beside it; a sixth of the targets is masked."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, CONTEXT + HORIZON)).astype(np.float32)
    series = np.zeros_like(noise)
    for t in range(1, series.shape[1]):
        series[:, t] = 0.9 * series[:, t - 1] + noise[:, t] / 2
    past = np.stack([series[:, :CONTEXT], rng.normal(size=(count, CONTEXT))], axis=2).astype(np.float32)
    return Windows(past, series[:, CONTEXT:], rng.random((count, HORIZON)) < 1 / 6)


def draw_several(targets: int, scale: float = 1.0, count: int = WINDOWS) -> Windows:
    """Draw windows with so many targets [N, H, M] that are past features, the last of them times `scale`."""
    drawn = [draw(seed, count) for seed in range(targets)]
    target = np.stack([windows.target for windows in drawn], axis=2)
    past = np.stack([windows.past[:, :, 0] for windows in drawn], axis=2)
    past[:, :, -1] *= scale
    target[:, :, -1] *= scale
    return Windows(past, target, np.stack([windows.mask for windows in drawn], axis=2))


def write(path: Path, windows: Windows, **columns: Any) -> Path:
    """Write windows as a Parquet file."""
    floats, flags = pa.list_(pa.float32()), pa.list_(pa.uint8())
    several = windows.target.ndim == 3
    table = {
        "past": pa.array(windows.past.tolist(), pa.list_(floats)),
        "target": pa.array(windows.target.tolist(), pa.list_(floats) if several else floats),
        "mask": pa.array(windows.mask.astype(np.uint8).tolist(), pa.list_(flags) if several else flags),
        **{name: pa.array(np.asarray(values).tolist(), floats) for name, values in columns.items()},
    }
    pq.write_table(pa.table(table), path)
    return path


def seq2seq(
    *,
    kind: Any = layers.LSTM,
    depth: int = 1,
    bidirectional: bool = False,
    attention: Any = None,
    normalised: bool = False,
    returned: bool = True,
    batch_size: int | None = None,
    head: Any = None,
    **settings: Any,
) -> Any:
    """Build a training model of such layers; `settings` are those of every recurrent layer."""
    past = keras.Input((CONTEXT, FEATURES), batch_size=batch_size, name="encoder_input")
    given = keras.Input((HORIZON, 1), batch_size=batch_size, name="decoder_input_")
    states, x = [], past
    for _ in range(depth):
        layer = kind(UNITS, return_sequences=True, return_state=True, **settings)
        x, *after = (layers.Bidirectional(layer) if bidirectional else layer)(x)
        half = len(after) // 2
        bridged = [layers.Dense(UNITS)(layers.Concatenate()([after[i], after[i + half]])) for i in range(half)]
        states.append(bridged if bidirectional else after)
    sequence, y = x, given
    for state in states:
        y = kind(UNITS, return_sequences=True, return_state=returned, **settings)(y, initial_state=state)
        y = y[0] if returned else y
    if attention is not None:
        values = layers.Dense(UNITS)(sequence) if bidirectional else sequence
        y = layers.Concatenate()([y, attention()([y, values])])
    y = layers.Dropout(0.3)(layers.LayerNormalization()(y)) if normalised else y
    y = layers.Dense(4, activation="tanh")(y)
    return keras.Model([past, given], (layers.Dense(1) if head is None else head)(y))


def stack(*activations: str) -> Any:
    """Return a head of dense layers with these activations."""

    def head(y: Any) -> Any:
        for activation in activations:
            y = layers.Dense(4, activation=activation)(y)
        return layers.Dense(1)(y)

    return head


def numeric_lstm_seq2seq() -> Any:
    """Build Keras' example lstm_seq2seq for numbers instead of characters: both lengths are open."""
    encoder_inputs = keras.Input((None, FEATURES))
    _, state_h, state_c = layers.LSTM(UNITS, return_state=True)(encoder_inputs)
    decoder_inputs = keras.Input((None, 1))
    decoder_lstm = layers.LSTM(UNITS, return_sequences=True, return_state=True)
    decoder_outputs, _, _ = decoder_lstm(decoder_inputs, initial_state=[state_h, state_c])
    return keras.Model([encoder_inputs, decoder_inputs], layers.Dense(1)(decoder_outputs))


def only_the_context() -> Any:
    """Build a decoder that begins with zeros and is told of the context at each step."""
    past, given = keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))
    summary = layers.RepeatVector(HORIZON)(layers.LSTM(UNITS)(past))
    x = layers.LSTM(UNITS, return_sequences=True)(layers.Concatenate()([given, summary]))
    return keras.Model([past, given], layers.Dense(1)(x))


def several(targets: int, *, scales: tuple[float, ...] = (), **settings: Any) -> Any:
    """Build a model of so many targets, all fed back; `scales` is what it multiplies each with at its end."""
    past, given = keras.Input((CONTEXT, targets), name="past_"), keras.Input((HORIZON, targets), name="previous_")
    _, *states = layers.LSTM(UNITS, return_state=True)(past)
    fed = layers.Rescaling(1 / np.array(scales, np.float32))(given) if scales else given
    y = layers.LSTM(UNITS, return_sequences=True, **settings)(fed, initial_state=states)
    y = layers.Dense(targets)(y)
    return keras.Model([past, given], layers.Rescaling(np.array(scales, np.float32))(y) if scales else y)


ACTIVATIONS = (
    "relu", "sigmoid", "elu", "selu", "silu", "softplus", "softsign", "relu6", "gelu", "leaky_relu", "celu", "mish",
    "hard_sigmoid", "exponential",
)  # fmt: skip
"""Of dense layers, the last one of small numbers only."""
MODELS = {
    "LSTM": seq2seq,
    "lstm_seq2seq, open lengths": numeric_lstm_seq2seq,
    "GRU": lambda: seq2seq(kind=layers.GRU),
    "GRU, reset_after=False": lambda: seq2seq(kind=layers.GRU, reset_after=False),
    "two GRU layers": lambda: seq2seq(kind=layers.GRU, depth=2),
    "SimpleRNN": lambda: seq2seq(kind=layers.SimpleRNN),
    "two LSTM layers": lambda: seq2seq(depth=2),
    "three LSTM layers": lambda: seq2seq(depth=3),
    "return_state=False": lambda: seq2seq(returned=False),
    "bidirectional encoder, bridged states": lambda: seq2seq(bidirectional=True),
    "Luong attention": lambda: seq2seq(attention=layers.Attention),
    "Bahdanau attention": lambda: seq2seq(attention=layers.AdditiveAttention),
    "bidirectional encoder and attention": lambda: seq2seq(bidirectional=True, attention=layers.Attention),
    "Dropout and LayerNormalization": lambda: seq2seq(normalised=True),
    "dropout in the LSTM": lambda: seq2seq(dropout=0.2),
    "recurrent dropout": lambda: seq2seq(depth=2, recurrent_dropout=0.2),
    "stateful": lambda: seq2seq(stateful=True, batch_size=14),
    "unrolled": lambda: seq2seq(unroll=True),
    "relu in the LSTM": lambda: seq2seq(activation="relu"),
    "no bias": lambda: seq2seq(use_bias=False),
    "Dense layers with other activations": lambda: seq2seq(head=stack(*ACTIVATIONS)),
    "TimeDistributed(Dense)": lambda: seq2seq(head=layers.TimeDistributed(layers.Dense(1))),
    "output reshaped to [H]": lambda: seq2seq(
        head=lambda y: layers.Reshape((HORIZON,), name="decoder_reshape")(layers.Dense(1)(y))
    ),
    "no state, context repeated": only_the_context,
}
"""What `freerun-export convert` takes: each is converted by tests/export/test_convert.py."""
SEVERAL = {"two targets": (2, ()), "three targets, one scaled": (3, (1.0, 1.0, 30.0))}
"""Models of so many targets, and what they multiply each with at their end. They have windows of their own."""


def build_several(name: str) -> tuple[Any, Windows]:
    """Return one of these models, and windows for it."""
    targets, scales = SEVERAL[name]
    return several(targets, scales=scales), draw_several(targets, scales[-1] if scales else 1.0)
