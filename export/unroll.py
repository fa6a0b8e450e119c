"""Write LSTM operators out as products and activations, step by step: in float32, or with the state product in int8.

What onnxruntime's own LSTM does in one operator is faster in many on the CPU: each gate's product and activation become
one fused kernel, and nothing is copied between the steps. The int8 form multiplies the hidden state, which lies in
(-1, 1), as integers: its scale is 1/127 for every row of every batch, so a row's forecast cannot depend on its
neighbours. Inputs, biases, cell state and activations stay float32, so no input is ever clipped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.nodes import Nodes

LONGEST = 512
"""Steps up to which a recurrence is written out; beyond, the LSTM operator stays: the graph would only get large."""
STATE_SCALE = np.float32(1 / 127)
ZERO_POINT = np.uint8(128)
"""uint8 with the middle as zero times int8 is the product that processors have an instruction for."""

Cell = Literal["fp32", "int8"]
Array = npt.NDArray[Any]
Sums = Callable[[str, str | None], list[str]]
"""Appends what the four gates of a step are fed, of x [B, I] and the hidden state [B, U]; returns [B, U] each."""


@dataclass(frozen=True, slots=True)
class _Gates:
    """The weights of one LSTM, gate by gate, in the order input, output, forget, candidate.

    Attributes:
        kernel: each [I, U].
        recurrent: each [U, U].
        bias: each [U].
    """

    kernel: list[Array]
    recurrent: list[Array]
    bias: list[Array]

    @property
    def inputs(self) -> int:
        return int(self.kernel[0].shape[0])


def unroll(model: onnx.ModelProto, cell: Cell) -> onnx.ModelProto:
    """Return the graph with every LSTM that is of the plain kind, and not too long, written out.

    Args:
        model: a graph whose tensors have known shapes but for the batch.
        cell: what the new steps are made of.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    lengths = {entry.name: _axes(entry) for entry in [*inferred.graph.value_info, *inferred.graph.input]}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    result, nodes = onnx.ModelProto(), Nodes(f"{cell}_")
    result.CopyFrom(model)
    for node in model.graph.node:
        steps = _plain_steps(node, lengths, weights)
        if steps is None:
            nodes.nodes.append(node)
        else:
            _write_out(nodes, node, steps, _gates(node, weights), model.graph, cell)
    return _rebuilt(result, nodes)


def _write_out(nodes: Nodes, node: Any, steps: int, gates: _Gates, graph: Any, cell: Cell) -> None:
    """Append the steps of one LSTM: X [T, B, I] to Y [T, 1, B, U], Y_h and Y_c [1, B, U]."""
    first, both = nodes.constant([0]), nodes.constant([0, 1])
    sources, outputs = [*node.input, "", "", ""], [*node.output, "", ""]
    state = None
    if not (_is_zero(sources[5], graph) and _is_zero(sources[6], graph)):
        state = nodes.op("Squeeze", sources[5], first), nodes.op("Squeeze", sources[6], first)
    sums = _float_sums(nodes, gates) if cell == "fp32" else _integer_sums(nodes, gates)
    hidden = []
    for x in _inputs(nodes, sources[0], steps, gates, with_one=cell == "int8"):
        state = _activate(nodes, sums(x, state and state[0]), state)
        hidden.append(state[0])
    assert state is not None, "a recurrence has at least one step"  # noqa: S101  (_plain_steps saw to it)
    if outputs[0] and _is_read(outputs[0], graph):
        rows = [nodes.op("Unsqueeze", h, both) for h in hidden]
        nodes.nodes.append(helper.make_node("Concat", rows, [outputs[0]], axis=0))
    for name, tensor in zip(outputs[1:3], state, strict=True):
        if name:
            nodes.nodes.append(helper.make_node("Unsqueeze", [tensor, first], [name]))


def _inputs(nodes: Nodes, source: str, steps: int, gates: _Gates, *, with_one: bool) -> list[str]:
    """Cut X [T, B, I] into T tensors [B, I]; with a last column of ones for the bias, where asked."""
    width = gates.inputs
    rows = source if steps == 1 else nodes.op("Transpose", source, perm=[1, 0, 2])
    if with_one:
        behind_the_last_axis = nodes.constant([0, 0, 0, 0, 0, 1])
        rows, width = nodes.op("Pad", rows, behind_the_last_axis, nodes.constant(1, np.float32)), width + 1
    flat = nodes.op("Reshape", rows, nodes.constant([-1, steps * width]))
    return [flat] if steps == 1 else nodes.split("Split", steps, flat, nodes.constant([width] * steps), axis=1)


def _float_sums(nodes: Nodes, gates: _Gates) -> Sums:
    """Return what appends a step's products in float32; without a hidden state its product is left out: it is zero."""
    biases = [nodes.constant(bias, np.float32) for bias in gates.bias]
    kernels = [nodes.constant(kernel, np.float32) for kernel in gates.kernel]
    joined = [
        nodes.constant(np.concatenate(pair), np.float32) for pair in zip(gates.kernel, gates.recurrent, strict=True)
    ]

    def sums(x: str, hidden: str | None) -> list[str]:
        feed, weights = (x, kernels) if hidden is None else (nodes.op("Concat", x, hidden, axis=1), joined)
        return [nodes.op("Gemm", feed, weight, bias) for weight, bias in zip(weights, biases, strict=True)]

    return sums


def _integer_sums(nodes: Nodes, gates: _Gates) -> Sums:
    """Return what appends a step's products, the hidden state's in integers; x ends with a column of ones."""
    zero, nought = nodes.constant(ZERO_POINT, np.uint8), nodes.constant(0, np.int8)
    unit = nodes.constant(STATE_SCALE, np.float32)
    kernels = [
        nodes.constant(np.concatenate([kernel, bias[None]]), np.float32)
        for kernel, bias in zip(gates.kernel, gates.bias, strict=True)
    ]
    integers, scales = zip(*(quantized(recurrent) for recurrent in gates.recurrent), strict=True)
    weights = [nodes.constant(values, np.int8) for values in integers]
    factors = [nodes.constant(scale * STATE_SCALE, np.float32) for scale in scales]

    def sums(x: str, hidden: str | None) -> list[str]:
        if hidden is None:
            return [nodes.op("Gemm", x, kernel) for kernel in kernels]
        state = nodes.op("QuantizeLinear", hidden, unit, zero)
        products = [nodes.op("MatMulInteger", state, weight, zero, nought) for weight in weights]
        products = [nodes.op("Cast", product, to=TensorProto.FLOAT) for product in products]
        products = [nodes.op("Mul", product, scale) for product, scale in zip(products, factors, strict=True)]
        return [nodes.op("Gemm", x, kernel, product) for kernel, product in zip(kernels, products, strict=True)]

    return sums


def quantized(weights: Array) -> tuple[Array, Array]:
    """Round weights [I, U] to int8, each column with a scale of its own; return both, scales as [U]."""
    largest = np.abs(weights).max(axis=0)
    scale = np.where(largest > 0, largest, 1) / np.float32(127)
    return np.rint(weights / scale).astype(np.int8), scale.astype(np.float32)


def _activate(nodes: Nodes, sums: list[str], state: tuple[str, str] | None) -> tuple[str, str]:
    """Append what makes the next hidden and cell state [B, U] of the four gates' sums."""
    i, o, f, c = (nodes.op(kind, x) for kind, x in zip(("Sigmoid", "Sigmoid", "Sigmoid", "Tanh"), sums, strict=True))
    cell = nodes.op("Mul", i, c)
    if state is not None:
        cell = nodes.op("Add", nodes.op("Mul", f, state[1]), cell)
    return nodes.op("Mul", o, nodes.op("Tanh", cell)), cell


def _plain_steps(node: Any, lengths: dict[str, tuple[int, ...]], weights: dict[str, Any]) -> int | None:
    """Return the number of steps of an LSTM that can be written out; None for everything else."""
    if node.op_type != "LSTM" or node.domain not in {"", "ai.onnx"}:
        return None
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    usual = {"activations": [b"Sigmoid", b"Tanh", b"Tanh"], "direction": b"forward", "input_forget": 0, "layout": 0}
    if "clip" in settings or any(settings.get(name, value) != value for name, value in usual.items()):
        return None
    given = list(node.input) + [""] * (8 - len(node.input))
    if given[4] or given[7] or any(name not in weights for name in given[1:4] if name):
        return None
    steps = lengths.get(given[0], (0,))[0]
    return steps if 1 <= steps <= LONGEST else None


def _gates(node: Any, weights: dict[str, Any]) -> _Gates:
    kernel, recurrent = (numpy_helper.to_array(weights[name])[0].T for name in node.input[1:3])
    units = recurrent.shape[0]
    bias = np.zeros(4 * units, np.float32)
    if len(node.input) > 3 and node.input[3]:
        both = numpy_helper.to_array(weights[node.input[3]])[0]
        bias = both[: 4 * units] + both[4 * units :]
    return _Gates(*(np.split(part, 4, axis=-1) for part in (kernel, recurrent, bias)))


def _is_zero(name: str, graph: Any) -> bool:
    """Tell whether a tensor is zero in every graph run: not given, or a zero in some shape."""
    if not name:
        return True
    for tensor in graph.initializer:
        if tensor.name == name:
            return not numpy_helper.to_array(tensor).any()
    maker = next((node for node in graph.node if name in node.output), None)
    if maker is None:
        return False
    if maker.op_type == "ConstantOfShape":
        return not any(numpy_helper.to_array(attribute.t).any() for attribute in maker.attribute)
    return maker.op_type in {"Expand", "Unsqueeze", "Squeeze", "Identity"} and _is_zero(maker.input[0], graph)


def _is_read(name: str, graph: Any) -> bool:
    return any(name in node.input for node in graph.node) or any(name == output.name for output in graph.output)


def _axes(entry: Any) -> tuple[int, ...]:
    """Return a tensor's axes, 0 where unknown; (0,) where not even their number is known."""
    return tuple(axis.dim_value for axis in entry.type.tensor_type.shape.dim) or (0,)


def _rebuilt(model: onnx.ModelProto, nodes: Nodes) -> onnx.ModelProto:
    """Put the new nodes and constants in place of the old, and drop constants that nothing reads any more."""
    read = {name for node in nodes.nodes for name in node.input}
    kept = [tensor for tensor in [*model.graph.initializer, *nodes.constants.values()] if tensor.name in read]
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes.nodes)
    model.graph.initializer.extend(kept)
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    return model
