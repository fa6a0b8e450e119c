"""`freerun-export explain-gap`: broken exports are named, a right one passes, and further training is measured."""

import importlib.util
import sys
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.cli import cli

_SPEC = importlib.util.spec_from_file_location("broken_exports", Path(__file__).with_name("broken_exports.py"))
broken = importlib.util.module_from_spec(_SPEC)
sys.modules["broken_exports"] = broken
_SPEC.loader.exec_module(broken)


@pytest.fixture(scope="module")
def right(build_models, train_windows, statistics, valid_windows):
    """Return a pair that was not trained, but made to matter: larger weights, so that no fault goes under."""
    config, models = build_models(scaling="standard")
    rng = np.random.default_rng(7)
    models.training.set_weights([weight + rng.normal(0, 0.5, weight.shape) for weight in models.training.get_weights()])
    return broken.Right(config, models, train_windows.sizes, statistics, valid_windows)


@pytest.fixture(scope="module")
def model(right, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    right.models.training.save(path)
    return path


@pytest.fixture
def explained(within):
    """Return what runs the command and gives the report."""

    def run(*words):
        done = within(cli, "explain-gap", *words, "--json")
        assert done.code == 0, done.err
        return done.json()

    return run


def named(report):
    return [entry["key"] for entry in report["suspects"] if entry["kind"] == "wiring" and entry["matches"]]


def test_a_right_export_passes_with_and_without_its_model(explained, right, model, demo, tmp_path):
    bundle = broken.write_broken(tmp_path / "bundle", right, right.models)
    for words in ([], ["--model", model]):
        report = explained(bundle, demo / "valid", *words)
        assert abs(report["parts"]["wiring"]) < 1e-6 * right.statistics.target_scale**2
        assert report["suspects"] == []
        assert report["parts"]["unattributed"] is None
        assert "nothing is wrong with the wiring" in report["verdict"]


@pytest.mark.parametrize("fault", broken.FAULTS)
def test_a_broken_export_is_named_beside_its_model(explained, right, model, demo, tmp_path, fault):
    bundle = broken.write_broken(tmp_path / "bundle", right, broken.FAULTS[fault](keras, right.models, right))
    report = explained(bundle, demo / "valid", "--model", model)
    assert named(report) == [fault]
    assert report["parts"]["wiring"] is not None
    assert report["parts"]["unattributed"] == pytest.approx(report["free_running"] - report["losses"]["T"])
    assert report["parts"]["horizon"] is None
    assert sum(value or 0 for value in report["parts"].values()) == pytest.approx(report["gap"], abs=1e-9)
    assert "The fault: " in report["verdict"]


@pytest.mark.parametrize("fault", ["states_swapped", "states_swapped_each_step", "start_value"])
def test_faults_that_undo_themselves_are_named_without_the_model(explained, right, demo, tmp_path, fault):
    bundle = broken.write_broken(tmp_path / "bundle", right, broken.FAULTS[fault](keras, right.models, right))
    assert named(explained(bundle, demo / "valid")) == [fault]


def test_a_mask_the_wrong_way_round_is_named(explained, right, demo, tmp_path):
    bundle = broken.write_broken(tmp_path / "bundle", right, right.models)
    (tmp_path / "valid").mkdir()
    for path in (demo / "valid").glob("*.parquet"):
        table = pq.read_table(path)
        turned = 1 - np.array(table["mask"].to_pylist(), np.uint8)
        index = table.schema.get_field_index("mask")
        mask = pa.FixedSizeListArray.from_arrays(pa.array(turned.ravel()), turned.shape[1])
        pq.write_table(table.set_column(index, "mask", mask), tmp_path / "valid" / path.name)
    assert named(explained(bundle, tmp_path / "valid")) == ["mask_inverted"]


@pytest.mark.parametrize("rate", ["nan", "inf", "0"])
def test_a_learning_rate_that_is_none_is_refused(within, rate):
    done = within(cli, "explain-gap", "bundle", "valid", "--learning-rate", rate)
    assert (done.code, done.out) == (2, "")
