"""Keras models to ONNX graphs whose tensors are named by role."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx

from export.model import Forecasters
from export.recurrence import as_operators
from export.written_out import written_out
from runner.audit import EXPORT_ID_KEY, Signature
from runner.errors import CertificationError, explain

OPSET = 18
PLAIN_LAYER: dict[str, Any] = {"use_cudnn": False, "unroll": False}
PLAIN_CELL: dict[str, Any] = {"implementation": 2, "recurrent_dropout": 0.0}
"""Settings of recurrent layers and cells under which tf2onnx recognises them."""


@dataclass(frozen=True, slots=True)
class GraphPair:
    """Two serialized graphs of one export.

    Attributes:
        encoder, decoder_step: ONNX files' bytes, stamped with the export id.
        export_id: sha256 over both graphs before the stamp.
    """

    encoder: bytes
    decoder_step: bytes
    export_id: str


def convert(models: Forecasters) -> GraphPair:
    """Write the encoder and the single-step decoder as ONNX.

    Raises:
        CertificationError: a model cannot be converted.
    """
    with plain_layers(models):
        encoder = graph_of(models.encoder, models.encoder_roles)
        step = graph_of(models.step, models.step_roles)
    digest = hashlib.sha256()
    for graph in (encoder, step):
        digest.update(hashlib.sha256(serialize(graph)).digest())
    return GraphPair(stamp(encoder, digest.hexdigest()), stamp(step, digest.hexdigest()), digest.hexdigest())


def signatures(models: Forecasters) -> tuple[tuple[Signature, Signature], tuple[Signature, Signature]]:
    """Return inputs and outputs of both graphs as the Keras models state them."""
    found = []
    for model, roles in ((models.encoder, models.encoder_roles), (models.step, models.step_roles)):
        inputs: Signature = {entry.name: ("batch", *entry.shape[1:]) for entry in model.inputs}
        outputs: Signature = {
            role: ("batch", *entry.shape[1:]) for role, entry in zip(roles, model.outputs, strict=True)
        }
        found.append((inputs, outputs))
    return found[0], found[1]


def stamp(graph: onnx.ModelProto, export_id: str) -> bytes:
    """Return the graph's bytes with the export id in its metadata: a pair that was mixed up can be told."""
    stamped = onnx.ModelProto()
    stamped.CopyFrom(graph)
    stamped.metadata_props.add(key=EXPORT_ID_KEY, value=export_id)
    return serialize(stamped)


def serialize(graph: onnx.ModelProto) -> bytes:
    """Return the same bytes for the same graph."""
    return bytes(graph.SerializeToString(deterministic=True))


def graph_of(model: Any, roles: tuple[str, ...]) -> onnx.ModelProto:
    """Write a Keras model as ONNX, its outputs named by role.

    Raises:
        CertificationError: tf2onnx cannot.
    """
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, *entry.shape[1:]), tf.float32, name=entry.name) for entry in model.inputs]

    def call(*tensors: Any) -> tuple[Any, ...]:
        outputs = model(list(tensors), training=False)
        listed = outputs if isinstance(outputs, list | tuple) else [outputs]
        return tuple(tf.identity(output) for output in listed)  # never an input under an output's name

    traced = tf.function(call, input_signature=signature)
    try:
        with as_operators(model) as handlers:
            converted, _ = tf2onnx.convert.from_function(
                traced, input_signature=signature, opset=OPSET, custom_op_handlers={**handlers, **written_out()}
            )
    except CertificationError:
        raise
    except Exception as error:
        raise CertificationError(explain(f"tf2onnx cannot convert the {model.name}", got=error)) from error
    graph: onnx.ModelProto = converted
    _order(graph.graph)
    _strip(graph)
    _rename(graph, roles)
    _fix_axes(graph.graph, model, roles)
    return graph


@contextlib.contextmanager
def plain_layers(models: Forecasters) -> Iterator[None]:
    """Set recurrent layers to the form that becomes the ONNX operator, whatever the model trained with.

    cuDNN's operators do not exist in ONNX; unrolled steps, and the implementation that recurrent dropout chooses, are
    not recognised. None of these settings changes what a layer gives in inference.
    """
    before = []
    try:
        for owner, settings in _recurrent_layers(models):
            for name, setting in settings.items():
                if hasattr(owner, name):
                    before.append((owner, name, getattr(owner, name)))
                    setattr(owner, name, setting)
        yield
    finally:
        for owner, name, setting in reversed(before):
            setattr(owner, name, setting)


def _recurrent_layers(models: Forecasters) -> list[tuple[Any, dict[str, Any]]]:
    """Return recurrent layers and their cells with the settings of each. Keras has no public way to inner layers."""
    flat = [layer for model in (models.encoder, models.step) for layer in model._flatten_layers()]  # noqa: SLF001
    recurrent = [layer for layer in flat if hasattr(layer, "cell")]
    return [*((layer, PLAIN_LAYER) for layer in recurrent), *((layer.cell, PLAIN_CELL) for layer in recurrent)]


def _order(graph: onnx.GraphProto) -> None:
    """Put the nodes in the order in which the outputs need them: tf2onnx's own differs from process to process."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    ordered: dict[int, None] = {}
    waiting = [makers[entry.name] for entry in reversed(graph.output) if entry.name in makers]
    while waiting:
        needed = [makers[name] for name in graph.node[waiting[-1]].input if name in makers]
        missing = [index for index in needed if index not in ordered]
        if missing:
            waiting += reversed(missing)
        else:
            ordered.setdefault(waiting.pop())
    nodes = [onnx.NodeProto.FromString(graph.node[index].SerializeToString()) for index in ordered]
    del graph.node[:]
    graph.node.extend(nodes)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what says nothing: constants among the inputs, inner shapes, unused operator sets. Order the constants."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in constants]
    del graph.input[:], graph.value_info[:]
    graph.input.extend(inputs)
    uses = [name for node in graph.node for name in node.input]
    in_order = sorted((tensor for tensor in graph.initializer if tensor.name in uses), key=lambda t: uses.index(t.name))
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in in_order]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    used = {node.domain for node in graph.node}
    opsets = [entry for entry in model.opset_import if entry.domain in used | {""}]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    model.doc_string = graph.doc_string = ""
    graph.name = "freerun"


def _rename(model: onnx.ModelProto, roles: tuple[str, ...]) -> None:
    """Name the outputs by role, and everything inside by number: tf2onnx keeps the order but makes names up."""
    graph = model.graph
    if len(graph.output) != len(roles):
        got = [entry.name for entry in graph.output]
        raise CertificationError(explain("the converter dropped outputs", got=got, expected=roles))
    new = {entry.name: role for entry, role in zip(graph.output, roles, strict=True)}
    inner = [*(tensor.name for tensor in graph.initializer), *(name for node in graph.node for name in node.output)]
    new |= {name: f"t{index}" for index, name in enumerate(inner) if name and name not in new}
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{index}"
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for entry in [*graph.output, *graph.initializer]:
        entry.name = new[entry.name]


def _fix_axes(graph: onnx.GraphProto, model: Any, roles: tuple[str, ...]) -> None:
    """Give every input and output one batch axis by name, and its other axes by number."""
    shapes = {entry.name: entry.shape[1:] for entry in model.inputs}
    shapes |= {role: entry.shape[1:] for role, entry in zip(roles, model.outputs, strict=True)}
    for entry in [*graph.input, *graph.output]:
        axes = entry.type.tensor_type.shape
        del axes.dim[:]
        axes.dim.add().dim_param = "batch"
        for size in shapes[entry.name]:
            axes.dim.add().dim_value = size
