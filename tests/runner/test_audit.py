"""A graph is taken apart before onnxruntime is asked: what could read files, loop or call out is refused by name."""

import random

import onnx
import pytest
from onnx import TensorProto, helper

from runner.audit import audit_graph, encoder_signature, step_signature
from runner.bundle import open_bundle
from runner.errors import BundleError


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
    def run(model, *control_flow):
        return audit_graph(model.SerializeToString(), "step", step_signature(opened.manifest), control_flow)

    return run


@pytest.fixture
def refusal(audit):
    def run(model, *control_flow):
        with pytest.raises(BundleError) as caught:
            audit(model, *control_flow)
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
    assert "'leak' keeps its data outside" in refusal(model)


def test_external_data_is_refused_by_its_flag_alone_and_by_its_location_alone(model, refusal):
    flagged, located = external("flagged"), external("located")
    del flagged.external_data[:]
    located.data_location = TensorProto.DEFAULT
    model.graph.initializer.extend([flagged, located])
    assert "'flagged'" in refusal(model)
    assert "'located'" in refusal(model)


def test_external_data_in_a_constant_node_is_refused(model, refusal):
    model.graph.node.append(helper.make_node("Constant", [], ["extra"], value=external()))
    assert "'leak'" in refusal(model)


def test_external_data_inside_a_branch_is_refused_even_where_branches_are_allowed(model, refusal):
    nested = branch("inner", initializers=[external()])
    assert "'leak'" in refusal(with_if(model, nested), "If")


def test_external_data_in_a_sparse_initializer_is_refused(model, refusal):
    model.graph.sparse_initializer.append(sparse(external()))
    assert "'leak'" in refusal(model)


def test_external_data_in_a_sparse_constant_is_refused(model, refusal):
    model.graph.node.append(helper.make_node("Constant", [], ["extra"], sparse_value=sparse(external())))
    assert "'leak'" in refusal(model)


def test_a_function_is_refused_by_name(model, refusal):
    body = [helper.make_node("Tanh", ["x"], ["y"])]
    model.functions.append(helper.make_function("local", "Evil", ["x"], ["y"], body, [helper.make_opsetid("", 18)]))
    assert "function 'Evil'" in refusal(model)


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml", "ai.onnx.training", "ai.onnxevil", " "])
def test_a_foreign_domain_is_refused_even_unused(model, refusal, domain):
    model.opset_import.append(helper.make_opsetid(domain, 1))
    assert f"operator domain '{domain}'" in refusal(model)


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
    assert "1 training graphs" in refusal(model)


@pytest.mark.parametrize("operator", ["Loop", "Scan", "If", "NonZero", "RandomNormal", "StringConcat", "DFT", "lstm"])
def test_an_operator_off_the_list_is_refused_with_its_count(model, refusal, operator):
    with_node(with_node(model, operator), operator)
    assert f"operator {operator} (2 times)" in refusal(model)


def test_control_flow_passes_only_where_the_manifest_names_it(model, audit, refusal):
    with_if(model, branch("inner"))
    assert audit(model, "If").operators["If"] == 1
    assert "operator If" in refusal(model, "Loop")


def test_the_manifest_can_allow_control_flow_and_nothing_else(model, refusal):
    assert "operator NonZero" in refusal(with_node(model, "NonZero"), "NonZero", "If", "Loop", "Scan")


def test_an_operator_hidden_in_a_nested_branch_is_refused(model, refusal):
    inner = branch("inner", helper.make_node("NonZero", ["hidden"], ["found"]))
    outer = branch("outer", helper.make_node("If", ["condition"], ["x"], then_branch=inner, else_branch=branch("no")))
    assert "operator NonZero (1 times)" in refusal(with_if(model, outer), "If")


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
    for offender in ("'leak'", "'renamed'", "'hidden_next' is missing", "NonZero", "com.evil.Tanh"):
        assert offender in message


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
