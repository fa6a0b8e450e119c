"""The linear base: what is fitted, that training starts from it, and that the graphs carry it."""

import dataclasses

import numpy as np
import pytest

from export.base import PENALTIES, Sums, fit_base, solve
from export.bundle_writer import draft_manifest, provisional
from export.certify import Candidate, audit_pair, certify
from export.checkpoints import WorkFolder
from export.examples import context_inputs
from export.forms import make_form
from export.graphs import convert
from export.model import BASE
from export.quantize import certified_int8
from export.source import trainable
from export.training import evaluate, free_running, teacher_forced, train
from runner.errors import UsageError


def sums_of(inputs, target, observed):
    counted = np.where(observed, target, 0.0)
    return Sums(
        len(inputs),
        observed.sum(axis=0),
        inputs.sum(axis=0),
        counted.sum(axis=0),
        inputs.T @ inputs,
        inputs.T @ counted,
    )


def test_without_a_penalty_it_is_least_squares_with_an_intercept():
    rng = np.random.default_rng(0)
    inputs, noise = rng.normal(1, 2, (500, 7)), rng.normal(size=(500, 3))
    target = inputs @ rng.normal(size=(7, 3)) + 5 + noise
    (kernel, bias), (shrunk, level) = solve(sums_of(inputs, target, np.ones(target.shape, bool)), np.array([0, 1e9]))
    expected, *_ = np.linalg.lstsq(np.column_stack([inputs, np.ones(500)]), target)
    np.testing.assert_allclose(np.vstack([kernel, bias]), expected, atol=1e-9)
    assert np.abs(shrunk).max() < 1e-6
    np.testing.assert_allclose(level, target.mean(axis=0), atol=1e-5)


def test_targets_that_do_not_count_are_left_out_without_bias():
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(20_000, 4))
    target = inputs @ np.ones((4, 2)) + 3
    observed = rng.random(target.shape) < 0.6
    (kernel, bias), *_ = solve(sums_of(inputs, np.where(observed, target, 7e8), observed), np.zeros(1))
    np.testing.assert_allclose(kernel, 1, atol=0.05)
    np.testing.assert_allclose(bias, 3, atol=0.05)


KINDS = [
    {"scaling": "window", "start": "last"},
    {"scaling": "standard"},
    {"scaling": "none", "units": [4, 3]},
]


@pytest.fixture(params=KINDS, ids=["window", "standard", "none, stacked"])
def based(request, build_models, train_windows, valid_windows):
    config, models = build_models(base="linear", **request.param)
    return config, models, fit_base(models, train_windows, valid_windows)


def test_an_untrained_network_forecasts_the_base_and_the_base_is_fitted(based, valid_windows):
    config, models, fitted = based
    assert fitted.penalty in PENALTIES
    forced, free = evaluate(models, valid_windows, config, 0)
    assert free.masked_mse(free.model) == pytest.approx(fitted.masked_mse, rel=1e-5)
    assert forced.masked_mse(forced.model) == pytest.approx(fitted.masked_mse, rel=1e-5)
    assert fitted.masked_mse < 0.7 * free.masked_mse(free.last)
    batch = trainable(next(valid_windows.blocks()))
    base = models.encoder.predict_on_batch(context_inputs(batch))[models.encoder_roles.index(BASE)]
    np.testing.assert_allclose(free_running(models, batch), base, atol=1e-5)


def test_training_moves_the_network_alone_and_the_base_is_a_candidate(
    based, train_windows, valid_windows, statistics, tmp_path
):
    config, models, fitted = based
    before = models.encoder.get_layer(BASE).get_weights()
    work = WorkFolder(tmp_path / "w", "test")
    trained = train(models, (train_windows, valid_windows), statistics, config, 0, work, [])
    assert [line.epoch for line in trained.history] == [0, 1, 2]
    assert trained.history[0].free_running == pytest.approx(fitted.masked_mse, rel=1e-5)
    assert trained.best.free_running <= trained.history[0].free_running
    for one, other in zip(before, models.encoder.get_layer(BASE).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert train(models, (train_windows, valid_windows), statistics, config, 0, work, []) == trained


def test_the_graphs_carry_it_in_float32_and_in_int8(based, valid_windows, statistics, train_windows):
    config, models, _ = based
    rng = np.random.default_rng(0)
    dense = models.training.get_layer("decoder_dense")
    dense.set_weights([rng.normal(0, 0.3, weights.shape) for weights in dense.get_weights()])
    batch = trainable(next(valid_windows.blocks()))
    assert np.abs(free_running(models, batch) - teacher_forced(models, batch, config, 0)).max() > 1e-3
    pair = convert(models)
    audit = audit_pair(models, pair)
    manifest = provisional(
        draft_manifest(config, train_windows.sizes, statistics, 0, models, pair, scaling=config.scaling)
    )
    assert [(state.step_input, state.width) for state in manifest.states][-1] == (BASE, 12)
    graphs = make_form(pair, manifest, "fp32")
    assert graphs.fused is not None
    found = certify(
        Candidate(models, graphs, manifest, config), valid_windows, audit, evaluate(models, valid_windows, config, 0)
    )
    assert found.largest < 1e-5
    certified_int8(pair, graphs, manifest, valid_windows)


def test_a_context_that_is_too_wide_is_refused(build_models, train_windows, valid_windows, monkeypatch):
    _, models = build_models(base="linear")
    monkeypatch.setattr("export.base.MOST_INPUTS", 100)
    with pytest.raises(UsageError, match="192 inputs"):
        fit_base(models, train_windows, valid_windows)


def test_a_missing_step_counts_for_nothing(build_models, valid_windows, train_windows):
    _, models = build_models(base="linear")
    fit_base(models, train_windows, valid_windows)
    batch = trainable(next(valid_windows.blocks()))
    assert (batch.past_observed == 0).any()
    spoiled = np.where(batch.past_observed[:, :, None] == 1, batch.past, 1e6).astype(np.float32)
    other = dataclasses.replace(batch, past=spoiled)
    np.testing.assert_array_equal(free_running(models, batch), free_running(models, other))
