"""The decoding loop taken apart: encoder and step as functions, with a place for whatever may go wrong between them.

`runner.decode` is what production runs, and stays as simple as it is. This loop does the same where nothing is hooked
in (a test holds them equal, bit for bit); it exists to do it *differently*: with noise on what is fed back, or with a
fault, so that a wrong loop can be recognised by its forecasts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runner.batch import F32, WindowBatch
from runner.decode import RunGraph, encoder_feeds
from runner.manifest import Manifest

State = dict[str, F32]
"""Recurrent tensors by name [B, U]."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder makes of a batch of contexts.

    Attributes:
        previous: the start values in raw units [B, M].
        state: recurrent tensors by name [B, U].
        memory: what every step reads, by name [B, ...].
    """

    previous: F32
    state: State
    memory: State

    def repeated(self, times: int) -> "Encoded":
        """Return every window `times` times, one after the other [B * times, ...]."""
        return Encoded(
            np.repeat(self.previous, times, axis=0),
            {name: np.repeat(tensor, times, axis=0) for name, tensor in self.state.items()},
            {name: np.repeat(tensor, times, axis=0) for name, tensor in self.memory.items()},
        )


Step = Callable[[F32, F32 | None, State, State], tuple[F32, State]]
"""previous [B, M], future_known [B, 1, K] or None, state and memory in; prediction [B, M] and the next state out."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A forecaster as two functions. Tensors are in raw units; functions may be called with any number of windows.

    Attributes:
        encode: contexts in, start value, states and memory out.
        step: one step of the decoder.
        layers: names of the recurrent tensors of each layer, hidden state first.
        horizon: H.
    """

    encode: Callable[[WindowBatch], Encoded]
    step: Step
    layers: tuple[tuple[str, ...], ...]
    horizon: int


@dataclass(frozen=True, slots=True)
class Hooks:
    """Where a loop can be changed. The defaults change nothing.

    Attributes:
        begin: takes what the encoder made, returns what the first step gets.
        carry: takes the state that a step returned, and what the first step got; returns what the next step gets.
        feed: takes the prediction of a step [B, M] and its number from 0 on; returns the next step's input, the same.
    """

    begin: Callable[[Encoded], Encoded] = lambda encoded: encoded
    carry: Callable[[State, Encoded], State] = lambda state, _: state
    feed: Callable[[F32, int], F32] = lambda prediction, _: prediction


def machine_of(encoder: RunGraph, step: RunGraph, manifest: Manifest) -> Machine:
    """Return the machine of a bundle's two graphs."""
    names = manifest.decoder_step.tensors

    def encode(batch: WindowBatch) -> Encoded:
        encoded = encoder(encoder_feeds(manifest, batch))
        return Encoded(
            encoded[manifest.encoder.tensors["previous_0"]],
            {pair.step_input: encoded[pair.encoder_output] for pair in manifest.states},
            {pair.step_input: encoded[pair.encoder_output] for pair in manifest.memory},
        )

    def once(previous: F32, future: F32 | None, state: State, memory: State) -> tuple[F32, State]:
        feeds = {names["previous"]: previous[:, None], **state, **memory}
        if future is not None:
            feeds[names["future_known"]] = future
        returned = step(feeds)
        return returned[names["prediction"]][:, 0], {
            pair.step_input: returned[pair.step_output] for pair in manifest.states
        }

    return Machine(encode, once, layers_of([pair.step_input for pair in manifest.states]), manifest.horizon)


def layers_of(states: list[str]) -> tuple[tuple[str, ...], ...]:
    """Group the names of recurrent tensors by layer: a cell belongs to the hidden state before it."""
    layers: list[tuple[str, ...]] = []
    for name in states:
        if name.startswith("cell") and layers:
            layers[-1] = (*layers[-1], name)
        else:
            layers.append((name,))
    return tuple(layers)


def unroll(
    machine: Machine, encoded: Encoded, future: F32 | None, inputs: F32 | None = None, hooks: Hooks | None = None
) -> F32:
    """Run the loop over what the encoder made.

    Args:
        machine: whose steps.
        encoded: of these windows.
        future: `future_known` [B, H, K]; None where K = 0.
        inputs: the decoder's inputs in raw units [B, H * M]; None = free-running.
        hooks: what goes differently.

    Returns:
        Predictions in raw units [B, H * M].
    """
    hooks = hooks or Hooks()
    first = hooks.begin(encoded)
    rows, width = first.previous.shape
    previous, state = first.previous if inputs is None else inputs[:, :width], first.state
    predictions = np.empty((rows, machine.horizon * width), np.float32)
    for h in range(machine.horizon):
        known = None if future is None else np.ascontiguousarray(future[:, h : h + 1])
        prediction, state = machine.step(np.ascontiguousarray(previous), known, state, first.memory)
        predictions[:, h * width : (h + 1) * width] = prediction
        state = hooks.carry(state, first)
        previous = hooks.feed(prediction, h) if inputs is None else inputs[:, (h + 1) * width : (h + 2) * width]
    return predictions
