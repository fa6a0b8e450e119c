import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from export.bundle_writer import draft_manifest, provisional
from export.certify import BATCH_SIZES, PARITY, Candidate, audit_pair, certify, first_windows, tolerance_of
from export.forms import make_form
from export.graphs import GraphPair, convert, serialize
from export.training import evaluate
from runner.errors import CertificationError

KINDS = [
    {"units": 4, "scaling": "none", "start": -1.0},
    {"units": 4, "scaling": "standard", "start": "last"},
    {"units": [5, 3], "scaling": "window", "start": "last"},
    {"units": [4, 3, 2], "scaling": "standard", "start": 0.25},
    {"units": [3, 3, 3], "scaling": "window", "start": -1.0},
]


@pytest.fixture(scope="module")
def candidate_of(build_models, train_windows, statistics):
    """Return what makes an exported, not yet certified pair of graphs for some settings."""

    def make(**settings):
        config, models = build_models(**settings)
        pair = convert(models)
        manifest = provisional(
            draft_manifest(config, train_windows.sizes, statistics, 0, models, pair, scaling=config.scaling)
        )
        return Candidate(models, make_form(pair, manifest, "fp32"), manifest, config)

    return make


def certified(candidate, valid_windows):
    graphs = candidate.graphs
    pair = GraphPair(graphs.encoder, graphs.decoder_step, candidate.manifest.export_id)
    audit = audit_pair(candidate.models, pair)
    losses = evaluate(candidate.models, valid_windows, candidate.config, 0)
    return certify(candidate, valid_windows, audit, losses)


def edited(candidate, graph, change):
    """Return the candidate with one of its graphs changed."""
    model = onnx.load_model_from_string(getattr(candidate.graphs, graph))
    change(model.graph)
    return replace(candidate, graphs=replace(candidate.graphs, **{graph: serialize(model)}))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_layers_scalings_and_start_values_pass_with_differences_far_below_the_tolerance(
    candidate_of, valid_windows, kind
):
    candidate = candidate_of(**kind)
    found = certified(candidate, valid_windows)
    assert [entry.batch_size for entry in found.parity] == list(BATCH_SIZES)
    assert found.largest < 1e-5
    layers = len(candidate.config.layers)
    assert {facts.operators["LSTM"] for facts in found.audit.values()} == {layers}
    assert not {"Loop", "Scan", "If"} & {name for facts in found.audit.values() for name in facts.operators}
    for entry in found.parity:
        assert [len(values) for values in entry.loops().values()] == [12] * 4
        assert {"previous_0", "hidden", "cell"} <= entry.encoder.keys()
        assert {"prediction", "hidden_next", "cell_next"} <= entry.step.keys()


@pytest.mark.parametrize(("level", "deviation"), [(101_325, 221), (230, 0.87), (50_000, 58)])
def test_the_tolerance_is_never_finer_than_float32_at_the_targets_level(level, deviation):
    step = float(np.spacing(np.float32(level))) / deviation
    assert step > PARITY
    assert tolerance_of(level, deviation) >= 4 * step
    assert tolerance_of(1.0, 1.0) == PARITY


def test_a_target_that_float32_cannot_hold_is_refused():
    with pytest.raises(CertificationError, match="offset"):
        tolerance_of(1e7, 1.0)


def test_the_comparison_is_not_of_a_thing_with_itself(candidate_of, valid_windows):
    found = certified(candidate_of(), valid_windows)
    assert found.largest > 0


def test_every_output_and_input_is_named_by_role_and_has_one_batch_axis(candidate_of):
    candidate = candidate_of(units=[4, 3], scaling="window")
    step = onnx.load_model_from_string(candidate.graphs.decoder_step)
    names = [entry.name for entry in step.graph.input]
    assert names == ["previous", "future_known", "hidden", "cell", "hidden_1", "cell_1", "location", "scale"]
    assert [entry.name for entry in step.graph.output] == [
        "prediction", "hidden_next", "cell_next", "hidden_1_next", "cell_1_next",
    ]  # fmt: skip
    for entry in [*step.graph.input, *step.graph.output]:
        axes = entry.type.tensor_type.shape.dim
        assert axes[0].dim_param == "batch"
        assert all(axis.dim_value for axis in list(axes)[1:])
    assert {entry.domain for entry in step.opset_import} == {""}


def swap_states(graph):
    for node in graph.node:
        new = {"hidden_next": "cell_next", "cell_next": "hidden_next"}
        node.output[:] = [new.get(name, name) for name in node.output]


def add_to_output(name, amount):
    def change(graph):
        for node in graph.node:
            node.output[:] = [f"before/{name}" if output == name else output for output in node.output]
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(amount, np.float32), "amount"))
        graph.node.append(onnx.helper.make_node("Add", [f"before/{name}", "amount"], [name]))

    return change


@pytest.mark.parametrize(
    ("graph", "change", "named"),
    [
        ("decoder_step", swap_states, "hidden_next"),
        ("decoder_step", add_to_output("prediction", 1e-3), "free-running step 12"),
        ("encoder", add_to_output("previous_0", 1.0), "previous_0"),
        ("encoder", add_to_output("cell", 1e-3), "encoder cell"),
        ("fused", add_to_output("prediction", 1e-3), "fused free-running step 12"),
        ("fused", add_to_output("prediction", 1e-3), "fused teacher-forced step 1"),
    ],
)
def test_a_wiring_fault_is_refused_with_a_table_of_what_differs(candidate_of, valid_windows, graph, change, named):
    broken = edited(candidate_of(), graph, change)
    with pytest.raises(CertificationError) as caught:
        certified(broken, valid_windows)
    assert named in str(caught.value)
    assert "got" in str(caught.value)


def test_a_graph_without_its_lstm_is_refused(candidate_of, valid_windows):
    def unname(graph):
        for node in graph.node:
            if node.op_type == "LSTM":
                node.op_type = "GRU"

    with pytest.raises(CertificationError, match="GRU"):
        certified(edited(candidate_of(), "encoder", unname), valid_windows)


def test_what_cannot_be_fused_is_certified_by_the_loop_alone(candidate_of, valid_windows):
    candidate = candidate_of()
    found = certified(replace(candidate, graphs=replace(candidate.graphs, fused=None)), valid_windows)
    for entry in found.parity:
        assert {name: len(values) for name, values in entry.loops().items()} == {
            "teacher-forced": 12, "free-running": 12, "fused teacher-forced": 0, "fused free-running": 0,
        }  # fmt: skip


def test_losses_of_the_runner_and_of_keras_are_the_same_number(candidate_of, valid_windows):
    found = certified(candidate_of(scaling="standard"), valid_windows)
    for ours, theirs in zip(found.runner, found.keras, strict=True):
        assert ours.masked_mse(ours.model) == pytest.approx(theirs.masked_mse(theirs.model), rel=1e-6)
        assert ours.windows == theirs.windows == 100


def test_cudnn_is_off_while_tracing_and_as_before_after_it(build_models, monkeypatch):
    _, models = build_models()
    seen = []
    real = type(models.encoder).__call__

    def spy(self, *args, **kwargs):
        seen.append([layer.use_cudnn for layer in models.training.layers if hasattr(layer, "use_cudnn")])
        return real(self, *args, **kwargs)

    before = [layer.use_cudnn for layer in models.training.layers if hasattr(layer, "use_cudnn")]
    monkeypatch.setattr(type(models.encoder), "__call__", spy)
    convert(models)
    assert seen
    assert all(setting is False for settings in seen for setting in settings)
    assert [layer.use_cudnn for layer in models.training.layers if hasattr(layer, "use_cudnn")] == before


def test_the_export_id_depends_on_the_weights_alone(build_models):
    _, models = build_models(seed=1)
    assert convert(models).export_id == convert(models).export_id
    _, others = build_models(seed=2)
    assert convert(models).export_id != convert(others).export_id


def test_first_windows_are_good_ones(valid_windows):
    batch = first_windows(valid_windows, 8)
    assert len(batch) == 8
    assert not batch.reasons.any()
    assert json.dumps(batch.has_target.tolist()) == json.dumps([True] * 8)
