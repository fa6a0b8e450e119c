"""Every kind of model that can be trained: in ONNX it does what it does in Keras, without a loop, and it learns."""

from dataclasses import fields, replace
from itertools import product

import keras
import numpy as np
import onnx
import pytest

from export.anatomy import dissect
from export.bundle_writer import draft_manifest, provisional
from export.certify import BATCH_SIZES, Candidate, audit_pair, certify
from export.checkpoints import WorkFolder
from export.config import TrainConfig
from export.examples import context_inputs, future_inputs, teacher_values
from export.forms import make_form
from export.graphs import convert
from export.mixed import mixed_model
from export.model import BASE, build
from export.pipeline import start_tensorflow
from export.quantize import certified_int8
from export.source import trainable
from export.training import evaluate, free_running, teacher_forced, train
from runner.audit import audit_graph, fused_signature

SEASON = 7
"""No part of the context, and shorter than the horizon."""
CELLS, ENCODERS, ATTENTIONS = ("lstm", "gru"), ("forward", "bidirectional"), ("none", "luong", "bahdanau")
KINDS = [
    {"cell": cell, "encoder": encoder, "attention": attention}
    for cell, encoder, attention in product(CELLS, ENCODERS, ATTENTIONS)
]
"""Each with another of these beside it, so that every pair of an old setting with a new one is there."""
BESIDE = [
    {"units": 4, "scaling": "standard", "base": "none"},
    {"units": [4, 3], "scaling": "window", "start": "last", "base": "seasonal", "season_length": SEASON},
    {"units": [5, 4, 3], "scaling": "none", "base": "seasonal", "season_length": SEASON},
    {"units": [3, 4], "scaling": "window", "start": "last", "base": "linear"},
    {"units": 4, "scaling": "window", "base": "none"},
]
ALL = [{**kind, **BESIDE[index % len(BESIDE)]} for index, kind in enumerate(KINDS)]


def name_of(settings):
    return "-".join(str(settings[key]) for key in ("cell", "encoder", "attention", "base"))


def drawn(models):
    """Give every weight a value, those that begin as zeros included."""
    rng = np.random.default_rng(2)
    for weight in models.training.weights:
        weight.assign(rng.normal(0, 0.4, weight.shape))
    return models


@pytest.fixture(scope="module", params=ALL, ids=name_of)
def kind(request, build_models):
    config, models = build_models(**request.param)
    return config, drawn(models)


def batch_of(windows):
    return trainable(next(windows.blocks()))


@pytest.fixture
def certified(kind, valid_windows, statistics):
    config, models = kind
    pair = convert(models)
    sizes = valid_windows.sizes
    manifest = provisional(draft_manifest(config, sizes, statistics, 0, models, pair, scaling=config.scaling))
    graphs = make_form(pair, manifest, "fp32")
    losses = evaluate(models, valid_windows, config, 0)
    found = certify(Candidate(models, graphs, manifest, config), valid_windows, audit_pair(models, pair), losses)
    return found, pair, graphs, manifest


def test_the_graphs_do_what_keras_does_without_a_loop_and_in_int8_too(kind, certified, valid_windows):
    config, models = kind
    found, pair, graphs, manifest = certified
    assert tuple(entry.batch_size for entry in found.parity) == BATCH_SIZES
    assert 0 < found.largest < 1e-5
    operators = [node.op_type for graph in (pair.encoder, pair.decoder_step, graphs.fused) for node in nodes(graph)]
    assert not {"Loop", "Scan", "If"} & set(operators)
    audit_graph(graphs.fused, "fused", fused_signature(manifest, manifest.fused_tensors()))
    assert operators.count(config.cell.upper()) >= 2 * len(config.layers)
    assert ("memory" in models.memory) == (config.attention != "none")
    assert manifest.states[-1].step_input == (BASE if config.base != "none" else names(config)[-1])
    form = certified_int8(pair, graphs, manifest, valid_windows)
    assert "MatMulInteger" in [node.op_type for node in nodes(form.graphs.decoder_step)]


def test_attention_to_a_target_of_small_deviation_is_not_refused(valid_windows, statistics):
    small = 1e-4

    class Small(type(valid_windows)):
        __slots__ = ()

        def blocks(self, groups=None):
            for block in super().blocks(groups):
                yield replace(block, past=block.past * np.float32(small), target=block.target * small)

    windows = Small(**{field.name: getattr(valid_windows, field.name) for field in fields(valid_windows)})
    units = ("past_location", "past_scale", "target_location", "target_scale", "target_level")
    measured = replace(statistics, **{name: getattr(statistics, name) * small for name in units})
    config = TrainConfig(units=4, attention="luong", encoder="bidirectional", start="last")
    start_tensorflow(config.seed)
    models = drawn(build(config, windows.sizes, measured, 0, flagged=True))
    pair = convert(models)
    manifest = provisional(draft_manifest(config, windows.sizes, measured, 0, models, pair, scaling=config.scaling))
    candidate = Candidate(models, make_form(pair, manifest, "fp32"), manifest, config)
    certify(candidate, windows, audit_pair(models, pair), evaluate(models, windows, config, 0))


def nodes(graph):
    return onnx.load_model_from_string(graph).graph.node


def names(config):
    of_cell = ("hidden", "cell") if config.cell == "lstm" else ("hidden",)
    return [name if index == 0 else f"{name}_{index}" for index in range(len(config.layers)) for name in of_cell]


def test_the_loop_that_training_unrolls_is_the_one_of_the_two_models(kind, valid_windows):
    config, models = kind
    batch = batch_of(valid_windows)
    mixed, teacher = mixed_model(models), teacher_values(batch, config, 0)
    forecasts = {1.0: teacher_forced(models, batch, config, 0), 0.0: free_running(models, batch)}
    for use, expected in forecasts.items():
        fed = [teacher[:, :, None], np.full(teacher.shape, use, np.float32)]
        found = mixed.predict_on_batch([*context_inputs(batch), *fed, *future_inputs(batch)])[:, :, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(forecasts[1.0] - forecasts[0.0]).max() > 1e-4


def test_the_saved_model_is_taken_apart_again_as_explain_gap_and_doctor_do(kind, valid_windows, tmp_path):
    config, models = kind
    models.training.save(tmp_path / "model.keras")
    again = dissect(keras.models.load_model(tmp_path / "model.keras"), config.start, 0)
    batch = batch_of(valid_windows)
    np.testing.assert_allclose(free_running(again, batch), free_running(models, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", ALL[::3], ids=name_of)
def test_a_short_training_that_feeds_the_model_itself_lowers_the_loss(
    settings, build_models, train_windows, valid_windows, statistics, tmp_path
):
    course = {"strategy": "free-running", "epochs": 3, "batch_size": 32, "learning_rate": 0.02}
    config, models = build_models(**settings, **course)
    untrained = evaluate(models, valid_windows, config, 0)[1]
    work = WorkFolder(tmp_path / "w", "test")
    trained = train(models, (train_windows, valid_windows), statistics, config, 0, work, [])
    assert trained.best.epoch > 0
    assert trained.best.free_running < untrained.masked_mse(untrained.model)
