"""A graph is taken apart before onnxruntime is asked: what could read files, loop or call out is refused by name."""

import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import runner.proto
from runner.audit import EXPORT_ID_KEY, audit_graph, encoder_signature, step_signature
from runner.bundle import open_bundle
from runner.errors import BundleError
from runner.operators import OPERATORS
from runner.wire import describing_bytes


@pytest.fixture(scope="module")
def opened(tiny_bundle):
    return open_bundle(tiny_bundle)


@pytest.fixture
def model(opened):
    """Return the step graph that a test may spoil; its outputs are prediction, hidden_next and cell_next."""
    return onnx.load_model_from_string(opened.graphs("fp32")["decoder_step"])


@pytest.fixture(autouse=True)
def onnxruntime_must_not_be_asked(monkeypatch):
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("onnxruntime was asked"))


@pytest.fixture
def audit(opened):
    def run(model, turns=1):
        return audit_graph(model.SerializeToString(), "step", step_signature(opened.manifest), turns)

    return run


@pytest.fixture
def refusal(audit):
    def run(model, turns=1):
        with pytest.raises(BundleError) as caught:
            audit(model, turns)
        return str(caught.value)

    return run


def external(name="leak", location="../../etc/passwd"):
    """Return a tensor that keeps its data in a file of the attacker's choice."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def branch(name, *extra, initializers=()):
    node = helper.make_node("Constant", [], [f"{name}_out"], value_float=1.0)
    value = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [])
    return helper.make_graph([node, *extra], name, [], [value], list(initializers))


def with_if(model, then):
    """Append an If whose condition is constant, and whose first branch is given."""
    condition = helper.make_tensor("condition", TensorProto.BOOL, [], [True])
    model.graph.initializer.append(condition)
    model.graph.node.append(
        helper.make_node("If", ["condition"], ["chosen"], then_branch=then, else_branch=branch("otherwise"))
    )
    return model


def with_node(model, operator, **settings):
    model.graph.node.append(helper.make_node(operator, ["hidden"], ["extra"], **settings))
    return model


def sparse(values):
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    return helper.make_sparse_tensor(values, indices, [1])


def test_both_graphs_pass_with_their_operators_opset_and_stamp(opened):
    manifest, graphs = opened.manifest, opened.graphs("fp32")
    for content, signature in (
        (graphs["encoder"], encoder_signature(manifest)),
        (graphs["decoder_step"], step_signature(manifest)),
    ):
        facts = audit_graph(content, "graph", signature)
        assert facts.operators["LSTM"] == 1
        assert facts.opset == 18
        assert facts.export_id == manifest.export_id


@pytest.mark.parametrize("location", ["../x", "/etc/passwd", "weights.bin", ""])
def test_external_data_is_refused_wherever_it_points(model, refusal, location):
    model.graph.initializer.append(external(location=location))
    assert "'external_data' in a TensorProto (leak)" in refusal(model)


def test_external_data_is_refused_by_its_flag_alone_and_by_its_location_alone(model, refusal):
    flagged, located = external("flagged"), external("located")
    del flagged.external_data[:]
    located.data_location = TensorProto.DEFAULT
    model.graph.initializer.extend([flagged, located])
    message = refusal(model)
    assert "'data_location' in a TensorProto (flagged)" in message
    assert "'external_data' in a TensorProto (located)" in message


def test_external_data_in_the_value_of_a_node_is_refused(model, refusal):
    model.graph.node.append(helper.make_node("ConstantOfShape", ["axis0"], ["extra"], value=external()))
    assert "'external_data' in a TensorProto (leak)" in refusal(model)


def test_sparse_tensors_are_refused(model, refusal):
    model.graph.sparse_initializer.append(sparse(external()))
    model.graph.node.append(helper.make_node("Constant", [], ["extra"], sparse_value=sparse(external())))
    message = refusal(model)
    assert "'sparse_initializer' in a GraphProto" in message
    assert "'sparse_tensor' in a AttributeProto" in message


def test_a_function_is_refused(model, refusal):
    body = [helper.make_node("Tanh", ["x"], ["y"])]
    model.functions.append(helper.make_function("local", "Evil", ["x"], ["y"], body, [helper.make_opsetid("", 18)]))
    assert "'functions' in a ModelProto" in refusal(model)


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml", "ai.onnx.training", "ai.onnxevil", " "])
def test_a_foreign_domain_is_refused_even_unused(model, refusal, domain):
    model.opset_import.append(helper.make_opsetid(domain, 1))
    assert f"operator sets [('ai.onnx', 18), ('{domain}', 1)], expected ai.onnx 18 alone" in refusal(model)


def test_an_allowed_name_of_a_foreign_domain_is_refused(model, refusal):
    assert "operator com.evil.Tanh (1 times)" in refusal(with_node(model, "Tanh", domain="com.evil"))


def test_a_foreign_operator_is_told_with_its_whole_domain(model, refusal):
    assert "operator ai.onnx.ml.Scaler" in refusal(with_node(model, "Scaler", domain="ai.onnx.ml"))


def test_the_official_domain_may_be_spelt_out(model, audit):
    model.opset_import[0].domain = "ai.onnx"
    facts = audit(with_node(model, "Tanh", domain="ai.onnx"))
    assert facts.operators["Tanh"] == 1
    assert facts.opset == 18


def test_training_graphs_are_refused(model, refusal):
    model.training_info.add()
    assert "'training_info' in a ModelProto" in refusal(model)


@pytest.mark.parametrize("operator", ["Loop", "Scan", "If", "NonZero", "RandomNormal", "StringConcat", "DFT", "lstm"])
def test_an_operator_off_the_list_is_refused_with_its_count(model, refusal, operator):
    with_node(with_node(model, operator), operator)
    assert f"operator {operator} (2 times)" in refusal(model)


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan"])
def test_graphs_within_nodes_are_refused_whatever_the_operator_is_called(model, refusal, operator):
    with_if(model, branch("inner")).graph.node[-1].op_type = operator
    assert "'g' in a AttributeProto (then_branch)" in refusal(model)
    del model.graph.node[-1].attribute[:]
    assert f"operator {operator} (1 times)" in refusal(model)


def test_a_renamed_tensor_is_refused_with_both_names(model, refusal):
    model.graph.output[0].name = "forecast"
    message = refusal(model)
    assert "output 'prediction' is missing" in message
    assert "output 'forecast' is not in the manifest" in message


def test_an_input_that_is_also_a_constant_is_missing(model, refusal):
    model.graph.initializer.append(helper.make_tensor("hidden", TensorProto.FLOAT, [1, 3], [0, 0, 0]))
    assert "input 'hidden' is missing" in refusal(model)


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.STRING, TensorProto.UNDEFINED])
def test_a_retyped_tensor_is_refused_by_name(model, refusal, kind):
    model.graph.input[0].type.tensor_type.elem_type = kind
    message = refusal(model)
    assert "input 'previous' is " + TensorProto.DataType.Name(kind) in message
    assert "expected FLOAT ['batch', 1, 1]" in message


def test_a_tensor_of_a_type_that_onnx_does_not_know_is_refused_by_name(model, refusal):
    model.graph.input[0].type.tensor_type.elem_type = 99
    assert "'previous'" in refusal(model)


def test_an_input_that_is_no_tensor_is_refused_by_name(model, refusal):
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    assert "'previous'" in refusal(model)


@pytest.mark.parametrize("shape", [(), ("batch", 1), ("batch", 2, 1), ("n", 1, 1), (1, 1, 1), ("batch", 1, 1, 1)])
def test_a_reshaped_tensor_is_refused_with_both_shapes(model, refusal, shape):
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("prediction", TensorProto.FLOAT, shape))
    message = refusal(model)
    assert f"output 'prediction' is FLOAT {list(shape)}" in message
    assert "expected FLOAT ['batch', 1, 1]" in message


def test_all_offenders_are_told_at_once(model, refusal):
    model.graph.initializer.append(external())
    model.graph.output[1].name = "renamed"
    message = refusal(with_node(with_node(model, "NonZero"), "Tanh", domain="com.evil"))
    for offender in ("(leak)", "'renamed'", "'hidden_next' is missing", "NonZero", "com.evil.Tanh"):
        assert offender in message


@pytest.mark.parametrize("key", ["ort_config", "session.optimized_model_filepath", "freerun.export_id ", ""])
def test_metadata_beside_the_stamp_is_refused_by_its_key(model, refusal, key):
    model.metadata_props.add(key=key, value='{"session_options": {"enable_profiling": true}}')
    assert f"metadata '{key}'" in refusal(model)


def test_a_stamp_that_stands_there_twice_is_refused(model, refusal):
    model.metadata_props.add(key=EXPORT_ID_KEY, value="another")
    assert "metadata that stands there twice" in refusal(model)


@pytest.mark.parametrize("version", [0, 3, 7, 9, 1 << 40])
def test_another_version_of_onnx_is_refused_with_both(model, refusal, version):
    model.ir_version = version
    assert f"IR version {version}, expected 8" in refusal(model)
    model.opset_import[0].version = version
    assert f"operator sets [('ai.onnx', {version})], expected ai.onnx 18 alone" in refusal(model)


def test_bytes_that_onnxruntime_takes_for_its_own_format_are_refused_though_they_are_good_onnx(model, refusal):
    """It looks at the fifth to eighth byte, which lie within the producer's name here."""
    model.producer_name = "ORTM, or so"
    assert model.SerializeToString()[4:8] == b"ORTM"
    assert "onnxruntime's own format" in refusal(model)


def test_fields_that_this_onnx_does_not_know_are_refused_for_onnxruntimes_may(opened, model):
    unknown = bytes([0xFA, 0x7F, 1, 0])  # field 2047, one byte long
    with pytest.raises(BundleError, match="fields that ONNX does not know"):
        audit_graph(model.SerializeToString() + unknown, "step", step_signature(opened.manifest))


def test_what_is_only_claimed_of_a_shape_is_refused(model, refusal):
    model.graph.value_info.append(helper.make_tensor_value_info("joined", TensorProto.FLOAT, [1]))
    assert "'value_info' in a GraphProto" in refusal(model)


def test_too_many_nodes_are_refused_with_both_numbers_and_not_looked_at(model, refusal, monkeypatch):
    monkeypatch.setitem(runner.proto.LIMITS, "node", 9)
    monkeypatch.setattr("runner.audit._operator", lambda _: pytest.fail("a node was looked at"))
    assert "10 of 'node', expected at most 9" in refusal(model)


def test_a_graph_that_describes_too_much_is_refused_before_it_is_parsed(model, refusal, monkeypatch):
    monkeypatch.setattr("runner.audit.DESCRIBING_BYTES", 100)
    monkeypatch.setattr("runner.audit.parse", lambda *_: pytest.fail("it was parsed"))
    assert "expected: at most 100 bytes" in refusal(model)


def test_large_constants_are_no_description(model, audit):
    described = describing_bytes(model.SerializeToString())
    weights = numpy_helper.from_array(np.zeros((1, 12, 500), np.float32), "unused")
    model.graph.initializer.append(weights)
    content = model.SerializeToString()
    assert len(content) > 20_000
    assert describing_bytes(content) < described + 40
    audit(model)


def test_memory_for_a_window_beyond_the_limit_is_refused_with_both(model, audit, refusal, monkeypatch):
    cost = audit(model).cost
    monkeypatch.setattr("runner.audit.LARGEST_FOOTPRINT", cost.elements)
    audit(model)
    monkeypatch.setattr("runner.audit.LARGEST_FOOTPRINT", cost.elements - 1)
    message = refusal(model)
    assert "step takes too much memory" in message
    assert f"got: {cost.elements} elements at once a window" in message
    assert f"expected: at most {cost.elements - 1}" in message


def test_work_for_a_window_counts_each_turn_of_the_step(model, audit, refusal, monkeypatch):
    cost = audit(model).cost
    monkeypatch.setattr("runner.audit.MOST_WORK", 7 * cost.work)
    audit(model, turns=7)
    message = refusal(model, turns=8)
    assert f"got: {8 * cost.work} multiply-adds a window" in message
    assert f"expected: at most {7 * cost.work}" in message


def test_a_message_quotes_no_character_that_does_something_to_a_terminal(model, refusal):
    model.graph.output[1].name = "\x1b[2J\nfake: good bundle" + "x" * 1000
    message = refusal(model)
    assert "\x1b" not in message
    assert max(map(len, message.splitlines())) < 320


def constant(**fields):
    return TensorProto(name="spoilt", **fields)


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (
            constant(dims=[4], data_type=1, raw_data=bytes(12)),
            "[4] holds 12 in 'raw_data', expected 16 and nothing elsewhere",
        ),
        (constant(dims=[3], data_type=1, raw_data=bytes(16)), "[3] holds 16 in 'raw_data', expected 12"),
        (constant(dims=[3], data_type=1, float_data=[0.0]), "[3] holds 1 in 'float_data', expected 3"),
        (constant(dims=[3], data_type=1, int64_data=[0, 0, 0]), "[3] holds 0 in 'float_data', expected 3"),
        (constant(dims=[1], data_type=1, raw_data=bytes(4), float_data=[0.0]), "expected 4 and nothing elsewhere"),
        (constant(dims=[2], data_type=7, raw_data=bytes(8)), "expected 16"),
        (constant(dims=[1] * 9, data_type=1, raw_data=bytes(4)), "expected at most 8 axes"),
        (constant(dims=[2, 0], data_type=1), "is [2, 0], expected at most 8 axes of at least 1"),
        (constant(dims=[1], data_type=11, double_data=[0.0]), "is of type 11"),
        (constant(dims=[1], data_type=10, raw_data=bytes(2)), "is of type 10"),
    ],
    ids=str,
)
def test_a_constant_that_is_not_what_it_says_is_refused_by_name(model, refusal, tensor, told):
    model.graph.initializer.append(tensor)
    message = refusal(model)
    assert "'spoilt'" in message
    assert told in message


@pytest.mark.parametrize(
    "tensor",
    [
        constant(dims=[3], data_type=1, float_data=[0.0, 1.0, 2.0]),
        constant(dims=[], data_type=9, int32_data=[1]),
        constant(dims=[0], data_type=7),
        constant(dims=[2], data_type=2, raw_data=b"ab"),
    ],
    ids=str,
)
def test_a_constant_may_keep_its_items_in_either_place(model, audit, tensor):
    model.graph.initializer.append(tensor)
    audit(model)


@pytest.mark.parametrize(
    ("operator", "settings"),
    [("LSTM", {"layout": 1}), ("LSTM", {"clip_": 1}), ("MatMul", {"transA": 1}), ("Squeeze", {"axes": [0]})],
    ids=str,
)
def test_an_attribute_that_export_does_not_write_is_refused_by_name(model, refusal, operator, settings):
    node = next(node for node in model.graph.node if node.op_type == operator)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in settings.items())
    message = refusal(model)
    assert str(list(settings)) in message
    assert f"expected {sorted(OPERATORS[operator].settings)}" in message


@pytest.mark.parametrize("change", ["twice", "of another kind"])
def test_an_attribute_that_can_be_read_in_two_ways_is_refused(model, refusal, change):
    node = next(node for node in model.graph.node if node.op_type == "Concat")
    if change == "twice":
        node.attribute.append(helper.make_attribute("axis", 1))
    else:
        node.attribute[0].CopyFrom(helper.make_attribute("axis", "2"))
    assert "Concat" in refusal(model)


def test_an_empty_tensor_may_go_into_a_concat_and_nowhere_else(model, audit, refusal):
    """As of a feature that is the first: what stands before it. Of an LSTM fed with nothing, onnxruntime aborts."""
    model.graph.initializer.append(helper.make_tensor("n", TensorProto.INT64, [1], [0]))
    model.graph.initializer.append(helper.make_tensor("second", TensorProto.INT64, [1], [1]))
    model.graph.node.append(helper.make_node("Slice", ["hidden", "n", "n", "second"], ["empty"]))
    model.graph.node.append(helper.make_node("Concat", ["empty", "cell"], ["whole"], axis=1))
    audit(model)
    model.graph.node.append(helper.make_node("Tanh", ["empty"], ["still_empty"]))
    assert "only Concat may take such" in refusal(model)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"no graph at all", b"\x80" * 1000])
def test_what_is_no_graph_is_refused(opened, content):
    with pytest.raises(BundleError, match="step"):
        audit_graph(content, "step", step_signature(opened.manifest))


@pytest.mark.parametrize("seed", range(4))
def test_any_damage_passes_or_is_refused_but_never_raises_anything_else(opened, seed):
    draw = random.Random(seed)
    for turn in range(150):
        spoiled = bytearray(opened.graphs("fp32")["decoder_step"])
        for _ in range(draw.randint(1, 4)):
            spoiled[draw.randrange(len(spoiled))] = draw.randrange(256)
        try:
            audit_graph(bytes(spoiled), "step", step_signature(opened.manifest))
        except BundleError:
            continue
        except Exception as error:  # noqa: BLE001  (that is the fault looked for)
            pytest.fail(f"seed {seed}, turn {turn}: {error!r}")
