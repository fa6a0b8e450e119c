"""Leave out of a graph what does nothing: views of views, pairs that cancel, nodes that nobody reads."""

from typing import Any

import onnx
from onnx import numpy_helper

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
"""Operators that change a tensor's axes and none of its values."""


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph without needless nodes; inputs, outputs and every computed value stay the same.

    The model given is used up: its nodes are changed on the way.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers: dict[str, Any] = {}
    same: dict[str, str] = {}
    for node in model.graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        if node.op_type == "Reshape" and 0 not in constants.get(node.input[1], [0]):
            node.input[0] = _viewed(node.input[0], makers)
        if node.op_type == "Squeeze" and (source := _before_unsqueeze(node, makers, constants)):
            same[node.output[0]] = source
        makers.update(dict.fromkeys(node.output, node))
    return _without_unread(model)


def _viewed(name: str, makers: dict[str, Any]) -> str:
    """Return the tensor at the bottom of a chain of views."""
    while (maker := makers.get(name)) is not None and maker.op_type in VIEWS:
        name = maker.input[0]
    return name


def _before_unsqueeze(node: Any, makers: dict[str, Any], constants: dict[str, Any]) -> str | None:
    """Return what went into the Unsqueeze that this Squeeze takes back; None if it takes back none."""
    maker = makers.get(node.input[0])
    if maker is None or maker.op_type != "Unsqueeze" or len(node.input) < 2:
        return None
    there, back = (constants.get(entry.input[1]) for entry in (maker, node))
    if there is None or back is None or there.tolist() != back.tolist():
        return None
    return str(maker.input[0])


def _without_unread(model: onnx.ModelProto) -> onnx.ModelProto:
    read = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if read.intersection(node.output):
            kept.append(node)
            read.update(node.input)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(reversed(kept))
    result.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    for index, node in enumerate(result.graph.node):
        node.name = f"{node.op_type}_{index}"
    return result
