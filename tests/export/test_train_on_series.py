"""Training on series is training on their windows; what it saw of the calendar is what scoring computes."""

import json
from datetime import timedelta

import hourly
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import runner.cli
from export.cli import cli
from export.config import load_config
from export.pipeline import Data, train_bundle
from export.quantize import quantize_bundle
from export.recipe import settled
from export.series import open_series
from runner.batch import join
from runner.bundle import open_bundle
from runner.errors import UsageError

CONTEXT, HORIZON = 12, 6
KEYS = {"units": 8, "epochs": 3, "batch_size": 16, "learning_rate": 0.03, "start": "last"}
ON_SERIES = {
    "context_length": CONTEXT,
    "horizon": HORIZON,
    "freq": "h",
    "past_features": ["x"],
    "calendar": ["hour", "holiday"],
    "holidays": [hourly.HOLIDAY],
}


class DeathError(BaseException):
    """A stand-in for SIGKILL: nothing in the product catches it."""


def write_config(path, keys):
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    return path


def dying_callbacks(_):
    import keras  # noqa: PLC0415

    class Dies(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):  # noqa: ARG002
            if epoch == 1:
                raise DeathError

    return [Dies()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with train.parquet, valid.parquet and the bundle of a training that was killed and resumed."""
    folder = tmp_path_factory.mktemp("series")
    for name, seed, lengths in (("train", 0, (90, 110, 60)), ("valid", 1, (70, 80))):
        rows = hourly.make_rows(seed, lengths, missing=0.05)
        pq.write_table(hourly.steps_table(rows), folder / f"{name}.parquet")
    config = write_config(folder / "long.toml", KEYS | ON_SERIES)
    data = Data(f"{folder}/train.parquet", f"{folder}/valid.parquet", layout="long")
    with pytest.raises(DeathError):
        train_bundle(data, folder / "bundle", load_config(config, ()), lambda _: None, dying_callbacks)
    flags = ["--valid", data.valid, "--out", f"{folder}/bundle", "--config", f"{config}", "--layout", "long"]
    done = CliRunner().invoke(cli, ["train", data.train, *flags])
    assert done.exit_code == 0, done.output
    assert "resuming after epoch 1 of 3" in done.output
    return folder


def test_the_bundle_is_that_of_a_training_on_the_windows_cut_by_hand(trained):
    names = ("y", "x", *hourly.CALENDAR)
    for name, stride in (("train", 1), ("valid", HORIZON)):
        rows = pq.read_table(trained / f"{name}.parquet").to_pylist()
        windows = hourly.cut_by_hand(rows, CONTEXT, HORIZON, stride, names, hourly.CALENDAR)
        pq.write_table(windows, trained / f"{name}-windows.parquet")
    keys = KEYS | {"feature_names": names, "future_names": hourly.CALENDAR}
    config = load_config(write_config(trained / "windows.toml", keys), ())
    data = Data(f"{trained}/train-windows.parquet", f"{trained}/valid-windows.parquet")
    other = train_bundle(data, trained / "other", config, lambda _: None, lambda _: []).released.manifest
    ours = open_bundle(trained / "bundle").manifest
    histories = [(trained / f"{name}.work" / "history.csv").read_text() for name in ("bundle", "other")]
    assert histories[0] == histories[1]
    assert (ours.export_id, ours.certified, ours.target) == (other.export_id, other.certified, other.target)
    assert (ours.features, ours.past_observed) == (other.features, True)
    assert (ours.freq, other.freq) == ("h", None)
    assert ours.calendar.model_dump() == {"features": ("hour", "holiday"), "holidays": (hourly.HOLIDAY,)}


def test_a_training_is_not_resumed_on_windows_that_are_cut_otherwise(trained, within, tmp_path):
    (tmp_path / "b.work").symlink_to(trained / "bundle.work")
    data = [trained / "train.parquet", "--valid", trained / "valid.parquet", "--layout", "long"]
    flags = ["--config", trained / "long.toml", "--out", tmp_path / "b"]
    for setting in ("stride=2", "valid_stride=1"):
        done = within(cli, "train", *data, *flags, "--set", setting)
        assert done.code == 2
        assert "a training of another config or other data" in done.err


def test_what_scoring_computes_of_the_time_is_what_training_saw(trained):
    manifest = open_bundle(trained / "bundle").manifest
    _, recipe = settled(load_config(trained / "long.toml", ()), "long")
    seen, scored = (
        join(list(open_series(f"{trained}/train.parquet", told, {}, told.freq, 1).blocks()))
        for told in (recipe, manifest)
    )
    rows = pq.read_table(trained / "train.parquet").to_pylist()
    by_hand = hourly.cut_by_hand(rows, CONTEXT, HORIZON, 1, ("y", "x", *hourly.CALENDAR), hourly.CALENDAR)
    for name in ("past", "future_known"):
        np.testing.assert_array_equal(getattr(scored, name), getattr(seen, name))
    np.testing.assert_array_equal(scored.future_known, np.float32(by_hand["future_known"].to_pylist()))
    assert set(seen.future_known[:, :, 2].ravel()) == {0.0, 1.0}


def score(within, folder, data, out, *flags):
    done = within(runner.cli.cli, "score", folder / "bundle", data, "--out", out, "--layout", "long", "--json", *flags)
    assert done.code == 0, done.err
    return done.json()["total"]


def test_the_bundle_scores_series_without_any_flag_and_to_the_certified_digits(trained, within, tmp_path):
    valid, certified = trained / "valid.parquet", open_bundle(trained / "bundle").manifest.certified.free_running
    assert score(within, trained, valid, tmp_path / "latest")["rows"] == {"read": 2, "scored": 2, "rejected": 0}
    total = score(within, trained, valid, tmp_path / "all", "--window", "rolling", "--stride", HORIZON)
    assert total["masked_mse"] == pytest.approx(certified.masked_mse, rel=1e-5)
    assert total["masked_mse"] < 0.5 * total["naive"]["last"]["masked_mse"]


def test_the_clock_is_read_off_the_data_so_a_shifted_one_spoils_the_forecast(trained, within, tmp_path):
    rows = pq.read_table(trained / "valid.parquet").to_pylist()
    shifted = [row | {"ds": row["ds"] + timedelta(hours=12)} for row in rows]
    pq.write_table(hourly.steps_table(shifted), tmp_path / "shifted.parquet")
    flags = "--window", "rolling", "--stride", HORIZON
    good = score(within, trained, trained / "valid.parquet", tmp_path / "good", *flags)
    spoiled = score(within, trained, tmp_path / "shifted.parquet", tmp_path / "spoiled", *flags)
    assert spoiled["masked_mse"] > 2 * good["masked_mse"]


def test_keys_of_series_need_their_layout_and_columns_need_a_role(trained, within, tmp_path):
    data = [trained / "train.parquet", "--valid", trained / "valid.parquet", "--out", tmp_path / "b"]
    done = within(cli, "train", *data, "--set", "context_length=5")
    assert done.code == 2
    assert "context_length: belongs to --layout long" in done.err
    done = within(cli, "train", *data, "--layout", "long", "--set", "horizon=5")
    assert done.code == 2
    assert "freq: is missing" in done.err
    done = within(cli, "train", *data, "--column", "y=load")
    assert done.code == 2
    assert "y=load" in done.err
    flags = ["--config", trained / "long.toml", "--column", "y=load", "--column", "wind=x"]
    done = within(cli, "train", *data, "--layout", "long", *flags)
    assert done.code == 11
    assert "'load' is missing" in done.err
    assert "--column wind: no such role or feature" in done.err


def test_too_many_bad_series_stop_the_training(trained, within, tmp_path):
    rows = hourly.make_rows(5, (40, *[3] * 5))
    pq.write_table(hourly.steps_table(rows), tmp_path / "short.parquet")
    data = [tmp_path / "short.parquet", "--valid", trained / "valid.parquet", "--out", tmp_path / "b"]
    done = within(cli, "train", *data, "--layout", "long", "--config", trained / "long.toml")
    assert done.code == 11
    assert "5 series_too_short" in done.err


def test_series_that_go_on_in_another_file_are_warned_of(trained, within, tmp_path):
    for name in ("a", "b"):
        pq.write_table(hourly.steps_table(hourly.make_rows(6, (3, 3))), tmp_path / f"{name}.parquet")
    data = [tmp_path, "--valid", trained / "valid.parquet", "--out", tmp_path / "bundle"]
    done = within(cli, "train", *data, "--layout", "long", "--config", trained / "long.toml")
    assert f"2 series of {tmp_path} go on in another file" in done.err


def test_int8_is_certified_on_series_where_the_bundle_knows_its_time_grid(tiny, tmp_path):
    pq.write_table(hourly.steps_table(hourly.make_rows(2, (60, 80))), tmp_path / "valid.parquet")
    known, unknown = (
        tiny.make_bundle(tmp_path / name, fused=True, freq=freq) for name, freq in (("known", "h"), ("unknown", None))
    )
    manifest, form = quantize_bundle(known, f"{tmp_path}/valid.parquet", {}, "long")
    assert manifest.held() == ("fp32", "int8")
    assert form.losses[1].windows == 13 + 18
    with pytest.raises(UsageError, match="knows its time grid"):
        quantize_bundle(unknown, f"{tmp_path}/valid.parquet", {}, "long")


def test_static_features_of_series_are_learned_and_looked_up_by_name(tmp_path):
    rows = hourly.make_rows(5, (60, 50, 40, 45))
    shops, sizes = ("north", "south", "north", "east"), (1.0, 2.0, 3.0, 4.0)
    told = [row | {"shop": shops[int(row["unique_id"][1:])], "size": sizes[int(row["unique_id"][1:])]} for row in rows]
    table = hourly.steps_table(rows).append_column("shop", pa.array([row["shop"] for row in told]))
    table = table.append_column("area", pa.array([row["size"] for row in told]))
    east = pc.equal(table["shop"], "east")
    pq.write_table(table.filter(pc.invert(east)), tmp_path / "train.parquet")
    pq.write_table(table, tmp_path / "all.parquet")
    keys = KEYS | ON_SERIES | {"epochs": 1, "static_names": ["size"], "categories": ["shop"]}
    flags = ["--valid", f"{tmp_path}/train.parquet", "--out", f"{tmp_path}/bundle", "--layout", "long"]
    flags += ["--column", "size=area", "--config", f"{write_config(tmp_path / 'static.toml', keys)}"]
    done = CliRunner().invoke(cli, ["train", f"{tmp_path}/train.parquet", *flags])
    assert done.exit_code == 0, done.output
    static = open_bundle(tmp_path / "bundle").manifest.static
    assert (static.numbers, [(entry.name, entry.values) for entry in static.categories]) == (
        ("size",),
        [("shop", ("north", "south"))],
    )
    words = "score", tmp_path / "bundle", tmp_path / "all.parquet", "--out", tmp_path / "out", "--layout", "long"
    more = "--column", "size=area", "--max-reject-rate", "1", "--window", "rolling", "--stride", str(HORIZON)
    assert CliRunner().invoke(runner.cli.cli, [*map(str, words), *more]).exit_code == 0
    part = pq.read_table(tmp_path / "out" / "all.parquet")
    rejected = part.filter(pc.is_valid(part["reject_reason"]))
    assert set(rejected["reject_reason"].to_pylist()) == {"category_unknown"}
    assert set(rejected["unique_id"].to_pylist()) == {"s3"}


def test_a_static_feature_cannot_have_the_name_of_another_feature():
    config = load_config(None, ("context_length=4", "horizon=2", "freq=h", "categories=y", "static_names=x,x"))
    with pytest.raises(UsageError) as caught:
        settled(config, "long")
    assert "y: is named twice" in str(caught.value)
    assert "x: is named twice" in str(caught.value)
