"""The whole road by the commands alone: demo data, training, certified bundle, scores."""

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

pytest.importorskip("tensorflow", reason="the exporter needs the `export` extra")


def export(*args, check=True):
    command = [sys.executable, "-c", "from export.cli import main; main()", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with train/, valid/, bundle/ and bundle.work/."""
    folder = tmp_path_factory.mktemp("trained")
    export("demo-data", folder, "--train-windows", 400, "--valid-windows", 150, "--seed", 5)
    data = [folder / "train", "--valid", folder / "valid"]
    export("train", *data, "--out", folder / "bundle", "--config", folder / "train.toml",
           "--set", "epochs=1", "--set", "units=[6,4]", "--set", "scaling=window", "--set", "start=last",
           "--set", "precision=fp32,int8")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def scored(trained, freerun):
    for mode in ("free-running", "teacher-forced"):
        done = freerun("score", trained / "bundle", trained / "valid", "--out", trained / mode, "--mode", mode)
        assert done.code == 0, done.err
    return trained


def report(folder):
    return json.loads((folder / "_report.json").read_text())


def test_verify_and_inspect_know_the_bundle(trained, freerun):
    assert freerun("verify", trained / "bundle").code == 0
    manifest = freerun("inspect", trained / "bundle", "--json").json()
    assert manifest["features"] == {"past": ["y", "hour_sin", "hour_cos"], "future_known": ["hour_sin", "hour_cos"]}
    assert [state["step_input"] for state in manifest["states"]] == ["hidden", "cell", "hidden_1", "cell_1"]
    assert [memory["step_input"] for memory in manifest["memory"]] == ["location", "scale"]


@pytest.mark.parametrize("mode", ["free-running", "teacher-forced"])
def test_one_line_of_numpy_gives_the_same_scores(scored, mode):
    table = pq.read_table(scored / mode, partitioning=None)
    target, mask, prediction = (np.array(table[name].to_pylist(), float) for name in ("target", "mask", "prediction"))
    error = ((prediction - target) ** 2)[mask == 0].sum()
    total = report(scored / mode)["total"]
    assert total["masked_mse"] == pytest.approx(error / mask.size, abs=1e-9)
    assert total["observed_mse"] == pytest.approx(error / (mask == 0).sum(), abs=1e-9)


def test_the_certified_losses_are_the_scores_of_the_same_windows(scored):
    certified = json.loads((scored / "bundle" / "manifest.json").read_text())["certified"]
    for mode, key in (("free-running", "free_running"), ("teacher-forced", "teacher_forced")):
        total = report(scored / mode)["total"]
        assert total["masked_mse"] == pytest.approx(certified[key]["masked_mse"], rel=1e-9)
        assert total["rows"]["scored"] == certified["windows"] == 150


@pytest.mark.parametrize(("mode", "key"), [("free-running", "free_running"), ("teacher-forced", "teacher_forced")])
def test_int8_scores_as_it_was_certified_and_as_float32_within_a_percent(scored, tmp_path, freerun, mode, key):
    options = ["--out", tmp_path / "out", "--mode", mode, "--precision", "int8"]
    done = freerun("score", scored / "bundle", scored / "valid", *options, "--json")
    assert done.code == 0, done.err
    found, fp32 = done.json()["total"]["masked_mse"], report(scored / mode)["total"]["masked_mse"]
    certified = json.loads((scored / "bundle" / "manifest.json").read_text())["precisions"]["int8"]["certified"]
    assert found == pytest.approx(certified[key]["masked_mse"], rel=1e-9)
    assert 0 < abs(found - fp32) < 0.01 * fp32
    assert (done.json()["precision"], done.json()["decoding"]["loop"]) == ("int8", "fused")


def test_quantizing_later_makes_the_very_files_that_training_makes(tiny, trained, tmp_path, freerun):
    bundle = shutil.copytree(trained / "bundle", tmp_path / "bundle")
    shutil.rmtree(bundle / "int8")
    tiny.write_manifest(bundle, {**tiny.read_manifest(bundle), "precisions": {}})
    refused = freerun("score", bundle, trained / "valid", "--out", tmp_path / "out", "--precision", "int8")
    assert refused.code == 12
    assert "freerun-export quantize" in refused.err
    export("quantize", bundle, "--valid", trained / "valid")
    names = sorted(path.name for path in (trained / "bundle" / "int8").iterdir())
    assert names == ["certificate.json", "decoder_step.onnx", "encoder.onnx", "fused.onnx", "golden.parquet"]
    for name in names:
        assert (bundle / "int8" / name).read_bytes() == (trained / "bundle/int8" / name).read_bytes(), name
    assert tiny.read_manifest(bundle) == tiny.read_manifest(trained / "bundle")


def test_both_modes_agree_bit_for_bit_at_the_first_step(scored):
    first = [
        np.array(pq.read_table(scored / mode)["prediction"].to_pylist())[:, 0]
        for mode in ("free-running", "teacher-forced")
    ]
    np.testing.assert_array_equal(*first)


def test_pyarrow_pandas_and_duckdb_read_the_same_rows_in_order(scored):
    out = scored / "free-running"
    given = pq.read_table(scored / "valid", columns=["window_id", "optimal"])
    arrow = pq.read_table(out)
    frame = pd.concat([pd.read_parquet(part) for part in sorted(out.glob("*.parquet"))])
    rows = duckdb.sql(f"select window_id, optimal, prediction from '{out}/*.parquet' order by window_id").fetchall()
    ids = given["window_id"].to_pylist()
    assert arrow["window_id"].to_pylist() == frame["window_id"].tolist() == [row[0] for row in rows] == ids
    optimal = given["optimal"].to_pylist()
    assert arrow["optimal"].to_pylist() == [list(row[1]) for row in rows] == optimal
    np.testing.assert_array_equal(np.stack(frame["optimal"]), np.array(optimal, np.float32))
    np.testing.assert_array_equal(np.stack(frame["prediction"]), np.array([row[2] for row in rows], np.float32))


def own_data(folder, level, deviation, rows=200):
    """Write windows as somebody would with pandas: flat float64 lists, one feature, names of their own."""
    rng = np.random.default_rng(1)
    series = level + deviation * rng.normal(size=(rows, 40)).cumsum(axis=1) / 5
    frame = pd.DataFrame({"history": list(series[:, :30]), "load": list(series[:, 30:])})
    folder.mkdir(parents=True)
    frame.to_parquet(folder / "data.parquet", row_group_size=50)


@pytest.mark.parametrize(("scaling", "base"), [("standard", "none"), ("window", "none"), ("window", "linear")])
def test_data_of_a_high_level_trains_certifies_and_scores(tmp_path, freerun, scaling, base):
    for split in ("train", "valid"):
        own_data(tmp_path / split, 101_325, 221)
    names = ["--column", "past=history", "--column", "target=load"]
    data = [tmp_path / "train", "--valid", tmp_path / "valid", "--out", tmp_path / "bundle"]
    settings = ["--set", "epochs=1", "--set", "units=8", "--set", f"scaling={scaling}", "--set", "start=last"]
    export("train", *data, *names, *settings, "--set", f"base={base}")
    done = freerun("score", tmp_path / "bundle", tmp_path / "valid", "--out", tmp_path / "out", *names, "--json")
    assert done.code == 0, done.err
    assert done.json()["warnings"] == ["cast to float32: history"]
    assert (
        freerun("score", tmp_path / "bundle", tmp_path / "valid", "--out", tmp_path / "o2", *names, "--quiet").err == ""
    )


def test_bad_rows_beyond_what_was_agreed_stop_the_training_with_their_reasons(tmp_path):
    own_data(tmp_path / "data", 0, 1)
    frame = pd.read_parquet(tmp_path / "data/data.parquet")
    frame["history"] = [row[:29] if index % 10 == 3 else row for index, row in enumerate(frame["history"])]
    frame.rename(columns={"history": "past", "load": "target"}).to_parquet(tmp_path / "data/data.parquet")
    data = [tmp_path / "data", "--valid", tmp_path / "data", "--out", tmp_path / "bundle", "--set", "epochs=1"]
    done = export("train", *data, check=False)
    assert done.returncode == 11
    assert "past_shape" in done.stderr
    assert "max_reject_rate" in done.stderr
    assert export("train", *data, "--set", "max_reject_rate=0.2", "--set", "units=4").returncode == 0


def test_a_bundle_is_never_written_over(trained):
    done = export("train", trained / "train", "--valid", trained / "valid", "--out", trained / "bundle", check=False)
    assert done.returncode == 2
    assert "exists" in done.stderr


def test_wrong_settings_and_data_are_told_without_a_traceback(trained, tmp_path):
    data = [trained / "train", "--valid", trained / "valid", "--out", tmp_path / "b"]
    cases = [
        ([*data, "--set", "unit=3", "--set", "scaling=big"], 2, ["unit", "scaling"]),
        ([*data, "--set", "strategy=hope"], 2, ["strategy", "hope", "scheduled-sampling", "curriculum"]),
        ([*data, "--set", "target_feature=temperature"], 2, ["target_feature", "temperature"]),
        ([*data, "--set", 'feature_names=["a","b"]'], 2, ["feature_names"]),
        ([tmp_path / "nothing", *data[1:]], 11, ["nothing"]),
    ]
    for args, code, words in cases:
        done = export("train", *args, check=False)
        assert done.returncode == code, done.stderr
        assert all(word in done.stderr for word in words)
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "b").exists()


def test_auto_reports_all_that_it_tried_in_its_log_its_folder_and_the_certificate(trained, tmp_path):
    data = [trained / "train", "--valid", trained / "valid", "--out", tmp_path / "b"]
    settings = ["--set", "epochs=1", "--set", "units=3", "--set", "strategy=auto", "--set", "extra_epochs=1"]
    done = export("train", *data, *settings)
    record = json.loads((tmp_path / "b" / "certificate.json").read_text())["strategy"]
    assert record == json.loads((tmp_path / "b.work" / "trials.json").read_text())
    assert (record["asked"], record["kept"] in {"start", "control"}) == ("auto", True)
    assert f"kept: {record['kept']}" in done.stderr
    for trial in record["trials"]:
        assert f"{trial['strategy']}: free-running masked MSE {trial['best']['free_running']:.5g}" in done.stderr
    assert len(record["trials"]) == 3


def test_the_runner_needs_the_bundle_alone(trained, freerun, tmp_path):
    shutil.copytree(trained / "bundle", tmp_path / "elsewhere")
    done = freerun("score", tmp_path / "elsewhere", trained / "valid", "--out", tmp_path / "out")
    assert done.code == 0, done.err


def test_training_on_a_terminal_draws_its_bar_and_finishes(trained, tmp_path):
    code = "from export.cli import main; main()"
    args = ["train", trained / "train", "--valid", trained / "valid", "--out", tmp_path / "b", "--set", "epochs=1"]
    main, side = pty.openpty()
    command = [sys.executable, "-c", code, *map(str, args), "--set", "units=3"]
    with subprocess.Popen(command, stdin=side, stdout=subprocess.DEVNULL, stderr=side) as running:
        os.close(side)
        seen = b""
        with contextlib.suppress(OSError):  # the terminal is gone once the process is
            while piece := os.read(main, 4096):
                seen += piece
    os.close(main)
    assert running.returncode == 0, seen.decode()
    assert b"epoch 1/1" in seen


def test_an_interrupt_ends_a_training_and_leaves_its_checkpoints(trained, tmp_path):
    words = ["train", trained / "train", "--valid", trained / "valid", "--out", tmp_path / "bundle"]
    words += ["--set", "epochs=200", "--set", "patience=200", "--set", "units=4"]
    command = [sys.executable, "-c", "from export.cli import main; main()", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        for line in running.stderr:
            if line.startswith("epoch 2/"):
                running.send_signal(signal.SIGINT)
                break
        assert "interrupted by SIGINT" in running.stderr.read()
    assert running.returncode == 130
    assert not (tmp_path / "bundle").exists()
    assert len(json.loads((tmp_path / "bundle.work" / "state.json").read_text())["history"]) >= 2
