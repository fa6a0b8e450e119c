"""Compose the whole horizon loop of the encoder and the single step: one graph, run once a batch."""

from typing import Any

import onnx
from onnx import TensorProto, helper

from export.nodes import Nodes
from export.simplify import simplify
from runner.manifest import Manifest

LONGEST_HORIZON = 512
"""Steps beyond which the loop stays outside the graph."""


def can_fuse(encoder: onnx.ModelProto, step: onnx.ModelProto, horizon: int) -> bool:
    """Tell whether the loop fits into a graph: not too long, and no graphs inside nodes, whose names would clash."""
    inner = [a for model in (encoder, step) for node in model.graph.node for a in node.attribute if a.HasField("g")]
    return horizon <= LONGEST_HORIZON and not inner


def fuse(encoder: onnx.ModelProto, step: onnx.ModelProto, manifest: Manifest) -> onnx.ModelProto:
    """Return the graph that does for all H steps what the loop of `runner.decode` does with the two graphs.

    Its inputs are the encoder's, `future_known` [batch, H, K] where the bundle has it, and `teacher` [batch, H * M]:
    the value to feed at each step; NaN where the last prediction is fed back, infinity where the start value is (at the
    first step it always is). Its output is `prediction` [batch, H * M].
    """
    horizon, names, own = manifest.horizon, manifest.decoder_step.tensors, manifest.fused_tensors()
    width = manifest.target_width
    nodes = Nodes("loop_")
    encoded = _placed(nodes, encoder, "encoder_", {entry.name: entry.name for entry in encoder.graph.input})
    _keep_constants(nodes, step, "step_")
    last = nodes.constant([2])
    known = _steps(nodes, own["future_known"], horizon) if manifest.future_width else []
    start = encoded[manifest.encoder.tensors["previous_0"]]
    first = nodes.op("Concat", *[start] * horizon, axis=1) if width > 1 else start
    forced = nodes.op("Where", nodes.op("IsInf", own["teacher"]), first, own["teacher"])
    teacher = _steps(nodes, _by_step(nodes, forced, manifest), horizon)
    free = _steps(nodes, _by_step(nodes, nodes.op("IsNaN", own["teacher"]), manifest), horizon)
    memory = {pair.step_input: encoded[pair.encoder_output] for pair in manifest.memory}
    state = {pair.step_input: encoded[pair.encoder_output] for pair in manifest.states}
    previous = nodes.op("Unsqueeze", start, nodes.constant([1]))
    predictions: list[str] = []
    for h in range(horizon):
        if h:
            previous = nodes.op("Where", free[h], predictions[-1], teacher[h])
        feeds = {names["previous"]: previous, **state, **memory}
        feeds |= {names["future_known"]: known[h]} if known else {}
        returned = _placed(nodes, step, f"step{h}_", feeds, constants="step_")
        state = {pair.step_input: returned[pair.step_output] for pair in manifest.states}
        predictions.append(returned[names["prediction"]])
    joined = nodes.op("Concat", *predictions, axis=1)
    flat = [joined, last] if width == 1 else [joined, nodes.constant([0, manifest.cells])]
    nodes.nodes.append(helper.make_node("Squeeze" if width == 1 else "Reshape", flat, [own["prediction"]]))
    return _model(nodes, encoder, manifest)


def _by_step(nodes: Nodes, source: str, manifest: Manifest) -> str:
    """Give a tensor [B, H * M] an axis for the targets, [B, H, M]."""
    if manifest.target_width == 1:
        return nodes.op("Unsqueeze", source, nodes.constant([2]))
    return nodes.op("Reshape", source, nodes.constant([0, manifest.horizon, manifest.target_width]))


def _steps(nodes: Nodes, source: str, horizon: int) -> list[str]:
    """Cut a tensor [B, H, ...] into H tensors [B, 1, ...]."""
    return [source] if horizon == 1 else nodes.split("Split", horizon, source, nodes.constant([1] * horizon), axis=1)


def _placed(
    nodes: Nodes, model: onnx.ModelProto, prefix: str, feeds: dict[str, str], constants: str | None = None
) -> dict[str, str]:
    """Append a graph's nodes under a prefix, fed by these tensors; return its outputs by their own names.

    `constants` is the prefix that its constants have been kept under already; None keeps them now.
    """
    if constants is None:
        constants = prefix
        _keep_constants(nodes, model, prefix)
    new = {**feeds, **{tensor.name: f"{constants}{tensor.name}" for tensor in model.graph.initializer}, "": ""}
    for node in model.graph.node:
        new |= {name: f"{prefix}{name}" for name in node.output if name}
        placed = onnx.NodeProto()
        placed.CopyFrom(node)
        placed.input[:] = [new[name] for name in node.input]
        placed.output[:] = [new[name] for name in node.output]
        nodes.nodes.append(placed)
    return {entry.name: new[entry.name] for entry in model.graph.output}


def _keep_constants(nodes: Nodes, model: onnx.ModelProto, prefix: str) -> None:
    for tensor in model.graph.initializer:
        kept = onnx.TensorProto()
        kept.CopyFrom(tensor)
        kept.name = f"{prefix}{tensor.name}"
        nodes.constants[kept.name] = kept


def _model(nodes: Nodes, encoder: onnx.ModelProto, manifest: Manifest) -> onnx.ModelProto:
    def declared(name: str, *axes: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *axes])

    horizon = manifest.horizon
    names = manifest.fused_tensors()
    inputs = [*encoder.graph.input, declared(names["teacher"], manifest.cells)]
    if manifest.future_width:
        inputs.append(declared(names["future_known"], horizon, manifest.future_width))
    outputs, constants = [declared(names["prediction"], manifest.cells)], list(nodes.constants.values())
    graph = helper.make_graph(nodes.nodes, "freerun", inputs, outputs, constants)
    opsets = list(encoder.opset_import)
    return simplify(helper.make_model(graph, opset_imports=opsets, ir_version=encoder.ir_version))
