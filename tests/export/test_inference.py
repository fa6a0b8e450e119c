"""An unrolled inference model is taken as it stands: its own predictions are what the bundle forecasts."""

import json
import re

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest

import unrolled
from export.cli import cli
from export.inference_inputs import is_inference_model
from runner.cli import cli as freerun
from teams import HORIZON, MODELS, draw, seq2seq, write


@pytest.fixture(scope="module")
def windows():
    return draw()


@pytest.fixture
def convert(within, tmp_path):
    """Return what saves a model and converts it: how the command ended, and where the bundle is."""

    def run(model, valid, *words):
        model.save(tmp_path / "model.keras")
        out = tmp_path / "bundle"
        done = within(cli, "convert", tmp_path / "model.keras", "--valid", valid, "--out", out, "--trust-model", *words)
        assert (done.code == 0) == out.is_dir(), done.err
        return done, out

    return run


@pytest.fixture
def forecast(within, tmp_path):
    """Return what scores windows with a bundle: predictions [N, H]."""

    def run(bundle, data):
        done = within(freerun, "score", bundle, data, "--out", tmp_path / "scored", "--json")
        assert done.code == 0, done.err
        (part,) = (tmp_path / "scored").glob("*.parquet")
        return np.array(pq.read_table(part)["prediction"].to_pylist(), np.float32)

    return run


def known_of(windows):
    return np.random.default_rng(4).normal(size=(len(windows.past), HORIZON, unrolled.FUTURE)).astype(np.float32)


@pytest.mark.parametrize("name", unrolled.MODELS)
def test_its_own_predictions_are_forecast(name, windows, convert, forecast, tmp_path):
    keras.utils.set_random_seed(3)
    model, known = unrolled.MODELS[name](), known_of(windows)
    assert is_inference_model(model)
    future = {"future_known": known.reshape(len(known), -1)} if len(model.inputs) > 1 else {}
    valid = write(tmp_path / "valid.parquet", windows, **future)
    done, bundle = convert(model, valid)
    assert done.code == 0, done.err
    inputs = [windows.past, known] if future else windows.past
    expected = model.predict(inputs, verbose=0).reshape(-1, HORIZON)
    np.testing.assert_allclose(forecast(bundle, valid), expected, atol=1e-6)
    certificate, manifest = (json.loads((bundle / f"{file}.json").read_text()) for file in ("certificate", "manifest"))
    assert certificate["source"]["model"] == "inference"
    assert 0 <= certificate["source"]["residual"] < 1e-6
    start = unrolled.STARTS.get(name, -1.0)
    assert manifest["start"]["value"] == (None if start == "last" else start)
    assert "step by step" in done.out


def test_it_may_begin_with_the_last_value_of_another_feature_that_is_the_target(windows, convert, tmp_path):
    model = unrolled.unrolled(start=lambda past: past[:, -1:, 1:])
    done, bundle = convert(model, write(tmp_path / "valid.parquet", windows), "--set", "target_feature=1")
    assert done.code == 0, done.err
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["start"]["kind"], manifest["target"]["feature"]) == ("last", 1)


def test_a_training_model_is_none():
    assert not any(is_inference_model(build()) for build in MODELS.values())
    assert not is_inference_model(keras.Sequential([keras.Input((3, 1)), keras.layers.LSTM(2)]))


@pytest.mark.parametrize("name", unrolled.REFUSED)
def test_a_loop_of_which_no_step_can_be_taken_is_refused_by_name(name, windows, convert, tmp_path):
    model = unrolled.refused(name)
    future = {"future_known": known_of(windows)[:, :, 0]} if len(model.inputs) > 1 else {}
    done, _ = convert(model, write(tmp_path / "valid.parquet", windows, **future))
    assert done.code == 16, done.err
    assert re.search(f"(?s){unrolled.REFUSED[name]}", done.err), done.err
    assert "remedy" in done.err
    assert "Traceback" not in done.err


def test_another_start_value_or_feature_than_the_models_own_is_refused(windows, convert, tmp_path):
    valid = write(tmp_path / "valid.parquet", windows)
    done, _ = convert(unrolled.unrolled(), valid, "--set", "start=0")
    assert (done.code, "--set start=-1.0" in done.err) == (2, True), done.err
    done, _ = convert(unrolled.unrolled(start=unrolled.last), valid, "--set", "target_feature=1")
    assert (done.code, "--set target_feature=0" in done.err) == (16, True), done.err
    done, _ = convert(unrolled.refused("learned start"), valid, "--set", "start=-1")
    assert done.code == 16, done.err
    assert re.search("otherwise than the inference model, from step 1 on", done.err), done.err


def test_a_scaler_goes_around_it(windows, convert, forecast, tmp_path):
    keras.utils.set_random_seed(3)
    model = unrolled.unrolled(start=unrolled.last)
    raw = np.array([50.0, -3.0]) + windows.past * np.array([4.0, 7.0])
    scaler = {"past": {"location": [50, -3], "scale": [4, 7]}, "target": {"location": 50, "scale": 4}}
    (tmp_path / "scaler.json").write_text(json.dumps(scaler))
    many = type(windows)(raw.astype(np.float32), (windows.target * 4 + 50).astype(np.float32), windows.mask)
    valid = write(tmp_path / "valid.parquet", many)
    done, bundle = convert(model, valid, "--scaler", tmp_path / "scaler.json")
    assert done.code == 0, done.err
    fed = ((many.past - [50, -3]) / [4, 7]).astype(np.float32)
    expected = model.predict(fed, verbose=0)[:, :, 0] * 4 + 50
    np.testing.assert_allclose(forecast(bundle, valid), expected, rtol=1e-6)


def test_the_doctor_asks_for_the_training_model(windows, within, tmp_path):
    unrolled.unrolled().save(tmp_path / "model.keras")
    data = write(tmp_path / "data.parquet", windows, own=windows.target)
    done = within(cli, "doctor", tmp_path / "model.keras", data, "--predictions", "own", "--trust-model")
    assert done.code == 16
    assert re.search("(?s)inference model.*the training model", done.err), done.err
    assert not is_inference_model(seq2seq())
