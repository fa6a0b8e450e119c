"""Write recurrent operators out as products and activations, step by step.

What onnxruntime's own LSTM does in one operator is faster in many on the CPU: each gate's product and activation become
one fused kernel, and nothing is copied between the steps. `cells` says what a step is made of.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.cells import Arithmetic, Cell, Gate, State, gru, lstm, simple
from export.nodes import Nodes

LONGEST = 512
"""Steps up to which a recurrence is written out; beyond, the operator stays: the graph would only get large."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """An operator that can be written out.

    Attributes:
        gates: how many it has.
        activations: those that it has where nothing else is said.
    """

    gates: int
    activations: tuple[bytes, ...]


KINDS = {
    "LSTM": _Kind(4, (b"Sigmoid", b"Tanh", b"Tanh")),
    "GRU": _Kind(3, (b"Sigmoid", b"Tanh")),
    "RNN": _Kind(1, (b"Tanh",)),
}


def unroll(model: onnx.ModelProto, arithmetic: Arithmetic) -> onnx.ModelProto:
    """Return the graph with every recurrence that is of the plain kind, and not too long, written out.

    Args:
        model: a graph whose tensors have known shapes but for the batch.
        arithmetic: what the new steps are made of.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    lengths = {entry.name: _axes(entry) for entry in [*inferred.graph.value_info, *inferred.graph.input]}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    result, nodes = onnx.ModelProto(), Nodes(f"{arithmetic}_")
    result.CopyFrom(model)
    for node in model.graph.node:
        steps = _plain_steps(node, lengths, weights)
        if steps is None:
            nodes.nodes.append(node)
        else:
            gates = _gates(node, weights)
            rows = _inputs(nodes, node.input[0], steps, len(gates[0].kernel), with_one=arithmetic == "int8")
            _write_out(nodes, node, rows, _cell(nodes, node, gates, arithmetic), model.graph)
    return _rebuilt(result, nodes)


def _write_out(nodes: Nodes, node: Any, rows: list[str], cell: Cell, graph: Any) -> None:
    """Append the steps of one recurrence: T times X [B, I] to Y [T, 1, B, U] and the last states [1, B, U]."""
    first, both = nodes.constant([0]), nodes.constant([0, 1])
    given, outputs = [*node.input, "", "", ""], [*node.output, "", ""]
    begin = [name for at, name in enumerate(given) if at in {5, 6}]
    state: State | None = None
    if not all(_is_zero(name, graph) for name in begin):
        state = tuple(nodes.op("Squeeze", name, first) for name in begin if name)
    hidden = []
    for x in rows:
        state = cell(x, state)
        hidden.append(state[0])
    assert state is not None, "a recurrence has at least one step"  # noqa: S101  (_plain_steps saw to it)
    if outputs[0] and _is_read(outputs[0], graph):
        steps = [nodes.op("Unsqueeze", h, both) for h in hidden]
        nodes.nodes.append(helper.make_node("Concat", steps, [outputs[0]], axis=0))
    for name, tensor in zip(outputs[1:], state, strict=False):
        if name:
            nodes.nodes.append(helper.make_node("Unsqueeze", [tensor, first], [name]))


def _cell(nodes: Nodes, node: Any, gates: list[Gate], arithmetic: Arithmetic) -> Cell:
    if node.op_type == "GRU":
        reset_after = bool(_settings(node).get("linear_before_reset", 0))
        return gru(nodes, gates, arithmetic, reset_after=reset_after)
    return (lstm if node.op_type == "LSTM" else simple)(nodes, gates, arithmetic)


def _inputs(nodes: Nodes, source: str, steps: int, width: int, *, with_one: bool) -> list[str]:
    """Cut X [T, B, I] into T tensors [B, I]; with a last column of ones for the bias, where asked."""
    rows = source if steps == 1 else nodes.op("Transpose", source, perm=[1, 0, 2])
    if with_one:
        behind_the_last_axis = nodes.constant([0, 0, 0, 0, 0, 1])
        rows, width = nodes.op("Pad", rows, behind_the_last_axis, nodes.constant(1, np.float32)), width + 1
    flat = nodes.op("Reshape", rows, nodes.constant([-1, steps * width]))
    return [flat] if steps == 1 else nodes.split("Split", steps, flat, nodes.constant([width] * steps), axis=1)


def _plain_steps(node: Any, lengths: dict[str, tuple[int, ...]], weights: dict[str, Any]) -> int | None:
    """Return the number of steps of a recurrence that can be written out; None for everything else."""
    if node.op_type not in KINDS or node.domain not in {"", "ai.onnx"}:
        return None
    usual = {"activations": [*KINDS[node.op_type].activations], "direction": b"forward", "input_forget": 0, "layout": 0}
    settings = _settings(node)
    if "clip" in settings or any(settings.get(name, value) != value for name, value in usual.items()):
        return None
    given = list(node.input) + [""] * (8 - len(node.input))
    if given[4] or given[7] or any(name not in weights for name in given[1:4] if name):
        return None
    steps = lengths.get(given[0], (0,))[0]
    return steps if 1 <= steps <= LONGEST else None


def _settings(node: Any) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _gates(node: Any, weights: dict[str, Any]) -> list[Gate]:
    """Return the weights gate by gate, in the operator's order."""
    count = KINDS[node.op_type].gates
    kernel, recurrent = (numpy_helper.to_array(weights[name])[0].T for name in node.input[1:3])
    biases = np.zeros((2, kernel.shape[1]), np.float32)
    if len(node.input) > 3 and node.input[3]:
        biases = numpy_helper.to_array(weights[node.input[3]])[0].reshape(2, -1)
    parts = [np.split(part, count, axis=-1) for part in (kernel, recurrent, *biases)]
    return [Gate(*gate) for gate in zip(*parts, strict=True)]


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
