"""Step graphs that were written to harm, some that do no harm, and files that are no graphs: what F15 opens.

Each entry changes the step graph of the hand-made bundle; it is given the path of a file outside that nobody may open.
"""

from itertools import pairwise

import numpy as np
from onnx import TensorProto, helper, numpy_helper

MEMORY_TAG = "*/_ORT_MEM_ADDR_/*"
"""What onnxruntime takes for an address in its own memory, as a file's name."""
node = helper.make_node


def ints(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def instead(model, nodes, *constants, made="prediction"):
    """Let an output be made by further nodes, of what made it: `honest` [batch, 1, 1]."""
    for inner in model.graph.node:
        inner.output[:] = ["honest" if name == made else name for name in inner.output]
    for inner in nodes:
        inner.input[:] = [name if name in {"honest", made, ""} else f"new_{name}" for name in inner.input]
        inner.output[:] = [name if name in {made, ""} else f"new_{name}" for name in inner.output]
    for tensor in constants:
        tensor.name = f"new_{tensor.name}"
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)


def shrunk(name, rank=3):
    """Return nodes that bring a tensor of any size back to a prediction."""
    return [
        node("ReduceMax", [name, "all_axes"], ["least"]),
        node("Add", ["honest", "least"], ["prediction"]),
    ], ints("all_axes", *range(rank))


def growing(model, nodes, *constants, rank=3):
    back, axes = shrunk("grown", rank)
    instead(model, [*nodes, *back], *constants, axes)


def external(name, location, **further):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[3, 1], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **further}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def replaced(model, tensor):
    """Put a tensor in the place of the output layer's weights."""
    kept = [entry for entry in model.graph.initializer if entry.name != "dense"]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, tensor])


def reads(location, **further):
    return lambda model, _: replaced(model, external("dense", str(location), **further))


def reads_canary(form):
    return lambda model, canary: replaced(model, external("dense", form(canary)))


def constant_node(model, canary):
    instead(
        model,
        [
            node("Constant", [], ["leak"], value=external("leak", str(canary))),
            node("Add", ["honest", "leak"], ["prediction"]),
        ],
    )


def sparse(model, canary):
    values, indices = external("values", str(canary)), ints("indices", 0)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))


def branch(name, *nodes, output="chosen"):
    return helper.make_graph(
        list(nodes) or [node("Constant", [], [output], value_float=1.0)],
        name,
        [],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
    )


def endless(model, _):
    """Let a Loop of no trip count and a condition that stays true go on for ever."""
    go_on = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    body = helper.make_graph(
        [node("Identity", ["go_on"], ["again"])],
        "body",
        [turn, go_on],
        [helper.make_tensor_value_info("again", TensorProto.BOOL, [])],
    )
    model.graph.initializer.append(helper.make_tensor("true", TensorProto.BOOL, [], [True]))
    model.graph.node.insert(0, node("Loop", ["", "true"], [], body=body))


def scan(model, _):
    one = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("in", "out")]
    body = helper.make_graph([node("Identity", ["in"], ["out"])], "body", one[:1], one[1:])
    instead(model, [node("Scan", ["honest"], ["prediction"], body=body, num_scan_inputs=1)])


def nested(depth, kind="If"):
    def spoil(model, _):
        inner = branch("leaf")
        for level in range(depth):
            chosen = node(kind, ["true"], ["chosen"], then_branch=inner, else_branch=branch(f"else{level}"))
            inner = branch(f"level{level}", chosen)
        model.graph.initializer.append(helper.make_tensor("true", TensorProto.BOOL, [], [True]))
        model.graph.node.append(node("If", ["true"], ["chosen"], then_branch=inner, else_branch=branch("last")))

    return spoil


def filled(size):
    return lambda model, _: growing(model, [node("ConstantOfShape", ["size"], ["grown"])], ints("size", size, 1, 1))


def expanded(model, _):
    growing(model, [node("Expand", ["honest", "size"], ["grown"])], ints("size", 1, 1 << 31, 1))


def tiled(model, _):
    growing(model, [node("Tile", ["honest", "size"], ["grown"])], ints("size", 1, 1 << 31, 1))


def ranged(model, _):
    growing(
        model,
        [node("Range", ["from", "to", "by"], ["flat"]), node("Cast", ["flat"], ["grown"], to=1)],
        *(
            numpy_helper.from_array(np.array(value, np.int64), name)
            for name, value in (("from", 0), ("to", 1 << 31), ("by", 1))
        ),
        rank=1,
    )


def ranged_by_data(model, _):
    """Let the data say how long a Range gets, so that no shape follows from the file."""
    scale = numpy_helper.from_array(np.array(1e9, np.float32), "scale")
    growing(
        model,
        [
            node("ReduceMax", ["honest", "three"], ["one"], keepdims=0),
            node("Mul", ["one", "scale"], ["large"]),
            node("Cast", ["large"], ["to"], to=7),
            node("Range", ["from", "to", "by"], ["flat"]),
            node("Cast", ["flat"], ["grown"], to=1),
        ],
        scale,
        ints("three", 0, 1, 2),
        numpy_helper.from_array(np.array(0), "from"),
        numpy_helper.from_array(np.array(1), "by"),
        rank=1,
    )


def filled_by_data(model, _):
    scale = numpy_helper.from_array(np.array(1e9, np.float32), "scale")
    growing(
        model,
        [
            node("Reshape", ["honest", "flat"], ["list"]),
            node("Abs", ["list"], ["size"]),
            node("Mul", ["size", "scale"], ["large"]),
            node("Cast", ["large"], ["shape"], to=7),
            node("ConstantOfShape", ["shape"], ["grown"]),
        ],
        scale,
        ints("flat", -1),
    )


def padded(model, _):
    growing(model, [node("Pad", ["honest", "pads"], ["grown"])], ints("pads", 0, 0, 0, 0, 1 << 31, 0))


def doubled(turns, given="honest"):
    """Join a tensor with itself, again and again: sixty nodes make 2^60 elements."""

    def spoil(model, _):
        names = [given, *(f"twice{turn}" for turn in range(turns - 1)), "grown"]
        nodes = [node("Concat", [a, a], [b], axis=0) for a, b in pairwise(names)]
        growing(model, nodes)

    return spoil


def doubled_list(model, _):
    """Double a list of numbers that becomes a shape: what follows shapes must follow them."""
    names = [f"list{turn}" for turn in range(41)]
    growing(
        model,
        [
            *(node("Concat", [a, a], [b], axis=0) for a, b in pairwise(names)),
            node("Expand", ["honest", names[-1]], ["grown"]),
        ],
        ints("list0", 1, 1),
    )


def outer_product(model, _):
    growing(
        model,
        [
            node("Expand", ["honest", "wide"], ["row"]),
            node("Transpose", ["row"], ["column"], perm=[0, 2, 1]),
            node("MatMul", ["column", "row"], ["grown"]),
        ],
        ints("wide", 1, 1, 1 << 17),
    )


def outer_sum(model, _):
    growing(
        model,
        [
            node("Expand", ["honest", "wide"], ["row"]),
            node("Transpose", ["row"], ["column"], perm=[0, 2, 1]),
            node("Add", ["column", "row"], ["grown"]),
        ],
        ints("wide", 1, 1, 1 << 17),
    )


def batch_by_batch(model, _):
    """Multiply the batch by itself: harmless for one window, 64 GiB for a batch of 128,000."""
    growing(
        model,
        [
            node("Reshape", ["honest", "flat"], ["row"]),
            node("Transpose", ["row"], ["column"]),
            node("MatMul", ["row", "column"], ["square"]),
            node("Unsqueeze", ["square", "first"], ["grown"]),
        ],
        ints("flat", -1, 1),
        ints("first", 0),
    )


def one_hot(model, _):
    growing(
        model,
        [node("Cast", ["honest"], ["which"], to=7), node("OneHot", ["which", "depth", "values"], ["grown"])],
        ints("depth", 1 << 31),
        numpy_helper.from_array(np.array([0, 1], np.float32), "values"),
        rank=4,
    )


def resized(model, _):
    scales = numpy_helper.from_array(np.array([1, 1, 2e9], np.float32), "scales")
    growing(model, [node("Resize", ["honest", "", "scales"], ["grown"])], scales)


def gathered(model, _):
    """Gather the same element two thousand million times, by a list of zeros that nobody had to write down."""
    growing(
        model,
        [
            node("ConstantOfShape", ["size"], ["zeros"], value=helper.make_tensor("z", 7, [1], [0])),
            node("Gather", ["honest", "zeros"], ["grown"], axis=1),
        ],
        ints("size", 1 << 31),
    )


def many_small(model, _):
    """Keep ten thousand tensors of a megabyte alive at once: each is small enough, all together are not."""
    names = ["wide", *(f"kept{turn}" for turn in range(10_000))]
    nodes = [node("Expand", ["honest", "size"], ["wide"])]
    nodes += [node("Tanh", [a], [b]) for a, b in pairwise(names)]
    nodes.append(node("Tanh", [names[-1]], ["back0"]))
    nodes += [node("Add", [f"back{turn}", name], [f"back{turn + 1}"]) for turn, name in enumerate(reversed(names))]
    growing(model, [*nodes, node("Tanh", [f"back{len(names)}"], ["grown"])], ints("size", 1, 1, 1 << 18))


def endless_products(model, _):
    """Multiply matrices for hours."""
    names = ["wide", *(f"product{turn}" for turn in range(2000)), "grown"]
    nodes = [node("Expand", ["honest", "size"], ["wide"]), node("Expand", ["one", "square"], ["weights"])]
    nodes += [node("MatMul", [a, "weights"], [b]) for a, b in pairwise(names)]
    growing(
        model,
        nodes,
        ints("size", 1, 1000, 1000),
        ints("square", 1000, 1000),
        numpy_helper.from_array(np.array([[1e-3]], np.float32), "one"),
    )


def wide_lstm(model, _):
    """Ask for a state of a hundred thousand units, of weights that nobody had to write down."""
    units = 100_000
    growing(
        model,
        [
            node("Expand", ["one", "w"], ["weights"]),
            node("Expand", ["one", "r"], ["recurrent"]),
            node("LSTM", ["honest", "weights", "recurrent"], ["", "grown"], hidden_size=units),
        ],
        ints("w", 1, 4 * units, 1),
        ints("r", 1, 4 * units, units),
        numpy_helper.from_array(np.ones((1, 1, 1), np.float32), "one"),
    )


def empty_lstm(axis):
    """Give an LSTM nothing to read: of no windows, onnxruntime aborts the process."""

    def spoil(model, _):
        nothing = node("Slice", ["honest", "start", "start", "axis"], ["nothing"])
        weights = [numpy_helper.from_array(np.ones((1, 4, 1), np.float32), name) for name in ("w", "r")]
        lstm = node("LSTM", ["nothing", "w", "r"], ["", "grown"], hidden_size=1)
        growing(model, [nothing, lstm], ints("start", 0), ints("axis", axis), *weights)

    return spoil


def of_many_axes(model, _):
    growing(model, [node("ConstantOfShape", ["ones"], ["grown"])], ints("ones", *[1] * 1000))


def ever_more_axes(model, _):
    names = ["honest", *(f"more{turn}" for turn in range(5000)), "grown"]
    growing(model, [node("Unsqueeze", [a, "first"], [b]) for a, b in pairwise(names)], ints("first", 0))


def split_in_many(model, _):
    pieces = [f"piece{turn}" for turn in range(50_000)]
    growing(
        model,
        [
            node("Expand", ["honest", "wide"], ["row"]),
            node("Split", ["row"], pieces, axis=2, num_outputs=len(pieces)),
            node("Concat", pieces, ["grown"], axis=2),
        ],
        ints("wide", 1, 1, len(pieces)),
    )


def claimed_shape(model, canary):
    """Claim in the file that a tensor is small whose size hangs on the data."""
    filled_by_data(model, canary)
    model.graph.value_info.append(helper.make_tensor_value_info("grown", TensorProto.FLOAT, [1, 1, 1]))


def claimed_output(model, _):
    """Let an output be larger than it is declared."""
    instead(model, [node("Expand", ["honest", "size"], ["prediction"])], ints("size", 1, 1 << 22, 1))


def claimed_constant(model, _):
    replaced(model, TensorProto(name="dense", data_type=TensorProto.FLOAT, dims=[1 << 31, 1 << 20]))


def negative_constant(model, _):
    replaced(model, TensorProto(name="dense", data_type=TensorProto.FLOAT, dims=[-3, -1], raw_data=bytes(12)))


def text_constant(model, _):
    replaced(model, helper.make_tensor("dense", TensorProto.STRING, [3, 1], [b"a" * 1000] * 3))


def operator(name, domain="", **settings):
    return lambda model, _: instead(model, [node(name, ["honest"], ["prediction"], domain=domain, **settings)])


def foreign(domain):
    def spoil(model, canary):
        model.opset_import.append(helper.make_opsetid(domain, 1))
        operator("Tanh", domain)(model, canary)

    return spoil


def function(name, domain):
    """Bring a function under the name of an operator that is allowed."""

    def spoil(model, canary):
        body = [node("Constant", [], ["leak"], value=external("leak", str(canary))), node("Add", ["x", "leak"], ["y"])]
        model.functions.append(helper.make_function(domain, name, ["x"], ["y"], body, [helper.make_opsetid("", 18)]))
        operator(name, domain)(model, canary)

    return spoil


def in_a_circle(model, _):
    instead(model, [node("Add", ["honest", "prediction"], ["again"]), node("Tanh", ["again"], ["prediction"])])


def made_twice(model, _):
    instead(model, [node("Tanh", ["honest"], ["prediction"]), node("Tanh", ["honest"], ["prediction"])])


def constant_twice(model, _):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((3, 1), np.float32), "dense"))


def training(model, _):
    model.training_info.add().algorithm.CopyFrom(branch("algorithm"))


def metadata(key, value):
    return lambda model, _: model.metadata_props.add(key=key, value=value)


def versions(ir=8, opset=18):
    def spoil(model, _):
        model.ir_version, model.opset_import[0].version = ir, opset

    return spoil


def ort_format(model, _):
    model.producer_name = "ORTM"


def sequence(model, _):
    instead(
        model,
        [
            node("SequenceConstruct", ["honest"] * 3, ["many"]),
            node("ConcatFromSequence", ["many"], ["prediction"], axis=1),
        ],
    )


CASES = {
    "data in the folder above": reads("../canary/secret"),
    "data by its whole path": reads_canary(str),
    "data far above": reads_canary(lambda canary: "../" * 30 + str(canary).lstrip("/")),
    "data of another file of the bundle": reads("encoder.onnx", offset="0", length="12"),
    "data of a link": reads("link"),
    "data in a linked folder": reads("linked/secret"),
    "data of a hard link": reads("hard"),
    "data of a device": reads("/dev/zero"),
    "data of a pipe": reads_canary(lambda canary: str(canary.with_name("pipe"))),
    "data in onnxruntime's own memory": reads(MEMORY_TAG, offset="4096", length="12"),
    "data of a constant node": constant_node,
    "data of a sparse tensor": sparse,
    "endless Loop": endless,
    "Scan": scan,
    "If in If, 3 deep": nested(3),
    "If in If, 25 deep": nested(25),
    "ConstantOfShape of 8 GiB": filled(1 << 31),
    "ConstantOfShape of 2^62": filled(1 << 62),
    "ConstantOfShape of what stands for the batch": filled(1 << 40),
    "ConstantOfShape as the data says": filled_by_data,
    "Expand": expanded,
    "Tile": tiled,
    "Range": ranged,
    "Range as the data says": ranged_by_data,
    "Pad": padded,
    "Concat doubling 60 times": doubled(60),
    "Concat doubling a list": doubled_list,
    "outer product": outer_product,
    "outer sum": outer_sum,
    "batch by batch": batch_by_batch,
    "OneHot": one_hot,
    "Resize": resized,
    "Gather of zeros": gathered,
    "many tensors at once": many_small,
    "products for hours": endless_products,
    "LSTM of 100,000 units": wide_lstm,
    "LSTM of no steps": empty_lstm(0),
    "LSTM of no windows": empty_lstm(1),
    "LSTM of no features": empty_lstm(2),
    "a thousand axes": of_many_axes,
    "ever more axes": ever_more_axes,
    "Split in 50,000": split_in_many,
    "a claimed shape": claimed_shape,
    "a larger output than declared": claimed_output,
    "a constant larger than its data": claimed_constant,
    "a constant of negative size": negative_constant,
    "a constant of text": text_constant,
    "custom domain": foreign("com.evil"),
    "onnxruntime's domain": foreign("com.microsoft"),
    "ai.onnx.ml": foreign("ai.onnx.ml"),
    "a function": function("Evil", "com.evil"),
    "a function that is called Tanh": function("Tanh", ""),
    "random numbers": operator("RandomNormalLike"),
    "text": operator("StringNormalizer"),
    "NonZero": operator("NonZero"),
    "sequences": sequence,
    "nodes in a circle": in_a_circle,
    "a tensor made twice": made_twice,
    "a constant that is there twice": constant_twice,
    "training graphs": training,
    "session options in the metadata": metadata("ort_config", '{"session_options": {"enable_profiling": true}}'),
    "a session option in the metadata": metadata("session.optimized_model_filepath", "written-by-a-model"),
    "IR version 2^62": versions(ir=1 << 62),
    "IR version 3": versions(ir=3),
    "opset 2^62": versions(opset=1 << 62),
    "opset 1": versions(opset=1),
    "bytes that look like onnxruntime's own format": ort_format,
}
"""All of them are refused, and by the audit: before onnxruntime sees a byte."""


def added(*nodes):
    return lambda model, _: model.graph.node.extend(nodes)


def unused(model, _):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1000, np.float32), "unused"))


def told(model, _):
    model.producer_name, model.doc_string, model.graph.name = "another", "what \x1b[2J it is", "x" * 10_000


def of_strange_names(model, _):
    for at, inner in enumerate(model.graph.node):
        inner.name = f"\x1b[2J\n../../{at}"


def all_of_one_kind(model, _):
    for name in ("weighted", "joined"):
        replaced_name = f"{name} \N{SNOWMAN}" * 100
        for inner in model.graph.node:
            for names in (inner.input, inner.output):
                names[:] = [replaced_name if entry == name else entry for entry in names]


HARMLESS = {
    "nothing changed": lambda *_: None,
    "a node that nobody reads": added(node("Tanh", ["hidden"], ["unread"])),
    "a constant that nobody reads": unused,
    "another producer and long texts": told,
    "strange node names": of_strange_names,
    "long tensor names": all_of_one_kind,
}
"""What may pass, for it changes no forecast: the golden windows come out."""


def other_weights(model, _):
    replaced(model, numpy_helper.from_array(np.full((3, 1), 1e30, np.float32), "dense"))


def infinite(model, _):
    zero = numpy_helper.from_array(np.array(0, np.float32), "zero")
    instead(model, [node("Div", ["honest", "zero"], ["prediction"])], zero)


def of_two_types(model, _):
    instead(model, [node("Add", ["honest", "whole"], ["prediction"])], ints("whole", 1))


def without_kernel(model, _):
    instead(
        model,
        [
            node("Cast", ["honest"], ["truth"], to=9),
            node("Sqrt", ["truth"], ["root"]),
            node("Cast", ["root"], ["prediction"], to=1),
        ],
    )


def out_of_range(model, _):
    instead(model, [node("Gather", ["honest", "where"], ["prediction"], axis=1)], ints("where", 7))


def as_large_as_may_be(model, _):
    """Take as much memory as a window may: 128 MiB for a batch of eight."""
    growing(
        model,
        [node("Expand", ["honest", "size"], ["wide"]), node("Tanh", ["wide"], ["grown"])],
        ints("size", 1, 1, 1 << 22),
    )


def as_long_as_may_be(model, _):
    """Multiply as much as a test has patience for; what a graph may do for a window is a hundred times that."""
    names = ["wide", *(f"product{turn}" for turn in range(9)), "grown"]
    nodes = [node("Expand", ["honest", "size"], ["wide"]), node("Expand", ["one", "square"], ["weights"])]
    nodes += [node("MatMul", [a, "weights"], [b]) for a, b in pairwise(names)]
    growing(
        model,
        nodes,
        ints("size", 1, 10, 400),
        ints("square", 400, 400),
        numpy_helper.from_array(np.array([[1e-3]], np.float32), "one"),
    )


LATER = {
    "other weights": other_weights,
    "infinite forecasts": infinite,
    "tensors of two types": of_two_types,
    "an operator for a type that it is not made for": without_kernel,
    "a place that is not there": out_of_range,
    "as much memory as may be": as_large_as_may_be,
    "many products": as_long_as_may_be,
}
"""What the audit lets pass, and onnxruntime or the golden windows refuse in the same two seconds."""


def length(number):
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def graph_of(records):
    """Return a model whose graph is these bytes."""
    return b"\x3a" + length(len(records)) + records


def nested_bytes(depth):
    """Return a graph in an attribute of a node of a graph, and so on."""
    graph = b""
    for _ in range(depth):
        attribute = b"\x32" + length(len(graph)) + graph
        inner = b"\x2a" + length(len(attribute)) + attribute
        graph = b"\x0a" + length(len(inner)) + inner
    return graph


BYTES = {
    "nothing": b"",
    "no protobuf": b"\xff" * 100,
    "130,000 nodes in 2 MB": graph_of(b"\x0a\x0d\x0a\x02aa\x12\x01b\x22\x04Tanh" * 130_000),
    "four million nodes in 8 MB": graph_of(b"\x0a\x00" * 4_000_000),
    "four million attributes in 8 MB": graph_of(b"\x0a" + length(8_000_000) + b"\x2a\x00" * 4_000_000),
    "four million constants in 8 MB": graph_of(b"\x2a\x00" * 4_000_000),
    "four million operator sets in 8 MB": b"\x42\x00" * 4_000_000,
    "40 MB of zeros in a graph": graph_of(bytes(40_000_000)),
    "graphs in nodes in graphs, 40 deep": graph_of(nested_bytes(40)),
    "graphs in nodes in graphs, 5000 deep": graph_of(nested_bytes(5000)),
    "a field that goes on beyond the file": b"\x3a\xff\xff\xff\x7f",
    "onnxruntime's own format": b"\x18\x00\x00\x00ORTM" + bytes(100),
}
"""Files that are no graphs, or that would take a hundred times their size in memory."""
