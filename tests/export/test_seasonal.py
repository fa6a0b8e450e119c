"""The seasonal base: the very numbers of the seasonal naive forecast, which training starts from, in the bundle too."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from contexts import without_targets

from export.cli import cli
from export.config import TrainConfig
from export.examples import context_inputs
from export.model import BASE, build
from export.pipeline import start_tensorflow
from export.release import Unreleased, release
from export.source import trainable
from export.training import evaluate, free_running, teacher_forced
from runner.cli import cli as freerun
from runner.schema import Sizes
from runner.score import naive_seasonal

SHAPES = [
    # context, horizon, season
    (48, 12, 24),
    (7, 5, 3),  # no whole number of seasons
    (6, 9, 4),  # a horizon of more than two seasons
    (6, 5, 1),
    (5, 4, 8),  # a season that some steps have not
    (5, 4, 9),  # that none has
    (5, 4, 1_000_000),
    (4, 1, 2),
]


def drawn(context, count=200):
    """Draw windows of which half the steps are missing, down to a single one that is there."""
    rng = np.random.default_rng(context)
    flags = (rng.random((count, context)) < 0.5).astype(np.float32)
    flags[np.arange(count), rng.integers(0, context, count)] = 1
    past = (rng.normal(50, 9, (count, context, 2)) * flags[:, :, None]).astype(np.float32)
    return without_targets(past, flags)


@pytest.mark.parametrize(("context", "horizon", "season"), SHAPES)
@pytest.mark.parametrize("flagged", [True, False])
def test_it_is_the_naive_seasonal_forecast_bit_for_bit(statistics, context, horizon, season, flagged):
    config = TrainConfig(units=2, base="seasonal", season_length=season, scaling="none")
    start_tensorflow(0)
    models = build(config, Sizes(context, horizon, 2, 0), statistics, 1, flagged=flagged)
    batch = drawn(context)
    inputs = context_inputs(batch)[: 1 + flagged]
    there = batch.past_observed == 1 if flagged else np.ones_like(batch.past_observed, bool)
    expected = naive_seasonal(batch.past[:, :, 1].astype(np.float64), there, horizon, season).astype(np.float32)
    found = models.encoder.predict_on_batch(inputs)[models.encoder_roles.index(BASE)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("scaling", ["none", "standard", "window"])
def test_an_untrained_network_forecasts_it_through_the_bundle_too(
    build_models, valid_windows, statistics, demo, within, tmp_path, scaling
):
    config, models = build_models(base="seasonal", season_length=24, scaling=scaling, cell="gru", attention="luong")
    batch = trainable(next(valid_windows.blocks()))
    assert (batch.past_observed == 0).any()
    there = batch.past_observed == 1
    expected = naive_seasonal(batch.past[:, :, 0].astype(np.float64), there, 12, 24).astype(np.float32)
    np.testing.assert_array_equal(free_running(models, batch), expected)
    np.testing.assert_array_equal(teacher_forced(models, batch, config, 0), expected)
    losses = evaluate(models, valid_windows, config, 0)
    release(Unreleased(models, config, scaling, statistics, 0, losses, {}), valid_windows, tmp_path / "bundle")
    done = within(freerun, "score", tmp_path / "bundle", demo / "valid", "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    total = done.json()["total"]
    assert total["masked_mse"] == total["naive"]["seasonal"]["masked_mse"]
    rows = pq.read_table(tmp_path / "out")["prediction"].to_pylist()
    np.testing.assert_array_equal(np.array(rows, np.float32)[: len(expected)], expected)


def test_the_command_trains_it_and_the_naive_forecast_is_the_epoch_to_beat(demo, within, tmp_path):
    words = ("base=seasonal", "season_length=24", "units=4", "epochs=1", "scaling=standard")
    settings = [word for setting in words for word in ("--set", setting)]
    out = tmp_path / "bundle"
    done = within(cli, "train", demo / "train", "--valid", demo / "valid", "--out", out, *settings)
    assert done.code == 0, done.err
    history = (tmp_path / "bundle.work" / "history.csv").read_text().splitlines()
    scored = within(freerun, "score", out, demo / "valid", "--out", tmp_path / "out", "--json").json()
    first = dict(zip(history[0].split(","), history[1].split(","), strict=True))
    assert float(first["epoch"]) == 0
    naive = scored["total"]["naive"]["seasonal"]["masked_mse"]
    assert float(first["free_running"]) == pytest.approx(naive, rel=1e-6)
    states = [pair["step_input"] for pair in json.loads((out / "manifest.json").read_text())["states"]]
    assert states == ["hidden", "cell", BASE]


def test_without_a_season_it_is_refused_before_anything_is_read(within, tmp_path):
    nowhere = tmp_path / "nowhere"
    done = within(cli, "train", nowhere, "--valid", nowhere, "--out", tmp_path / "bundle", "--set", "base=seasonal")
    assert done.code == 2
    assert "season_length" in done.err
