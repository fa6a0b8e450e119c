"""What one step of a recurrence is made of: products in float32, or the state's in int8, and the activations of a cell.

The int8 form multiplies the hidden state, which lies in (-1, 1), as integers: its scale is 1/127 for every row of every
batch, so a row's forecast cannot depend on its neighbours. Inputs, biases, cell state and activations stay float32, so
no input is ever clipped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from export.nodes import Nodes

STATE_SCALE = np.float32(1 / 127)
ZERO_POINT = np.uint8(128)
"""uint8 with the middle as zero times int8 is the product that processors have an instruction for."""

Arithmetic = Literal["fp32", "int8"]
Array = npt.NDArray[Any]
State = tuple[str, ...]
"""Names of a cell's states [B, U], the hidden state first."""
Sum = Callable[[str, str | None], str]
"""Appends what a gate is fed, of x [B, I] and the hidden state [B, U] (None: it is zero); returns [B, U]."""
Cell = Callable[[str, State | None], State]
"""Appends one step, of x [B, I] and the states before (None: they are zero); returns the states after."""


@dataclass(frozen=True, slots=True)
class Gate:
    """The weights of one gate.

    Attributes:
        kernel: [I, U].
        recurrent: [U, U].
        bias: [U], of the inputs.
        state_bias: [U], of the hidden state; it is added to the other one, but in a GRU that resets it too.
    """

    kernel: Array
    recurrent: Array
    bias: Array
    state_bias: Array


def lstm(nodes: Nodes, gates: list[Gate], arithmetic: Arithmetic) -> Cell:
    """Return an LSTM's step; gates input, output, forget, candidate."""
    sums = [_sum(nodes, gate, arithmetic) for gate in gates]

    def step(x: str, state: State | None) -> State:
        hidden = None if state is None else state[0]
        i, o, f = (nodes.op("Sigmoid", one(x, hidden)) for one in sums[:3])
        cell = nodes.op("Mul", i, nodes.op("Tanh", sums[3](x, hidden)))
        if state is not None:
            cell = nodes.op("Add", nodes.op("Mul", f, state[1]), cell)
        return nodes.op("Mul", o, nodes.op("Tanh", cell)), cell

    return step


def gru(nodes: Nodes, gates: list[Gate], arithmetic: Arithmetic, *, reset_after: bool) -> Cell:
    """Return a GRU's step; gates update, reset, candidate.

    Args:
        nodes: where the step is appended.
        gates: their weights.
        arithmetic: what the products are made in.
        reset_after: the reset gate is for the state's product, and not for the state (`linear_before_reset`).
    """
    update, reset = (_sum(nodes, gate, arithmetic) for gate in gates[:2])
    candidate = (_reset_after if reset_after else _reset_before)(nodes, gates[2], arithmetic)
    one = nodes.constant(1, np.float32)

    def step(x: str, state: State | None) -> State:
        hidden = None if state is None else state[0]
        z, r = (nodes.op("Sigmoid", gate(x, hidden)) for gate in (update, reset))
        new = nodes.op("Tanh", candidate(x, hidden, r))
        if hidden is None:
            return (nodes.op("Mul", nodes.op("Sub", one, z), new),)
        return (nodes.op("Add", new, nodes.op("Mul", z, nodes.op("Sub", hidden, new))),)

    return step


def simple(nodes: Nodes, gates: list[Gate], arithmetic: Arithmetic) -> Cell:
    """Return the step of a recurrence with nothing but a candidate."""
    total = _sum(nodes, gates[0], arithmetic)
    return lambda x, state: (nodes.op("Tanh", total(x, None if state is None else state[0])),)


Candidate = Callable[[str, str | None, str], str]
"""Appends what a GRU's candidate is fed, of x, the hidden state and the reset gate."""


def _reset_before(nodes: Nodes, gate: Gate, arithmetic: Arithmetic) -> Candidate:
    total = _sum(nodes, gate, arithmetic)
    return lambda x, hidden, r: total(x, None if hidden is None else nodes.op("Mul", r, hidden))


def _reset_after(nodes: Nodes, gate: Gate, arithmetic: Arithmetic) -> Candidate:
    zeros = np.zeros_like(gate.bias)
    of_inputs = _sum(nodes, Gate(gate.kernel, gate.recurrent, gate.bias, zeros), arithmetic)
    product = _state_product(nodes, gate, arithmetic)
    bias = nodes.constant(gate.state_bias, np.float32)

    def candidate(x: str, hidden: str | None, r: str) -> str:
        of_state = bias if hidden is None else product(hidden)
        return nodes.op("Add", of_inputs(x, None), nodes.op("Mul", r, of_state))

    return candidate


def _state_product(nodes: Nodes, gate: Gate, arithmetic: Arithmetic) -> Callable[[str], str]:
    """Return what appends the hidden state's product with its bias."""
    bias = nodes.constant(gate.state_bias, np.float32)
    if arithmetic == "int8":
        product = _integer_product(nodes, gate.recurrent)
        return lambda hidden: nodes.op("Add", product(hidden), bias)
    weights = nodes.constant(gate.recurrent, np.float32)
    return lambda hidden: nodes.op("Gemm", hidden, weights, bias)


def _sum(nodes: Nodes, gate: Gate, arithmetic: Arithmetic) -> Sum:
    return (_float_sum if arithmetic == "fp32" else _integer_sum)(nodes, gate)


def _float_sum(nodes: Nodes, gate: Gate) -> Sum:
    """Return what appends a gate's products as one in float32; without a hidden state its product is left out."""
    bias = nodes.constant(gate.bias + gate.state_bias, np.float32)
    kernel = nodes.constant(gate.kernel, np.float32)
    joined = nodes.constant(np.concatenate([gate.kernel, gate.recurrent]), np.float32)

    def total(x: str, hidden: str | None) -> str:
        if hidden is None:
            return nodes.op("Gemm", x, kernel, bias)
        return nodes.op("Gemm", nodes.once("Concat", x, hidden, axis=1), joined, bias)

    return total


def _integer_sum(nodes: Nodes, gate: Gate) -> Sum:
    """Return what appends a gate's products, the hidden state's in integers; x ends with a column of ones."""
    bias = gate.bias + gate.state_bias
    kernel = nodes.constant(np.concatenate([gate.kernel, bias[None]]), np.float32)
    product = _integer_product(nodes, gate.recurrent)
    return lambda x, hidden: nodes.op("Gemm", x, kernel, *([] if hidden is None else [product(hidden)]))


def _integer_product(nodes: Nodes, recurrent: Array) -> Callable[[str], str]:
    zero, nought = nodes.constant(ZERO_POINT, np.uint8), nodes.constant(0, np.int8)
    unit = nodes.constant(STATE_SCALE, np.float32)
    integers, scales = quantized(recurrent)
    weights, factors = nodes.constant(integers, np.int8), nodes.constant(scales * STATE_SCALE, np.float32)

    def product(hidden: str) -> str:
        state = nodes.once("QuantizeLinear", hidden, unit, zero)
        found = nodes.op("Cast", nodes.op("MatMulInteger", state, weights, zero, nought), to=TensorProto.FLOAT)
        return nodes.op("Mul", found, factors)

    return product


def quantized(weights: Array) -> tuple[Array, Array]:
    """Round weights [I, U] to int8, each column with a scale of its own; return both, scales as [U]."""
    largest = np.abs(weights).max(axis=0)
    scale = np.where(largest > 0, largest, 1) / np.float32(127)
    return np.rint(weights / scale).astype(np.int8), scale.astype(np.float32)
