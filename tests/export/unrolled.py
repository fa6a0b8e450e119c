"""Inference models as teams run them: the decoder's layers called once a step, with the prediction before as input."""

from typing import Any

import keras
from keras import layers, ops

from teams import CONTEXT, FEATURES, HORIZON, UNITS

FUTURE = 2


def minus_one(past: Any) -> Any:
    return ops.full_like(past[:, :1, :1], -1.0)


def zeros(past: Any) -> Any:
    return ops.zeros_like(past[:, :1, :1])


def last(past: Any) -> Any:
    return past[:, -1:, :1]


def unrolled(
    *, kind: Any = layers.LSTM, depth: int = 1, start: Any = minus_one, attention: Any = None, future: bool = False
) -> Any:
    """Build a model of recurrent layers whose sequences are one step long."""
    past, known = keras.Input((CONTEXT, FEATURES), name="past"), keras.Input((HORIZON, FUTURE), name="future_known")
    states, x = [], past
    for _ in range(depth):
        x, *after = kind(UNITS, return_sequences=True, return_state=True)(x)
        states.append(after)
    decoders = [kind(UNITS, return_sequences=True, return_state=True) for _ in range(depth)]
    head, looks, previous, steps = layers.Dense(1), attention and attention(), start(past), []
    for h in range(HORIZON):
        y = layers.Concatenate()([previous, known[:, h : h + 1]]) if future else previous
        for i, decoder in enumerate(decoders):
            y, *states[i] = decoder(y, initial_state=states[i])
        y = layers.Concatenate()([y, looks([y, x])]) if looks else y
        previous = head(layers.Dropout(0.2)(y))
        steps.append(previous)
    return keras.Model([past, known] if future else past, ops.concatenate(steps, axis=1))


def of_a_step_model() -> Any:
    """Build one around a model of a single step, with a trained bridge of the states."""
    given, h, c = keras.Input((1, 1)), keras.Input((UNITS,)), keras.Input((UNITS,))
    y, *after = layers.LSTM(UNITS, return_state=True)(given, initial_state=[h, c])
    step = keras.Model([given, h, c], [layers.Dense(1)(layers.Dense(3, activation="relu")(y)), *after])
    past = keras.Input((None, FEATURES))
    states = [layers.Dense(UNITS)(state) for state in layers.LSTM(4, return_state=True)(past)[1:]]
    previous, steps = past[:, -1:, :1], []
    for _ in range(HORIZON):
        prediction, *states = step([previous, *states])
        steps.append(prediction)
        previous = layers.Reshape((1, 1))(prediction)
    return keras.Model(past, ops.concatenate(steps, axis=1))


def of_cells() -> Any:
    """Build one of cells: no axis for the time, attention written by hand, and a state of zeros."""
    past = keras.Input((CONTEXT, FEATURES))
    sequence = layers.GRU(UNITS, return_sequences=True)(past)
    cell, head, query = layers.LSTMCell(UNITS), layers.Dense(1), layers.Dense(UNITS)
    states = [ops.zeros_like(sequence[:, 0])] * 2
    previous, steps = -1 * ops.ones_like(past[:, 0, :1]), []
    for _ in range(HORIZON):
        weights = ops.softmax(ops.sum(ops.expand_dims(query(states[0]), 1) * sequence, axis=-1), axis=-1)
        read = ops.sum(ops.expand_dims(weights, -1) * sequence, axis=1)
        hidden, states = cell(ops.concatenate([previous, read], axis=-1), states)
        previous = head(hidden)
        steps.append(previous)
    return keras.Model(past, layers.Reshape((HORIZON, 1))(ops.stack(steps, axis=1)))


def without_a_first_state() -> Any:
    """Build one whose decoder is told of the context by a vector, and begins with zeros because nothing is given."""
    past = keras.Input((CONTEXT, FEATURES))
    summary = layers.RepeatVector(1)(layers.LSTM(4)(past))
    decoder, head, states, previous, steps = (
        layers.GRU(UNITS, return_state=True),
        layers.Dense(1),
        None,
        zeros(past),
        [],
    )
    for _ in range(HORIZON):
        y, states = decoder(layers.Concatenate()([previous, summary]), initial_state=states)
        steps.append(head(y))
        previous = steps[-1][:, None]
    return keras.Model(past, ops.concatenate(steps, axis=1))


MODELS = {
    "LSTM": unrolled,
    "two LSTM layers": lambda: unrolled(depth=2),
    "GRU": lambda: unrolled(kind=layers.GRU),
    "Luong attention": lambda: unrolled(attention=layers.Attention),
    "begins with the last value": lambda: unrolled(start=last),
    "begins with zeros": lambda: unrolled(start=zeros),
    "future_known": lambda: unrolled(future=True),
    "calls of a single-step model": of_a_step_model,
    "cells, attention by hand": of_cells,
    "no first state": without_a_first_state,
}
STARTS = {"begins with the last value": "last", "begins with zeros": 0.0, "no first state": 0.0}
STARTS["calls of a single-step model"] = "last"


def refused(change: str) -> Any:
    """Build a model in which something stands in the way of a single step."""
    past, known = keras.Input((CONTEXT, FEATURES), name="past"), keras.Input((HORIZON, 1), name="future_known")
    _, *states = layers.LSTM(UNITS, return_state=True)(past)
    decoder, previous, steps = layers.LSTM(UNITS, return_sequences=True, return_state=True), minus_one(past), []
    heads = [layers.Dense(1, name=f"head_{h}") for h in range(HORIZON)]
    squashed, summary = layers.Activation("tanh", name="squashed"), layers.Flatten(name="summary")(known)
    start = layers.Dense(1, name="first_guess")(past[:, -1:])
    for h in range(HORIZON):
        y = previous if h or change != "learned start" else start
        if change == "covariates at once":
            y = layers.Concatenate()([y, layers.RepeatVector(1)(summary)])
        y, *states = decoder(y, initial_state=states)
        steps.append(heads[h if change == "a head for each step" else 0](y))
        previous = squashed(steps[-1]) if change == "fed back changed" else steps[-1]
    whole = ops.concatenate(steps, axis=1)
    if change == "scaled at the end":
        whole = layers.Rescaling(2.0, name="in_units")(whole)
    if change == "mixed at the end":
        whole = layers.Reshape((HORIZON, 1))(layers.Dense(HORIZON, name="mixed")(layers.Flatten()(whole)))
    return keras.Model([past, known] if change == "covariates at once" else past, whole)


REFUSED = {
    "learned start": r"first input of the decoder is not known.*layer first_guess \(Dense\).*--set start",
    "covariates at once": r"layer summary \(Flatten\).*future_known\[:, t:t\+1\]",
    "a head for each step": r"layer head_0 \(Dense\).*step 2 has layer head_1.*not alike",
    "fed back changed": r"no later step reads the prediction",
    "scaled at the end": r"layer in_units \(Rescaling\).*--scaler",
    "mixed at the end": r"layer mixed \(Dense\)|layer reshape\w* \(Reshape\)",
}
