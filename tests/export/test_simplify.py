"""What does nothing is left out of a graph, and every value, input and output stays as it was."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.simplify import simplify

SHAPE = (2, 3, 4)


def ints(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def model_of(nodes, constants, outputs):
    """Return a graph that reads x [2, 3, 4]; outputs may have any shape."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
    shapeless = [helper.make_empty_tensor_value_info(name) for name in outputs]
    for entry in shapeless:
        entry.type.tensor_type.elem_type = TensorProto.FLOAT
    made = helper.make_graph(nodes, "g", [x], shapeless, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model):
    """Run a graph as it is written, without onnxruntime's own simplifications."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    x = np.arange(1, 1 + np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def copied(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def simplified(model):
    """Return the simplified graph, once it was seen to compute the same under the same signature."""
    found = simplify(copied(model))
    assert (found.graph.input, found.graph.output) == (model.graph.input, model.graph.output)
    assert found.opset_import == model.opset_import
    before, after = run(model), run(found)
    for name, values in before.items():
        assert (values.shape, values.tobytes()) == (after[name].shape, after[name].tobytes()), name
    return found


def operators(model):
    return [node.op_type for node in model.graph.node]


def test_an_unsqueeze_that_a_squeeze_takes_back_is_left_out_with_it():
    node = helper.make_node
    nodes = [
        node("Unsqueeze", ["x", "axes"], ["wide"]), node("Squeeze", ["wide", "same"], ["back"]),
        node("Neg", ["back"], ["out"]),
    ]  # fmt: skip
    found = simplified(model_of(nodes, [ints("axes", 0, 1), ints("same", 0, 1)], ["out"]))
    assert operators(found) == ["Neg"]
    assert list(found.graph.initializer) == []


def test_a_squeeze_that_takes_back_something_else_stays():
    node = helper.make_node
    nodes = [
        node("Unsqueeze", ["x", "first"], ["wide"]), node("Unsqueeze", ["wide", "last"], ["wider"]),
        node("Squeeze", ["wider", "first"], ["back"]), node("Neg", ["back"], ["out"]),
    ]  # fmt: skip
    assert len(operators(simplified(model_of(nodes, [ints("first", 0), ints("last", 4)], ["out"])))) == 4


def test_a_squeeze_whose_axes_are_not_known_stays():
    node = helper.make_node
    nodes = [
        node("Unsqueeze", ["x", "axes"], ["wide"]), node("Squeeze", ["wide"], ["back"]), node("Neg", ["back"], ["out"])
    ]  # fmt: skip
    assert operators(simplified(model_of(nodes, [ints("axes", 0)], ["out"]))) == ["Unsqueeze", "Squeeze", "Neg"]


def test_a_reshape_reads_past_the_views_before_it():
    node = helper.make_node
    nodes = [
        node("Unsqueeze", ["x", "axes"], ["wide"]), node("Reshape", ["wide", "flat"], ["row"]),
        node("Reshape", ["row", "shape"], ["out"]),
    ]  # fmt: skip
    found = simplified(model_of(nodes, [ints("axes", 1), ints("flat", -1), ints("shape", 6, 4)], ["out"]))
    assert operators(found) == ["Reshape"]
    assert list(found.graph.node[0].input) == ["x", "shape"]


@pytest.mark.parametrize("shape", [(0, -1), (-1, 0)])
def test_a_reshape_that_copies_an_axis_still_sees_the_axes_it_copies(shape):
    node = helper.make_node
    nodes = [node("Reshape", ["x", "first"], ["between"]), node("Reshape", ["between", "second"], ["out"])]
    found = simplified(model_of(nodes, [ints("first", 6, 4), ints("second", *shape)], ["out"]))
    assert operators(found) == ["Reshape", "Reshape"]


def test_a_reshape_to_a_shape_that_is_only_known_later_stays():
    node = helper.make_node
    nodes = [
        node("Reshape", ["x", "first"], ["between"]), node("Shape", ["between"], ["shape"]),
        node("Reshape", ["between", "shape"], ["out"]),
    ]  # fmt: skip
    assert operators(simplified(model_of(nodes, [ints("first", 6, 4)], ["out"]))) == ["Reshape", "Shape", "Reshape"]


def test_what_nobody_reads_is_gone_with_its_constants_and_makers():
    node = helper.make_node
    nodes = [
        node("Neg", ["x"], ["unread"]), node("Add", ["unread", "one"], ["unread too"]), node("Abs", ["x"], ["out"]),
        node("Split", ["x", "cuts"], ["left", "right"], axis=2), node("Neg", ["right"], ["half"]),
    ]  # fmt: skip
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    found = simplified(model_of(nodes, [one, ints("cuts", 1, 3)], ["out", "half"]))
    assert operators(found) == ["Abs", "Split", "Neg"]
    assert [tensor.name for tensor in found.graph.initializer] == ["cuts"]


def test_an_output_keeps_its_name_though_it_only_takes_back_a_view():
    node = helper.make_node
    nodes = [node("Neg", ["x"], ["n"]), node("Unsqueeze", ["n", "axes"], ["wide"]),
             node("Squeeze", ["wide", "axes"], ["back"]), node("Abs", ["back"], ["out"])]  # fmt: skip
    found = simplified(model_of(nodes, [ints("axes", 0)], ["back", "out"]))
    assert next(node for node in found.graph.node if node.op_type == "Abs").input[0] == "n"


@pytest.mark.parametrize("seed", range(60))
def test_any_chain_of_views_comes_out_the_same(seed):
    rng = np.random.default_rng(seed)
    nodes, constants, shape, name, outputs = [], [], list(SHAPE), "x", []
    for turn in range(12):
        kind = rng.choice(["Unsqueeze", "Squeeze", "Reshape", "Copy", "Neg"])
        ones = [axis for axis, size in enumerate(shape) if size == 1]
        if kind == "Unsqueeze" and len(shape) < 6:
            axis = int(rng.integers(len(shape) + 1))
            values, shape = [axis], [*shape[:axis], 1, *shape[axis:]]
        elif kind == "Squeeze" and ones:
            axis = int(rng.choice(ones))
            values, shape = [axis], [*shape[:axis], *shape[axis + 1 :]]
        elif kind == "Copy" and len(shape) > 2:
            kind, values = "Reshape", [0, -1]
            shape = [shape[0], int(np.prod(shape[1:]))]
        elif kind == "Reshape":
            shape = [int(size) for size in rng.permutation([2, 3, 4, 1])]
            values = [-1 if size == 3 else size for size in shape]
        else:
            kind, values = "Neg", None
        made = f"t{turn}"
        constants += [] if values is None else [ints(f"k{turn}", *values)]
        nodes.append(helper.make_node(kind, [name, *([] if values is None else [f"k{turn}"])], [made]))
        name = made
        outputs += [made] if rng.random() < 0.2 else []
    simplified(model_of(nodes, constants, [*dict.fromkeys([*outputs, name])]))
