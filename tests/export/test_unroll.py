"""A recurrence written out step by step forecasts as its operator does; what is of another kind stays one."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.cells import quantized
from export.unroll import LONGEST, unroll

X, U = 3, 5
"""Inputs and units of the recurrences here."""
BATCHES = (1, 2, 7, 64)


def draw_gates(seed, inputs=X):
    """Draw weights in Keras' layout and order of gates (i, f, c, o)."""
    rng = np.random.default_rng(seed)
    shapes = (inputs, 4 * U), (U, 4 * U), (4 * U,)
    return tuple(rng.normal(0, 0.6, shape).astype(np.float32) for shape in shapes)


def lstm(prefix, gates, source, outputs, state=("", ""), *, bias=True, **settings):
    """Return an LSTM node and its constants; the second of ONNX's two biases is not zero."""

    def reorder(matrix):
        i, f, c, o = np.split(matrix, 4, axis=-1)
        return np.concatenate([i, o, f, c], axis=-1)

    kernel, recurrent, total = (reorder(part) for part in gates)
    half = (total / 4).astype(np.float32)
    values = {"W": kernel.T[None], "R": recurrent.T[None], "B": np.concatenate([total - half, half])[None]}
    names = [f"{prefix}_W", f"{prefix}_R", f"{prefix}_B" if bias else "", "", *state]
    node = helper.make_node("LSTM", [source, *names], list(outputs), hidden_size=U, **settings)
    constants = [numpy_helper.from_array(np.ascontiguousarray(v), f"{prefix}_{k}") for k, v in values.items()]
    return node, constants if bias else constants[:2]


def graph(nodes, constants, steps, outputs, *, with_state=False):
    """Return a model that reads x [steps, batch, X] and, where asked, a first state [1, batch, U]."""

    def declare(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    state = [declare(name, 1, "batch", U) for name in ("h0", "c0")] if with_state else []
    shapes = {"y": (steps, 1, "batch", U), "h": (1, "batch", U), "c": (1, "batch", U)}
    inputs = [declare("x", steps, "batch", X), *state]
    made = helper.make_graph(nodes, "g", inputs, [declare(name, *shapes[name]) for name in outputs], constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def single(steps, outputs=("y", "h", "c"), *, with_state=False, seed=0, **settings):
    made = ["y" if "y" in outputs else "", "h", "c"]
    node, constants = lstm("l", draw_gates(seed), "x", made, ("h0", "c0") if with_state else ("", ""), **settings)
    return graph([node], constants, steps, outputs, with_state=with_state)


def run(model, feeds):
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def draw_feeds(steps, batch, *, with_state=False, seed=1):
    rng = np.random.default_rng(seed)
    feeds = {"x": rng.normal(size=(steps, batch, X))}
    if with_state:
        feeds |= {"h0": rng.uniform(-0.9, 0.9, (1, batch, U)), "c0": rng.normal(size=(1, batch, U))}
    return {name: values.astype(np.float32) for name, values in feeds.items()}


def operators(model):
    return {node.op_type for node in model.graph.node}


def assert_close(found, expected, relative=1e-6):
    scale = max(1.0, float(np.abs(expected).max()))
    assert np.abs(found - expected).max() <= relative * scale


@pytest.mark.parametrize("with_state", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("batch", BATCHES)
def test_float32_equals_the_operator_and_the_definition(tiny, steps, batch, with_state):
    model = single(steps, with_state=with_state)
    written = unroll(model, "fp32")
    assert "LSTM" not in operators(written)
    feeds = draw_feeds(steps, batch, with_state=with_state)
    expected, found = run(model, feeds), run(written, feeds)
    for name in ("y", "h", "c"):
        assert found[name].shape == expected[name].shape
        assert_close(found[name], expected[name])
    state = [feeds[name][0] if with_state else np.zeros((batch, U)) for name in ("h0", "c0")]
    hidden, cell = tiny.numpy_lstm(feeds["x"].transpose(1, 0, 2).astype(float), *state, draw_gates(0))
    assert_close(found["h"][0], hidden)
    assert_close(found["c"][0], cell)


GATED = {"GRU": ("GRU", 3, {}), "GRU, reset after": ("GRU", 3, {"linear_before_reset": 1}), "RNN": ("RNN", 1, {})}
"""Operators that carry a hidden state alone: kind, gates, settings."""


def gated(name, steps, *, with_state, bias=True):
    kind, gates, settings = GATED[name]
    rng = np.random.default_rng(5)
    shapes = {"W": (1, gates * U, X), "R": (1, gates * U, U), "B": (1, 2 * gates * U)}
    constants = [numpy_helper.from_array(rng.normal(0, 0.6, s).astype(np.float32), k) for k, s in shapes.items()]
    names = ["x", "W", "R", "B" if bias else "", "", "h0" if with_state else ""]
    node = helper.make_node(kind, names, ["y", "h"], hidden_size=U, **settings)
    return graph([node], constants, steps, ("y", "h"), with_state=with_state)


def by_definition(name, model, x, hidden):
    """Run GRU or RNN over [T, B, X] in float64, from the last hidden state [B, U]."""
    w, r, b = (numpy_helper.to_array(tensor)[0].astype(float) for tensor in model.graph.initializer)
    wb, rb = np.split(b, 2)

    def sigmoid(values):
        return 1 / (1 + np.exp(-values))

    for row in x.astype(float):
        of_x = np.split(row @ w.T + wb, len(w) // U, axis=1)
        of_h = np.split(hidden @ r.T + rb, len(w) // U, axis=1)
        if name == "RNN":
            hidden = np.tanh(of_x[0] + of_h[0])
            continue
        z, reset = sigmoid(of_x[0] + of_h[0]), sigmoid(of_x[1] + of_h[1])
        after = reset * of_h[2] if "after" in name else (reset * hidden) @ r[2 * U :].T + rb[2 * U :]
        hidden = z * hidden + (1 - z) * np.tanh(of_x[2] + after)
    return hidden


@pytest.mark.parametrize("with_state", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", GATED)
def test_other_recurrences_equal_their_operator_and_their_definition(name, batch, steps, with_state):
    model, feeds = gated(name, steps, with_state=with_state), draw_feeds(steps, batch, with_state=with_state)
    expected, found = run(model, feeds), run(unroll(model, "fp32"), feeds)
    assert not {"GRU", "RNN"} & operators(unroll(model, "fp32"))
    for output in ("y", "h"):
        assert found[output].shape == expected[output].shape
        assert_close(found[output], expected[output])
    first = feeds["h0"][0].astype(float) if with_state else np.zeros((batch, U))
    assert_close(found["h"][0], by_definition(name, model, feeds["x"], first))


@pytest.mark.parametrize("with_state", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("name", GATED)
def test_other_recurrences_in_int8_differ_by_rounding_and_no_row_by_its_neighbours(name, with_state, run_exactly):
    model, feeds = gated(name, 5, with_state=with_state), draw_feeds(5, 64, with_state=with_state)
    written = unroll(model, "int8")
    whole, exact = run(written, feeds), run_exactly(written.SerializeToString())(feeds)
    assert 0 < np.abs(exact["h"] - run(model, feeds)["h"]).max() < 0.03
    for size in BATCHES[:3]:
        part = run(written, {key: values[:, 30 : 30 + size] for key, values in feeds.items()})
        assert part["h"].tobytes() == whole["h"][:, 30 : 30 + size].tobytes()
    feeds["x"][:, 0] *= 1e6
    assert run(written, feeds)["h"][:, 1:].tobytes() == whole["h"][:, 1:].tobytes()


@pytest.mark.parametrize("cell", ["fp32", "int8"])
@pytest.mark.parametrize("name", GATED)
def test_other_recurrences_without_a_bias(name, cell, run_exactly):
    model, feeds = gated(name, 3, with_state=False, bias=False), draw_feeds(3, 7)
    written = unroll(model, cell)
    found = run(written, feeds) if cell == "fp32" else run_exactly(written.SerializeToString())(feeds)
    assert_close(found["h"], run(model, feeds)["h"], 1e-6 if cell == "fp32" else 0.03)


def test_a_sequence_that_nobody_reads_is_not_made():
    whole, last = (unroll(single(5, outputs), "fp32") for outputs in (("y", "h", "c"), ("h", "c")))
    assert (
        len([node for node in whole.graph.node if node.op_type == "Concat"])
        == len([node for node in last.graph.node if node.op_type == "Concat"]) + 1
    )
    feeds = draw_feeds(5, 7)
    assert run(last, feeds)["h"].tobytes() == run(whole, feeds)["h"].tobytes()


@pytest.mark.parametrize("cell", ["fp32", "int8"])
def test_a_missing_bias_counts_as_zero(cell):
    kernel, recurrent, bias = draw_gates(0)
    zeros, feeds = (kernel, recurrent, np.zeros_like(bias)), draw_feeds(3, 7)
    node, constants = lstm("l", zeros, "x", ["y", "h", "c"])
    found = run(unroll(single(3, bias=False), cell), feeds)
    expected = run(unroll(graph([node], constants, 3, ("y", "h", "c")), cell), feeds)
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("cell", "bound"), [("fp32", 1e-6), ("int8", 0.02)])
def test_two_layers_one_on_the_others_sequence(batch, cell, bound, run_exactly):
    first, kept = lstm("a", draw_gates(0), "x", ["y1", "", ""])
    flat = helper.make_node("Squeeze", ["y1", "axis"], ["between"])
    second, more = lstm("b", draw_gates(1, U), "between", ["y", "h", "c"])
    axis = numpy_helper.from_array(np.array([1]), "axis")
    model, feeds = graph([first, flat, second], [*kept, *more, axis], 5, ("y", "h", "c")), draw_feeds(5, batch)
    written = unroll(model, cell)
    assert "LSTM" not in operators(written)
    found = run(written, feeds) if cell == "fp32" else run_exactly(written.SerializeToString())(feeds)
    expected = run(model, feeds)
    for name in expected:
        assert_close(found[name], expected[name], bound)


@pytest.mark.parametrize("made", ["constant", "of a shape", "expanded", "not zero"])
def test_a_first_state_of_zeros_saves_its_product_and_no_other_does(made):
    value = np.full((1, 1, U), 0.5 if made == "not zero" else 0, np.float32)
    constants, nodes = [numpy_helper.from_array(value, "z"), numpy_helper.from_array(np.array([1, 7, U]), "shape")], []
    if made == "of a shape":
        nodes = [helper.make_node("ConstantOfShape", ["shape"], ["s"])]
    elif made != "constant":
        nodes = [helper.make_node("Expand", ["z", "shape"], ["s"])]
    else:
        constants.append(numpy_helper.from_array(np.zeros((1, 7, U), np.float32), "s"))
    node, weights = lstm("l", draw_gates(0), "x", ["", "h", "c"], ("s", "s"))
    model, feeds = graph([*nodes, node], [*constants, *weights], 1, ("h", "c")), draw_feeds(1, 7)
    written = unroll(model, "fp32")
    widths = {tensor.dims[0] for tensor in written.graph.initializer if list(tensor.dims)[1:] == [U]}
    assert widths == ({X + U} if made == "not zero" else {X})
    for name, expected in run(model, feeds).items():
        assert_close(run(written, feeds)[name], expected)


def other_kinds():
    yield "clip", single(3, clip=0.5)
    yield "coupled gates", single(3, input_forget=1)
    yield "other activations", single(3, activations=["HardSigmoid", "Tanh", "Tanh"])
    yield "unknown length", single("time")
    yield "too long", single(LONGEST + 1, ("h", "c"))
    for direction in ("reverse", "bidirectional"):
        directions = 1 + (direction == "bidirectional")
        node, constants = lstm("l", draw_gates(0), "x", ["y", "", ""], direction=direction)
        twice = [numpy_helper.to_array(tensor).repeat(directions, 0) for tensor in constants]
        constants = [numpy_helper.from_array(v, t.name) for v, t in zip(twice, constants, strict=True)]
        model = graph([node], constants, 3, ()) if directions == 2 else graph([node], constants, 3, ("y",))
        if directions == 2:
            entry = helper.make_tensor_value_info("y", TensorProto.FLOAT, (3, 2, "batch", U))
            model.graph.output.append(entry)
        yield direction, model
    for name, place, value in (
        ("peepholes", 7, np.full((1, 3 * U), 0.1, np.float32)),
        ("sequence lengths", 4, np.array([3, 3], np.int32)),
    ):
        model = single(3, ("h", "c"), with_state=True)
        node = model.graph.node[0]
        node.input[:] = [*node.input, *[""] * (8 - len(node.input))]
        node.input[place] = "more"
        model.graph.initializer.append(numpy_helper.from_array(value, "more"))
        yield name, model
    model = single(3, ("h", "c"))
    model.graph.initializer.remove(next(tensor for tensor in model.graph.initializer if tensor.name == "l_R"))
    model.graph.input.append(helper.make_tensor_value_info("l_R", TensorProto.FLOAT, (1, 4 * U, U)))
    yield "weights from outside", model
    node, constants = lstm("l", draw_gates(0), "x", ["", "h", "c"], layout=1)
    model = graph([node], constants, 3, ())
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, (3, 1, U)) for name in ("h", "c"))
    yield "batch first", model


@pytest.mark.parametrize("cell", ["fp32", "int8"])
@pytest.mark.parametrize("model", [pytest.param(model, id=name) for name, model in other_kinds()])
def test_what_is_not_of_the_plain_kind_stays_as_it_was(model, cell):
    written = unroll(model, cell)
    kept = [(node.op_type, node.input, node.output, node.attribute) for node in model.graph.node]
    assert [(node.op_type, node.input, node.output, node.attribute) for node in written.graph.node] == kept
    assert written.graph.initializer == model.graph.initializer
    assert "LSTM" in operators(written)


def test_the_longest_recurrence_is_still_written_out():
    assert "LSTM" not in operators(unroll(single(LONGEST, ("h", "c")), "fp32"))


def test_the_given_graph_is_left_as_it_was():
    model = single(3)
    before = model.SerializeToString(deterministic=True)
    unroll(model, "int8")
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("with_state", [False, True], ids=["from zero", "from a state"])
def test_int8_differs_by_what_rounding_explains(with_state, run_exactly):
    model, feeds = single(5, with_state=with_state), draw_feeds(5, 64, with_state=with_state)
    expected, found = run(model, feeds), run_exactly(unroll(model, "int8").SerializeToString())(feeds)
    for name in expected:
        difference = np.abs(found[name] - expected[name]).max()
        assert 0 < difference < 0.02


@pytest.mark.parametrize("with_state", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("cell", ["fp32", "int8"])
def test_a_row_comes_out_the_same_bit_for_bit_in_any_batch_and_beside_an_outlier(cell, with_state):
    written, feeds = unroll(single(5, with_state=with_state), cell), draw_feeds(5, 64, with_state=with_state)
    whole = run(written, feeds)
    for size in BATCHES[:3]:
        for start in (0, 30):
            part = run(written, {name: values[:, start : start + size] for name, values in feeds.items()})
            for name, values in part.items():
                axis = values.ndim - 2
                assert values.tobytes() == whole[name].take(range(start, start + size), axis).tobytes(), name
    feeds["x"][:, 0] *= 1e6
    for name, values in run(written, feeds).items():
        axis = values.ndim - 2
        assert np.delete(values, 0, axis).tobytes() == np.delete(whole[name], 0, axis).tobytes(), name


@pytest.mark.parametrize("seed", range(5))
def test_quantized_weights_are_within_half_a_step_in_every_column(seed):
    rng = np.random.default_rng(seed)
    weights = (rng.normal(size=(9, 6)) * 10.0 ** rng.integers(-6, 4, 6)).astype(np.float32)
    weights[:, 2] = 0
    integers, scale = quantized(weights)
    assert (integers.dtype, scale.dtype) == (np.int8, np.float32)
    assert np.abs(integers.astype(int)).max(axis=0).tolist() == [127, 127, 0, 127, 127, 127]
    restored = integers.astype(np.float64) * scale
    assert (np.abs(restored - weights) <= scale * (0.5 + 1e-4)).all()
    assert not restored[:, 2].any()
