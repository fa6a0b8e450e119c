"""Loops that treat the recurrent states wrongly: exchanged, begun anew, or not carried."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from runner.gap.case import Alternative, Case
from runner.gap.machine import Encoded, Hooks, Machine, State


def swapped(machine: Machine, state: State) -> State:
    """Exchange hidden and cell state of every layer that has both."""
    other = dict(state)
    for layer in machine.layers:
        if len(layer) == 2:
            other[layer[0]], other[layer[1]] = state[layer[1]], state[layer[0]]
    return other


def swapping_hooks(machine: Machine, *, once: bool) -> Hooks:
    """Return hooks that exchange the states when the loop begins, or also after each step."""

    def begin(encoded: Encoded) -> Encoded:
        return replace(encoded, state=swapped(machine, encoded.state))

    return Hooks(begin=begin) if once else Hooks(begin=begin, carry=lambda state, _: swapped(machine, state))


def wrong_states(case: Case) -> Iterator[Alternative]:
    """Simulate loops that exchange states, or lose one of them."""
    machine = case.machine
    cells = [layer[1] for layer in machine.layers if len(layer) == 2]
    if cells:
        order = "hand over and take back the states in the order hidden, cell"
        said = f"Hidden and cell state were exchanged between encoder and decoder; {order}."
        yield Alternative("states_swapped", said, case.run(hooks=swapping_hooks(machine, once=True)))
        said = f"Hidden and cell state were exchanged at each step; {order}."
        after = Hooks(carry=lambda state, _: swapped(machine, state))
        for hooks in (after, swapping_hooks(machine, once=False)):
            yield Alternative("states_swapped_each_step", said, case.run(hooks=hooks))
        said = "The cell state began anew at each step, only the hidden state was carried; carry both."
        yield from (Alternative("cell_reset", said, case.run(hooks=hooks)) for hooks in _resetting(cells))
    yield from _layers_mixed(case)


def _layers_mixed(case: Case) -> Iterator[Alternative]:
    """Give each recurrent tensor what belongs to another one of its width."""
    names = [name for layer in case.machine.layers for name in layer]
    by_kind = [name for place in range(2) for layer in case.machine.layers for name in layer[place : place + 1]]
    backwards = [name for layer in reversed(case.machine.layers) for name in layer]
    widths = {case.encoded.state[name].shape[1] for name in names}
    said = "The layers' states were exchanged; hand each layer of the decoder the states of its own layer."
    for order in (by_kind, backwards):
        if order != names and len(widths) == 1:
            taken = dict(zip(names, order, strict=True))

            def begin(encoded: Encoded, taken: dict[str, str] = taken) -> Encoded:
                return replace(encoded, state={name: encoded.state[other] for name, other in taken.items()})

            yield Alternative("states_swapped", said, case.run(hooks=Hooks(begin=begin)))


def states_not_carried(case: Case) -> Iterator[Alternative]:
    """Simulate loops that begin, or begin each step, with another state than the last one."""
    carry = "feed the states that a step returns into the next one"
    said = f"Each step began with the encoder's state again; {carry}."
    yield Alternative("state_not_carried", said, case.run(hooks=Hooks(carry=lambda _, first: first.state)))
    said = f"Each step after the first began with a state of zeros; {carry}."
    yield Alternative("state_not_carried", said, case.run(hooks=Hooks(carry=lambda state, _: _zeros(state))))
    said = (
        f"The encoder's state was never handed over, and no step's was carried; {carry}, beginning with the encoder's."
    )
    begin = _from_zeros
    yield Alternative("state_not_carried", said, case.run(hooks=Hooks(begin, lambda state, _: _zeros(state))))
    said = "The decoder began with a state of zeros; hand it the encoder's state."
    yield Alternative("state_not_carried", said, case.run(hooks=Hooks(begin=begin)))
    hidden = [layer[0] for layer in case.machine.layers if len(layer) == 2]
    said = "The hidden state began anew at each step, only the cell state was carried; carry both."
    for hooks in _resetting(hidden) if hidden else ():
        yield Alternative("state_not_carried", said, case.run(hooks=hooks))


def _resetting(names: list[str]) -> tuple[Hooks, ...]:
    """Return hooks that set some tensors to zero after each step, or to what the encoder made of them."""
    return (
        Hooks(carry=lambda state, _: {**state, **{name: np.zeros_like(state[name]) for name in names}}),
        Hooks(carry=lambda state, first: {**state, **{name: first.state[name] for name in names}}),
    )


def _zeros(state: State) -> State:
    return {name: np.zeros_like(tensor) for name, tensor in state.items()}


def _from_zeros(encoded: Encoded) -> Encoded:
    return replace(encoded, state=_zeros(encoded.state))
