"""The graph of the whole horizon forecasts, bit for bit, what the loop around its two graphs forecasts."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.forms import make_form
from export.fuse import LONGEST_HORIZON, can_fuse, fuse
from export.graphs import GraphPair
from export.unroll import unroll
from runner.audit import EXPORT_ID_KEY, audit_graph, fused_signature
from runner.batch import WindowBatch
from runner.decode import decode, decode_fused
from runner.manifest import Manifest

STATES = [{"encoder_output": f"{name}_made", "step_input": f"{name}_in", "step_output": f"{name}_out", "width": 3}
          for name in ("h", "c")]  # fmt: skip
MEMORY = [{"encoder_output": "keys_made", "step_input": "keys_in", "shape": [3]},
          {"encoder_output": "scale_made", "step_input": "scale_in", "shape": [1]}]  # fmt: skip


def windows(tiny, rows=5, horizon=None, seed=0, *, known=True):
    c, f, h, k, _ = tiny.sizes
    h = horizon or h
    rng = np.random.default_rng(seed)
    observed = rng.random((rows, h)) < 0.6
    return WindowBatch(
        past=rng.normal(size=(rows, c, f)).astype(np.float32),
        past_observed=(rng.random((rows, c)) < 0.8).astype(np.float32),
        future_known=rng.normal(size=(rows, h, k)).astype(np.float32) if known else None,
        target=np.where(observed, rng.normal(size=(rows, h)), 0.0),
        observed=observed,
        decoder_input=None,
        has_target=np.ones(rows, bool),
        reasons=np.zeros(rows, np.uint8),
    )


def manifest_of(tiny, tiny_bundle, **changes):
    return Manifest.model_validate_json(json.dumps({**tiny.read_manifest(tiny_bundle), **changes}))


def graph(nodes, inputs, outputs, constants):
    def declare(entries):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *s]) for name, s in entries.items()]

    made = helper.make_graph(nodes, "own", declare(inputs), declare(outputs), constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def own_pair(tiny, *, known):
    """Return a pair with memory whose tensors have names of their own, the same ones inside both graphs."""
    c, f, _, k, _ = tiny.sizes
    rng, node = np.random.default_rng(3), helper.make_node

    def floats(name, *shape):
        return numpy_helper.from_array(rng.normal(0, 0.5, shape).astype(np.float32), name)

    flat = numpy_helper.from_array(np.array([-1, c * f]), "shape")
    encoder = graph(
        [
            node("Reshape", ["P", "shape"], ["a"]), node("MatMul", ["a", "w"], ["b"]), node("Tanh", ["b"], ["h_made"]),
            node("Sigmoid", ["b"], ["c_made"]), node("Neg", ["h_made"], ["keys_made"]),
            node("ReduceMean", ["b", "last"], ["scale_made"]), node("Abs", ["scale_made"], ["P0"]),
        ],
        {"P": (c, f), "PO": (c,)},
        {"P0": (1,), "h_made": (3,), "c_made": (3,), "keys_made": (3,), "scale_made": (1,)},
        [flat, floats("w", c * f, 3), numpy_helper.from_array(np.array([1]), "last")],
    )  # fmt: skip
    width = 1 + (k if known else 0)
    joined = node("Concat", ["Y", *(["K"] if known else [])], ["a"], axis=2)
    shape, back = (
        numpy_helper.from_array(np.array([-1, width]), "shape"),
        numpy_helper.from_array(np.array([1]), "last"),
    )
    step = graph(
        [
            joined, node("Reshape", ["a", "shape"], ["b"]), node("MatMul", ["b", "w"], ["d"]),
            node("Mul", ["h_in", "keys_in"], ["e"]), node("Add", ["d", "e"], ["sum"]), node("Tanh", ["sum"], ["h_out"]),
            node("Mul", ["c_in", "scale_in"], ["g"]), node("Add", ["g", "h_out"], ["c_out"]),
            node("MatMul", ["c_out", "v"], ["p"]), node("Unsqueeze", ["p", "last"], ["YHAT"]),
        ],
        {"Y": (1, 1), **({"K": (1, k)} if known else {}), "h_in": (3,), "c_in": (3,), "keys_in": (3,),
         "scale_in": (1,)},
        {"YHAT": (1, 1), "h_out": (3,), "c_out": (3,)},
        [shape, back, floats("w", width, 3), floats("v", 3, 1)],
    )  # fmt: skip
    return encoder, step


def own_manifest(tiny, tiny_bundle, *, known, horizon):
    values = tiny.read_manifest(tiny_bundle)
    names = {"previous": "Y", "future_known": "K", "prediction": "YHAT"}
    if not known:
        del names["future_known"]
    return manifest_of(
        tiny,
        tiny_bundle,
        horizon=horizon,
        states=STATES,
        memory=MEMORY,
        features={"past": ["y", "x"], "future_known": ["k"] if known else []},
        encoder={**values["encoder"], "tensors": {"past": "P", "past_observed": "PO", "previous_0": "P0"}},
        decoder_step={**values["decoder_step"], "tensors": names},
    )


def written_out(pair, precision):
    return [unroll(onnx.load_model_from_string(graph), precision) for graph in (pair.encoder, pair.decoder_step)]


@pytest.fixture
def composed(tiny, tiny_bundle):
    """Return what makes a manifest, the two graphs to loop over and the fused one, all ready to run."""

    def make(kind, horizon=4):
        if kind in {"fp32", "int8"}:
            manifest = manifest_of(tiny, tiny_bundle, horizon=horizon)
            encoder, step = written_out(tiny.make_pair(), kind)
        else:
            known = kind == "memory"
            manifest = own_manifest(tiny, tiny_bundle, known=known, horizon=horizon)
            encoder, step = own_pair(tiny, known=known)
        made = fuse(encoder, step, manifest)
        onnx.checker.check_model(made, full_check=True)
        audit_graph(made.SerializeToString(), "fused", fused_signature(manifest, manifest.fused_tensors()))
        return manifest, *(tiny.run_graph(model.SerializeToString()) for model in (encoder, step, made))

    return make


KINDS = pytest.mark.parametrize("kind", ["fp32", "int8", "memory", "memory, nothing known"])


@KINDS
@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize("horizon", [1, 2, 4])
@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_the_fused_graph_forecasts_what_the_loop_does_bit_for_bit(tiny, composed, kind, teacher, horizon, rows):
    manifest, encoder, step, fused = composed(kind, horizon)
    batch = windows(tiny, rows, horizon, known=manifest.future_width > 0)
    expected = decode(encoder, step, manifest, batch, teacher=teacher)
    found = decode_fused(fused, manifest.fused_tensors(), horizon, batch, teacher=teacher)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert found.tobytes() == expected.tobytes()
    assert len(np.unique(expected)) == expected.size


@KINDS
def test_the_datas_own_decoder_input_is_fed_from_the_second_step_on(tiny, composed, kind):
    manifest, encoder, step, fused = composed(kind)
    own = np.random.default_rng(4).normal(size=(5, 4)).astype(np.float32)
    batch = replace(windows(tiny, known=manifest.future_width > 0), decoder_input=own)
    found = decode_fused(fused, manifest.fused_tensors(), 4, batch, teacher=True)
    assert found.tobytes() == decode(encoder, step, manifest, batch, teacher=True).tobytes()


def by_hand(encoder, step, manifest, batch, teacher):
    """Loop over the two graphs with what the format says of `teacher`: NaN the last prediction, infinity the start."""
    names = manifest.decoder_step.tensors
    made = encoder({"P": batch.past, "PO": batch.past_observed})
    state, start, found = {"h_in": made["h_made"], "c_in": made["c_made"]}, made["P0"], []
    memory = {"keys_in": made["keys_made"], "scale_in": made["scale_made"]}
    previous = start
    for h in range(manifest.horizon):
        if h:
            given = teacher[:, h : h + 1]
            previous = np.where(np.isnan(given), found[-1], np.where(np.isinf(given), start, given))
        known = {names["future_known"]: batch.future_known[:, h : h + 1]}
        returned = step({names["previous"]: previous[:, :, None].astype(np.float32), **known, **state, **memory})
        state = {"h_in": returned["h_out"], "c_in": returned["c_out"]}
        found.append(returned[names["prediction"]][:, :, 0])
    return np.concatenate(found, axis=1)


TEACHERS = {
    "free-running": np.full((6, 4), np.nan),
    "start value": np.full((6, 4), np.inf),
    "minus infinity": np.full((6, 4), -np.inf),
    "given": np.arange(24.0).reshape(6, 4) / 10,
    "mixed": np.array([[7, np.nan, 0.5, np.inf], [np.nan, 0.1, np.nan, np.inf], [np.inf, -np.inf, 0, np.nan]] * 2),
}


@pytest.mark.parametrize("name", TEACHERS)
def test_teacher_says_at_each_step_and_for_each_row_what_is_fed(tiny, composed, name):
    manifest, encoder, step, fused = composed("memory")
    batch, teacher = windows(tiny, 6), TEACHERS[name].astype(np.float32)
    feeds = {"P": batch.past, "PO": batch.past_observed, "K": batch.future_known, "teacher": teacher}
    expected = by_hand(encoder, step, manifest, batch, teacher)
    assert fused(feeds)["YHAT"].tobytes() == expected.tobytes()
    feeds["teacher"] = np.concatenate([np.full((6, 1), 99, np.float32), teacher[:, 1:]], axis=1)
    assert fused(feeds)["YHAT"].tobytes() == expected.tobytes(), "the first step always takes the start value"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_fused_graph_has_no_loop_and_no_lstm_and_keeps_each_weight_once(tiny, tiny_bundle, precision):
    manifest = manifest_of(tiny, tiny_bundle)
    written = written_out(tiny.make_pair(), precision)
    made = fuse(*written, manifest)
    assert not {"LSTM", "Loop", "Scan", "If", "Identity"} & {node.op_type for node in made.graph.node}
    floats = [tensor for tensor in made.graph.initializer if tensor.data_type in {TensorProto.FLOAT, TensorProto.INT8}]
    assert len(floats) <= sum(len(model.graph.initializer) for model in written)
    written_names = [name for node in made.graph.node for name in node.output]
    assert len(set(written_names)) == len(written_names)


def test_the_given_graphs_are_left_as_they_were(tiny, tiny_bundle):
    written = written_out(tiny.make_pair(), "fp32")
    before = [model.SerializeToString(deterministic=True) for model in written]
    fuse(*written, manifest_of(tiny, tiny_bundle))
    assert [model.SerializeToString(deterministic=True) for model in written] == before


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_form_is_stamped_as_its_pair_and_float32_keeps_the_certified_graphs(tiny, tiny_bundle, precision):
    pair, manifest = tiny.make_pair(), manifest_of(tiny, tiny_bundle)
    form = make_form(pair, manifest, precision)
    for content in form.by_key().values():
        stamps = {entry.key: entry.value for entry in onnx.load_model_from_string(content).metadata_props}
        assert stamps == {EXPORT_ID_KEY: pair.export_id}
    assert (form.encoder, form.decoder_step) == (pair.encoder, pair.decoder_step) or precision == "int8"
    assert form.by_key().keys() == {"encoder", "decoder_step", "fused"}
    assert make_form(pair, manifest, precision) == form


def test_a_horizon_that_is_too_long_stays_outside_the_graph(tiny, tiny_bundle):
    encoder, step = own_pair(tiny, known=True)
    assert can_fuse(encoder, step, LONGEST_HORIZON)
    assert not can_fuse(encoder, step, LONGEST_HORIZON + 1)
    form = make_form(tiny.make_pair(), manifest_of(tiny, tiny_bundle, horizon=LONGEST_HORIZON + 1), "int8")
    assert form.fused is None
    assert form.by_key().keys() == {"encoder", "decoder_step"}


@pytest.mark.parametrize("place", ["encoder", "step"])
def test_control_flow_stays_outside_the_graph(tiny, tiny_bundle, place):
    pair = dict(zip(("encoder", "step"), own_pair(tiny, known=True), strict=True))
    value = helper.make_tensor_value_info("out", TensorProto.FLOAT, [])
    branch = helper.make_graph([helper.make_node("Constant", [], ["out"], value_float=1.0)], "b", [], [value])
    model = pair[place]
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    model.graph.node.append(helper.make_node("If", ["yes"], ["x"], then_branch=branch, else_branch=branch))
    assert not can_fuse(pair["encoder"], pair["step"], 4)
    graphs = GraphPair(*(model.SerializeToString() for model in pair.values()), "0" * 64)
    assert make_form(graphs, own_manifest(tiny, tiny_bundle, known=True, horizon=4), "fp32").fused is None
