"""The part of ONNX's protobuf schema that export writes, and nothing else: what a graph's file may hold."""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto  # onnx brings it along
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from runner.shapes import INT32, INT64, MOST_AXES, MOST_ITEMS, Tensor, literal

SCHEMA = {
    "ModelProto": "ir_version producer_name producer_version doc_string graph opset_import metadata_props",
    "GraphProto": "name doc_string node initializer input output",
    "NodeProto": "name op_type domain input output attribute",
    "AttributeProto": "name type i s t ints strings",
    "TensorProto": "name dims data_type raw_data float_data int32_data int64_data",
    "ValueInfoProto": "name type",
    "TypeProto": "tensor_type",
}
"""The fields of each message; messages that are not here keep all of theirs. So functions, graphs within nodes,
training graphs, data outside the file, sparse tensors, shapes that are only claimed, and whatever ONNX thinks up later
are unknown to this schema, and what is unknown is refused."""
LIMITS = {
    "node": 120_000,  # three layers over 512 steps of context and 512 of horizon, written out in int8, are 99,348
    "initializer": 10_000,
    "input": 1_000,
    "output": 1_000,
    "opset_import": 10,
    "metadata_props": 10,
}
"""How many of each a graph may have."""
ITEMS = {
    1: (4, "float_data"), 2: (1, "int32_data"), 3: (1, "int32_data"), 6: (4, "int32_data"), 7: (8, "int64_data"),
    9: (1, "int32_data"),
}  # fmt: skip
"""float32, uint8, int8, int32, int64 and bool, by ONNX's number: the bytes of one item, and where else it may stand."""
NAMED_BYTES = 1 << 18
TYPED_DATA = ("float_data", "int32_data", "int64_data")
SETTINGS = {2: "i", 3: "s", 4: "t", 7: "ints", 8: "strings"}
"""Where an attribute of a type keeps its value, by ONNX's number."""


def parse(content: bytes, described: int, onnx_model: Any) -> tuple[Any, list[str]]:
    """Read a graph with our part of the schema.

    Args:
        content: the ONNX file's bytes.
        described: how many of them grow when they are parsed; if many, what is left out is not parsed to be named.
        onnx_model: ONNX's own class for them, from which our part is cut.

    Returns:
        The model without what the schema leaves out, and the names of what that was: a graph with any is not ours.

    Raises:
        DecodeError: it is not protobuf.
    """
    model = _schema(onnx_model).FromString(content)
    before = model.ByteSize()
    model.DiscardUnknownFields()
    if model.ByteSize() == before:
        return model, []
    if described > NAMED_BYTES:
        return model, [f"{before - model.ByteSize()} bytes of fields that export never writes"]
    return model, list(dict.fromkeys(_left_out(onnx_model.FromString(content)))) or ["fields that ONNX does not know"]


def beyond_limits(model: Any) -> list[str]:
    """Say of which parts there are too many to look at each of them."""
    found = {name: len(getattr(model if hasattr(model, name) else model.graph, name)) for name in LIMITS}
    return [
        f"{found[name]} of '{name}', expected at most {most}" for name, most in LIMITS.items() if found[name] > most
    ]


def tensor_problems(tensor: Any) -> list[str]:
    """Say what is wrong with a constant: its type, its axes, or the number of its items."""
    axes, kind = list(tensor.dims), tensor.data_type
    if kind not in ITEMS:
        return [f"tensor '{tensor.name}' is of type {kind}, expected one of {sorted(ITEMS)}"]
    if len(axes) > MOST_AXES or (axes != [0] and not all(0 < axis < 1 << 31 for axis in axes)):
        return [f"tensor '{tensor.name}' is {axes[:16]}, expected at most {MOST_AXES} axes of at least 1"]
    width, field = ITEMS[kind]
    held = {name: len(getattr(tensor, name)) for name in ("raw_data", *TYPED_DATA)}
    place, wanted = ("raw_data", math.prod(axes) * width) if held["raw_data"] else (field, math.prod(axes))
    if held == {**dict.fromkeys(held, 0), place: wanted}:
        return []
    return [f"tensor '{tensor.name}' {axes} holds {held[place]} in '{place}', expected {wanted} and nothing elsewhere"]


def constant(tensor: Any) -> Tensor:
    """Return what the rules of `shapes` need to know of a constant that has no problems."""
    axes = tuple(tensor.dims)
    if tensor.data_type not in {INT32, INT64} or len(axes) > 1 or math.prod(axes) > MOST_ITEMS:
        return Tensor(axes)
    width, field = ITEMS[tensor.data_type]
    data = tensor.raw_data
    raw = (int.from_bytes(data[at : at + width], "little", signed=True) for at in range(0, len(data), width))
    return Tensor(axes, tuple(literal(item) for item in (raw if data else getattr(tensor, field))))


def settings_of(node: Any) -> dict[str, Any]:
    """Return a node's attributes by name.

    Raises:
        ValueError: one stands there twice, is of a type that none of ours has, or is a tensor with problems.
    """
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.name in found or attribute.type not in SETTINGS:
            raise ValueError(f"attribute '{attribute.name}' stands there twice, or is of type {attribute.type}")
        found[attribute.name] = getattr(attribute, SETTINGS[attribute.type])
        if attribute.HasField("t") and (problems := tensor_problems(attribute.t)):
            raise ValueError(*problems)
    return found


@cache
def _schema(onnx_model: Any) -> Any:
    file = FileDescriptorProto()
    onnx_model.DESCRIPTOR.file.CopyToProto(file)
    for message in file.message_type:
        if message.name in SCHEMA:
            kept = [field for field in message.field if field.name in SCHEMA[message.name].split()]
            del message.field[:]
            message.field.extend(kept)
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName(onnx_model.DESCRIPTOR.full_name))


def _left_out(message: Any) -> Iterator[str]:
    """Name the fields of a message, and of those within it, that our schema leaves out."""
    name = message.DESCRIPTOR.name
    for field, value in message.ListFields():
        if name in SCHEMA and field.name not in SCHEMA[name].split():
            yield f"'{field.name}' in a {name}" + (f" ({message.name})" if getattr(message, "name", "") else "")
        elif field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from _left_out(inner)
