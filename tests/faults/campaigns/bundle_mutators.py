"""Ways to spoil a bundle, given as the bytes of its files by name."""

import contextlib
import copy
import hashlib
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

from runner.manifest import bundle_id_of

if TYPE_CHECKING:
    from collections.abc import Callable

Files = dict[str, bytes]
MANIFEST = "manifest.json"
NUMBERS = (
    0,
    -1,
    1,
    2,
    3,
    7,
    8,
    127,
    255,
    1 << 15,
    1 << 20,
    (1 << 24) + 1,
    (1 << 31) - 1,
    1 << 31,
    1 << 40,
    (1 << 63) - 1,
)
VALUES = (
    None,
    True,
    False,
    "",
    "x",
    "../x",
    "a" * 5000,
    1.5,
    -1e308,
    10**30,
    [],
    {},
    [[]],
    {"a": 1},
    [0] * 50,
    *NUMBERS,
)
OPERATORS = sorted({schema.name for schema in defs.get_all_schemas() if schema.domain == ""})
TYPES = sorted(TensorProto.DataType.values())


def mutate(files: Files, draw: random.Random, canary: Path) -> tuple[str, Files]:
    """Return what was done, and the spoilt bundle; `canary` is a file that nobody may open."""
    spoilt = dict(files)
    kind = draw.choices(("bytes", "manifest", "graph", "graph bytes", "golden bytes"), (10, 15, 60, 10, 5))[0]
    if kind == "bytes":
        name = draw.choice(sorted(files))
        spoilt[name] = _bytes(files[name], draw)
        return f"bytes of {name}", spoilt
    values = json.loads(files[MANIFEST])
    if kind == "manifest":
        told = _manifest(values, draw)
        return told, _closed(spoilt, values)
    wanted = ".parquet" if kind == "golden bytes" else ".onnx"
    name = draw.choice(sorted(name for name in files if name.endswith(wanted)))
    if kind == "graph":
        told, spoilt[name] = _graph(files[name], draw, canary)
    else:
        told, spoilt[name] = kind, _bytes(files[name], draw)
    return f"{told} in {name}", _closed(spoilt, values)


def _closed(files: Files, values: dict[str, Any]) -> Files:
    """Make every digest of the manifest right again."""
    for entry in _entries(values):
        content = files.get(str(entry.get("file")))
        if content is not None and {"bytes", "sha256"} <= entry.keys():
            entry["bytes"], entry["sha256"] = len(content), hashlib.sha256(content).hexdigest()
    return {**files, MANIFEST: json.dumps({**values, "bundle_id": bundle_id_of(values)}).encode()}


def _entries(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [entry for inner in value for entry in _entries(inner)]
    if not isinstance(value, dict):
        return []
    return [*([value] if "file" in value else []), *(entry for inner in value.values() for entry in _entries(inner))]


def _bytes(content: bytes, draw: random.Random) -> bytes:
    """Flip, cut, repeat or insert a few bytes."""
    spoilt = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, length = draw.randrange(len(spoilt) + 1), draw.randint(1, 16)
        change = draw.randrange(5)
        if change == 0 and at < len(spoilt):
            spoilt[at] ^= 1 << draw.randrange(8)
        elif change == 1 and at < len(spoilt):
            spoilt[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        elif change == 2:
            del spoilt[at : at + length]
        elif change == 3:
            spoilt[at:at] = spoilt[at : at + length] * draw.choice((1, 2, 100))
        else:
            spoilt[at:at] = draw.randbytes(length)
    return bytes(spoilt)


def _manifest(values: dict[str, Any], draw: random.Random) -> str:
    """Change one or two places of a manifest."""
    told = []
    for _ in range(draw.randint(1, 2)):
        place, key = _place(values, draw)
        change = draw.choice(("set", "nudge", "drop", "add", "repeat"))
        if change == "drop":
            del place[key]
        elif change == "add" and isinstance(place, dict):
            place[draw.choice(("extra", "external_data", "control_flow", "session_options"))] = draw.choice(VALUES)
        elif change == "repeat" and isinstance(place[key], list):
            place[key] = place[key] * draw.choice((2, 1000))
        elif change == "nudge" and type(place[key]) in {int, float}:
            place[key] = place[key] + draw.choice((-1, 1, 1000))
        else:
            place[key] = copy.deepcopy(draw.choice(VALUES))
        told.append(f"{change} {key}")
    return f"manifest: {', '.join(told)}"


def _place(values: Any, draw: random.Random) -> tuple[Any, Any]:
    """Choose a container that is not empty, and a key in it."""
    place = values
    while True:
        key = draw.choice(sorted(place)) if isinstance(place, dict) else draw.randrange(len(place))
        inner = place[key]
        if not (isinstance(inner, dict | list) and inner) or draw.random() < 0.2:
            return place, key
        place = inner


def _graph(content: bytes, draw: random.Random, canary: Path) -> tuple[str, bytes]:
    """Change a graph in one to three ways."""
    model = onnx.load_model_from_string(content)
    told = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        change = draw.choice(CHANGES)
        with contextlib.suppress(Exception):  # what the change before it left may not be there to change
            change(model, draw, canary)
        told.append(change.__name__.strip("_"))
    return "+".join(told), model.SerializeToString(deterministic=True)


def _name(model: Any, draw: random.Random) -> str:
    """Choose a tensor's name."""
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    return draw.choice([*names, "", "nowhere"])


def _operator(model: Any, draw: random.Random, _: Path) -> None:
    node = draw.choice(model.graph.node)
    node.op_type = draw.choice((*{other.op_type for other in model.graph.node}, draw.choice(OPERATORS)))


def _rewire(model: Any, draw: random.Random, _: Path) -> None:
    node = draw.choice(model.graph.node)
    names = node.output if draw.random() < 0.2 else node.input
    if names:
        names[draw.randrange(len(names))] = _name(model, draw)


def _arity(model: Any, draw: random.Random, _: Path) -> None:
    node = draw.choice(model.graph.node)
    names = node.output if draw.random() < 0.3 else node.input
    if draw.random() < 0.5 and names:
        del names[draw.randrange(len(names)) :]
    else:
        names.extend([_name(model, draw)] * draw.choice((1, 2, 1000)))


def _order(model: Any, draw: random.Random, _: Path) -> None:
    at, other = (draw.randrange(len(model.graph.node)) for _ in range(2))
    kept = copy.deepcopy(model.graph.node[at])
    model.graph.node[at].CopyFrom(model.graph.node[other])
    if draw.random() < 0.7:
        model.graph.node[other].CopyFrom(kept)


def _drop(model: Any, draw: random.Random, _: Path) -> None:
    parts = draw.choice((model.graph.node, model.graph.initializer, model.graph.input, model.graph.output))
    if parts:
        del parts[draw.randrange(len(parts))]


def _attribute(model: Any, draw: random.Random, _: Path) -> None:
    node = draw.choice(model.graph.node)
    name = draw.choice(
        ("axis", "perm", "to", "hidden_size", "direction", "layout", "clip", "keepdims", "num_outputs", "x")
    )
    value = draw.choice(
        (draw.choice(NUMBERS), [draw.choice(NUMBERS) for _ in range(3)], "reverse", 0.5, [1.5], ["a", "b"])
    )
    for at in reversed(range(len(node.attribute))):
        if draw.random() < 0.5:
            del node.attribute[at]
    node.attribute.append(helper.make_attribute(name, value))


def _numbers(model: Any, draw: random.Random, _: Path) -> None:
    """Put extreme numbers into a constant, mostly one of those that say axes, shapes and sizes."""
    tensor = draw.choice(model.graph.initializer)
    values = numpy_helper.to_array(tensor).copy()
    if values.size:
        flat = values.reshape(-1)
        number = draw.choice((*NUMBERS, float("nan"), float("inf"), 1e38))
        with np.errstate(all="ignore"):
            flat[draw.randrange(len(flat))] = np.array(number).astype(values.dtype)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _size(model: Any, draw: random.Random, _: Path) -> None:
    """Make a constant larger or smaller than it was, data and all or in name only."""
    tensor = draw.choice(model.graph.initializer)
    change = draw.randrange(4)
    if change == 0 and tensor.dims:
        tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(NUMBERS)
    elif change == 1:
        tensor.dims.extend([draw.choice((0, 1, 2, 1 << 40))] * draw.choice((1, 2, 1000)))
    elif change == 2:
        tensor.raw_data = tensor.raw_data[: draw.randrange(len(tensor.raw_data) + 1)]
    else:
        shape = [draw.choice((0, 1, 2, 3, 12, 64, 200)) for _ in range(draw.randint(0, 3))]
        kind = draw.choice((np.float32, np.int64, np.int32, np.uint8, np.int8, np.bool_, np.float64))
        tensor.CopyFrom(numpy_helper.from_array(np.ones(shape, kind), tensor.name))


def _kind(model: Any, draw: random.Random, _: Path) -> None:
    """Retype a constant, an input or an output, or give it other axes."""
    value = draw.choice((*model.graph.input, *model.graph.output, *model.graph.initializer))
    if isinstance(value, TensorProto):
        value.data_type = draw.choice(TYPES)
    elif draw.random() < 0.5:
        value.type.tensor_type.elem_type = draw.choice(TYPES)
    else:
        axes = value.type.tensor_type.shape.dim
        axis = draw.choice(axes) if axes and draw.random() < 0.8 else axes.add()
        axis.dim_value = draw.choice(NUMBERS)


def _external(model: Any, draw: random.Random, canary: Path) -> None:
    tensor = draw.choice(model.graph.initializer)
    location = draw.choice((str(canary), f"../{canary.parent.name}/{canary.name}", "encoder.onnx", "/etc/passwd", "*"))
    tensor.external_data.add(key="location", value=location)
    if draw.random() < 0.8:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.ClearField("raw_data")


def _strange(model: Any, draw: random.Random, canary: Path) -> None:
    """Add a part of ONNX that no graph of ours has."""
    node = draw.choice(model.graph.node)
    body = helper.make_graph([copy.deepcopy(node)], "inner", [], [])
    tensor = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    parts: tuple[Callable[[], object], ...] = (
        lambda: model.functions.append(helper.make_function("", node.op_type, ["x"], ["y"], [], model.opset_import)),
        lambda: model.training_info.add().algorithm.CopyFrom(body),
        lambda: model.metadata_props.add(key="ort_config", value='{"session_options": {"enable_profiling": true}}'),
        lambda: model.metadata_props.add(key="session.optimized_model_filepath", value=str(canary)),
        lambda: model.opset_import.append(helper.make_opsetid(draw.choice(("", "com.microsoft", "ai.onnx.ml")), 1)),
        lambda: setattr(model, "ir_version", draw.choice(NUMBERS)),
        lambda: setattr(model.opset_import[0], "version", draw.choice(NUMBERS)),
        lambda: setattr(model, "producer_name", "ORTM"),
        lambda: setattr(node, "domain", draw.choice(("ai.onnx", "com.microsoft", "ai.onnx.ml", "x"))),
        lambda: setattr(node, "doc_string", "x"),
        lambda: node.attribute.append(helper.make_attribute("body", body)),
        lambda: node.attribute.append(helper.make_attribute("value", tensor)),
        lambda: model.graph.sparse_initializer.append(
            helper.make_sparse_tensor(tensor, helper.make_tensor("i", TensorProto.INT64, [1], [0]), [1])
        ),
        lambda: model.graph.value_info.append(helper.make_tensor_value_info(_name(model, draw), 1, [1])),
        lambda: model.graph.initializer.append(copy.deepcopy(draw.choice(model.graph.initializer))),
        lambda: model.graph.input.append(helper.make_tensor_value_info(_name(model, draw), 1, ["batch", 1])),
    )
    draw.choice(parts)()


def _grow(model: Any, draw: random.Random, _: Path) -> None:
    """Hang a tensor on an output that grows: by far, by doubling, by products, or with the batch."""
    output = draw.choice(model.graph.output).name
    maker = next((node for node in model.graph.node if output in node.output), None)
    if maker is None:
        return
    maker.output[:] = ["grown_0" if name == output else name for name in maker.output]
    size, turns = draw.choice((2, 64, 4096, 1 << 20, 1 << 31, 1 << 40)), draw.choice((1, 3, 12, 40))
    shape, axes = np.array([size, 1, 1], np.int64), np.array([0], np.int64)
    model.graph.initializer.extend([numpy_helper.from_array(shape, "g_shape"), numpy_helper.from_array(axes, "g_axes")])
    kind = draw.choice(("Expand", "Concat", "MatMul", "Tile", "Add", "Pad", "ConstantOfShape"))
    for turn in range(turns):
        given = f"grown_{turn}"
        inputs = {"Expand": [given, "g_shape"], "Tile": [given, "g_shape"], "ConstantOfShape": ["g_shape"]}.get(
            kind, [given] * 2
        )
        settings = {"axis": draw.choice((0, 1, -1))} if kind == "Concat" else {}
        model.graph.node.append(helper.make_node(kind, inputs, [f"grown_{turn + 1}"], **settings))
    model.graph.node.append(helper.make_node("ReduceMax", [f"grown_{turns}", "g_axes"], [output]))


CHANGES = (
    _operator, _operator, _rewire, _rewire, _rewire, _arity, _order, _drop, _attribute, _attribute, _numbers, _numbers,
    _numbers, _size, _size, _kind, _external, _strange, _strange, _grow,
)  # fmt: skip
