"""The command line: every way to end has its code, its words on stderr, and nothing but the result on stdout."""

import json

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

import runner.cli
from runner.config import Job
from runner.errors import UsageError


class AskedError(Exception):
    """Carries the job that a command line asked for."""


@pytest.fixture
def asked(monkeypatch):
    """Return what parses a command line in this process and tells which job it asks for; nothing is run."""

    def stop_here(job, _stop, *, show_progress):
        raise AskedError(job, show_progress)

    monkeypatch.setattr("runner.cli._score", stop_here)

    def parse(*args):
        with pytest.raises(AskedError) as caught:
            runner.cli.cli.main(["score", "B", "IN", *args], standalone_mode=False)
        return caught.value.args[0]

    return parse


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_a_good_run_is_0_prints_a_table_and_nothing_on_stderr(command, tiny_bundle, dataset, out):
    done = command("score", tiny_bundle, dataset, "--out", out)
    assert (done.code, done.err) == (0, "")
    for word in ("rows", "241", "masked MSE", "forecast", "last value", "seasonal naive"):
        assert word in done.out


def test_json_is_the_report_and_all_there_is_on_stdout(freerun, tiny_bundle, dataset, out):
    done = freerun("score", tiny_bundle, dataset, "--out", out, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json() == json.loads((out / "_report.json").read_text())


def test_quiet_prints_nothing(command, tiny_bundle, dataset, out):
    done = command("score", tiny_bundle, dataset, "--out", out, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_too_many_rejects_are_10_and_told_on_stderr(command, tiny, tiny_bundle, dataset, out):
    unknown = tiny.nested(np.full((9, 4, 1), np.nan, np.float32))
    pq.write_table(tiny.make_table(9).set_column(3, "future_known", unknown), dataset / "x.parquet")
    done = command("score", tiny_bundle, dataset, "--out", out, "--json")
    assert done.code == done.json()["exit_code"] == 10
    assert "--max-reject-rate" in done.err


@pytest.mark.parametrize(
    ("args", "code", "named"),
    [
        (["score", "{bundle}", "{data}", "--out", "{out}", "--colour", "red"], 2, "--colour"),
        (["score", "{bundle}", "{data}"], 2, "--out"),
        (["score", "{bundle}", "{data}", "--out", "{data}/out"], 2, "lie in one another"),
        (["score", "{bundle}", "{data}", "--out", "{out}", "--device", "tpu"], 2, "tpu"),
        (["score", "{bundle}", "{nowhere}", "--out", "{out}"], 11, "nowhere"),
        (["score", "{nowhere}", "{data}", "--out", "{out}"], 12, "nowhere"),
        (["score", "{bundle}", "{data}", "--out", "{out}", "--expect-bundle-id", "ab"], 12, "another bundle"),
        (["score", "{bundle}", "{data}", "--out", "{out}", "--precision", "int8"], 12, "freerun-export quantize"),
        (["score", "{bundle}", "{data}", "--out", "{out}", "--precision", "int4"], 2, "int4"),
        (["verify", "{nowhere}"], 12, "nowhere"),
        (["inspect", "{data}/a.parquet"], 12, "not a bundle"),
        (["no-such-command"], 2, "no-such-command"),
    ],
    ids=[
        "flag",
        "out",
        "nesting",
        "device",
        "input",
        "bundle",
        "id",
        "precision",
        "no precision",
        "verify",
        "inspect",
        "command",
    ],
)
def test_a_refusal_has_its_code_and_names_the_offender_on_stderr_alone(
    command, tiny_bundle, dataset, out, tmp_path, args, code, named
):
    places = {"bundle": tiny_bundle, "data": dataset, "out": out, "nowhere": tmp_path / "nowhere"}
    done = command(*[arg.format(**places) for arg in args])
    assert done.code == code
    assert done.err.startswith("error: ")
    assert named in done.err
    assert "Traceback" not in done.err
    assert "masked MSE" not in done.out


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)
def test_a_device_that_is_not_there_is_13_and_never_the_cpu(command, tiny_bundle, dataset, out):
    done = command("score", tiny_bundle, dataset, "--out", out, "--device", "cuda", "--json")
    assert done.code == done.json()["exit_code"] == 13
    assert done.json()["device"] == "cuda:0"
    assert "was not granted" in done.err
    assert "Traceback" not in done.err
    assert list(out.rglob("*.parquet")) == []
    assert command("verify", tiny_bundle, "--device", "cuda").code == 13


def test_an_output_that_cannot_be_is_14(command, tiny_bundle, dataset, tmp_path):
    (tmp_path / "file").write_bytes(b"in the way")
    done = command("score", tiny_bundle, dataset, "--out", tmp_path / "file")
    assert done.code == 14
    assert str(tmp_path / "file") in done.err
    assert "Traceback" not in done.err


def test_a_place_that_seems_unreadable_is_no_wrong_usage(command, tiny_bundle, dataset, out, monkeypatch):
    out.mkdir()
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    assert command("score", tiny_bundle, dataset, "--out", out, "--quiet").code == 0


def test_freerun_alone_says_what_is_missing(command):
    done = command()
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: Missing command.\n  remedy: ")


def test_a_variable_that_no_flag_listens_to_is_told_with_the_nearest_that_one_does(command, tiny_bundle, monkeypatch):
    for name in ("FREERUN_MAX_REJECT_RAET", "FREERUN_SERVICE_HOST", "FREERUN_TEST_DATA", "FREERUN_MAX_MEMORY"):
        monkeypatch.setenv(name, "1")
    done = command("inspect", tiny_bundle)
    assert done.code == 0
    assert done.err.splitlines() == [
        "warning: FREERUN_MAX_REJECT_RAET is set, but no flag listens to it; did you mean FREERUN_MAX_REJECT_RATE?",
        "warning: FREERUN_SERVICE_HOST is set, but no flag listens to it",
    ]


@pytest.mark.parametrize(
    "words", [["--timeout", "0"], ["--timeout", "nan"], ["--timeout", "-1"], ["--max-memory", "0"]]
)
def test_a_limit_that_is_none_is_a_usage_error(command, tiny_bundle, dataset, out, words):
    done = command("score", tiny_bundle, dataset, "--out", out, *words)
    assert (done.code, out.exists()) == (2, False)
    assert words[0] in done.err


def test_a_memory_limit_that_nobody_can_watch_is_a_usage_error(command, tiny_bundle, dataset, out, monkeypatch):
    monkeypatch.setattr("runner.cli.resident_megabytes", lambda: 0.0)
    done = command("score", tiny_bundle, dataset, "--out", out, "--max-memory", 500)
    assert (done.code, out.exists()) == (2, False)
    assert "--max-memory cannot be watched here" in done.err


def test_a_held_lock_is_75_and_with_json_the_refusal_parses(command, tiny_bundle, dataset, out):
    out.mkdir()
    with FileLock(out / ".lock"):
        done = command("score", tiny_bundle, dataset, "--out", out, "--json")
    assert done.code == done.json()["exit_code"] == 75
    assert "another run" in done.err
    assert "Traceback" not in done.err
    assert {path.name for path in out.iterdir()} == {".lock"}


def test_verify_replays_the_golden_windows_and_names_the_bundle(command, tiny, tiny_bundle):
    done = command("verify", tiny_bundle)
    assert (done.code, done.err) == (0, "")
    assert tiny.read_manifest(tiny_bundle)["bundle_id"] in done.out
    assert "golden windows on cpu" in done.out


def test_verify_and_inspect_tell_every_precision(command, full_bundle):
    told = command("verify", full_bundle).out
    assert "golden windows on cpu, fp32: " in told
    assert "golden windows on cpu, int8: " in told
    words = command("inspect", full_bundle).out
    assert "fp32, int8" in words
    for name in ("encoder.onnx", "fused.onnx", "int8/encoder.onnx", "int8/fused.onnx"):
        assert f"{name} operators" in words


def test_inspect_prints_the_manifest_and_runs_nothing(command, tiny, tiny_bundle):
    done = command("inspect", tiny_bundle, "--json")
    assert (done.code, done.json()) == (0, tiny.read_manifest(tiny_bundle))
    told = command("inspect", tiny_bundle)
    for word in ("tiny", done.json()["bundle_id"], "6, 4", "y, x (with past_observed)", "LSTM 1"):
        assert word in told.out


def test_a_column_of_another_name_is_scored_the_same(command, tiny_bundle, dataset, tmp_path):
    plain = command("score", tiny_bundle, dataset, "--out", tmp_path / "plain", "--json").json()
    for path in dataset.rglob("*.parquet"):
        table = pq.ParquetFile(path).read()
        pq.write_table(table.rename_columns(["id", "p", "o", "future_known", "load", "mask", "note"]), path)
    columns = [word for pair in ("past=p", "past_observed=o", "target=load") for word in ("--column", pair)]
    named = command("score", tiny_bundle, dataset, "--out", tmp_path / "named", *columns, "--json")
    assert named.code == 0, named.err
    assert named.json()["total"] == plain["total"]
    assert named.json()["options"]["columns"] == {"past": "p", "past_observed": "o", "target": "load"}


def test_defaults_are_those_of_the_job(asked):
    defaults, job = Job("B", "IN", "O"), asked("--out", "O", "--workers", "3")
    assert job.options() == {**defaults.options(), "workers": 3}


def test_every_flag_reaches_the_job(asked):
    flags = {
        "mode": "teacher-forced", "device": "cuda:1", "precision": "int8", "workers": 3, "batch_size": 7,
        "max_reject_rate": 0.5,
        "max_masked_mse": 2.5, "rescore": "none", "orphans": "prune", "rows_per_part": 10, "expect_bundle_id": "ab",
        "timeout": 2.5, "max_memory": 700, "fallback": "last", "layout": "long", "window": "rolling", "stride": 3,
        "freq": "h", "output_layout": "windows",
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in ("--" + name.replace("_", "-"), str(value))]
    job = asked(
        "--out", "O", *words, "--column", "mask=m", "--only", "date=1", "--recheck", "--allow-empty", "--dry-run",
        "--from", "2026-01-01", "--to", "2026-01-02", "--sort",
    )  # fmt: skip
    expected = {
        **flags,
        "columns": {"mask": "m"},
        "only": ["date=1"],
        "recheck": True,
        "allow_empty": True,
        "dry_run": True,
        "origin_from": "2026-01-01",
        "origin_to": "2026-01-02",
        "sort": True,
    }
    assert job.options() == expected
    assert (str(job.bundle), job.input, str(job.out)) == ("B", "IN", "O")


def test_the_environment_sets_what_flags_leave_open_and_flags_win(asked, monkeypatch):
    monkeypatch.setenv("FREERUN_OUT", "from-environment")
    monkeypatch.setenv("FREERUN_BATCH_SIZE", "7")
    monkeypatch.setenv("FREERUN_MAX_REJECT_RATE", "0.25")
    monkeypatch.setenv("FREERUN_COLUMN", "target=load mask=m")
    monkeypatch.setenv("FREERUN_RECHECK", "1")
    monkeypatch.setenv("FREERUN_TIMEOUT", "5.5")
    job = asked("--batch-size", "9")
    assert (str(job.out), job.batch_size, job.max_reject_rate, job.recheck) == ("from-environment", 9, 0.25, True)
    assert job.columns == {"target": "load", "mask": "m"}
    assert job.timeout == 5.5


@pytest.mark.parametrize("pair", ["target", "target=", "=load", "goal=load"])
def test_a_column_that_is_no_role_and_name_is_a_usage_error_that_lists_the_roles(pair, capsys):
    with pytest.raises(Exception, match="ROLE=NAME") as caught:
        runner.cli.cli.main(["score", "B", "IN", "--out", "O", "--column", pair], standalone_mode=False)
    assert caught.value.exit_code == 2
    assert "past_observed" in caught.value.format_message()
    assert capsys.readouterr().out == ""


def test_a_job_file_sets_defaults_below_environment_and_flags(asked, monkeypatch, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text('out = "O"\nworkers = 2\nbatch_size = 5\nmax_reject_rate = 0.5\n[column]\ntarget = "load"\n')
    monkeypatch.setenv("FREERUN_BATCH_SIZE", "6")
    found = asked("--config", str(job), "--max-reject-rate", "0.1")
    assert (str(found.out), found.workers, found.batch_size, found.max_reject_rate) == ("O", 2, 6, 0.1)
    assert found.columns == {"target": "load"}


@pytest.mark.parametrize(
    "line", ["json = true", "quiet = true", "dry_run = true", 'rescore = "none"', "timeout = 5", "max_memory = 9"]
)
def test_a_job_file_knows_every_flag_by_its_name(asked, tmp_path, line):
    (tmp_path / "job.toml").write_text(f'out = "O"\n{line}\n')
    assert str(asked("--config", str(tmp_path / "job.toml")).out) == "O"


@pytest.mark.parametrize(
    ("text", "named"),
    [("batch_sice = 7\nmood = 1\n", "mood"), ("batch_size = \n", "job.toml"), (None, "cannot read the job file")],
)
def test_a_job_file_that_cannot_be_followed_is_a_usage_error(tmp_path, text, named):
    path = tmp_path / "job.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=named) as caught:
        runner.cli.cli.main(["score", "B", "IN", "--out", "O", "--config", str(path)], standalone_mode=False)
    assert "batch_sice" in str(caught.value) or named != "mood"


@pytest.mark.parametrize(
    "line", ["out = 3", "workers = [1]", "column = 3", "batch_size = 1.5", 'dry_run = "maybe"', "mode = 3"]
)
def test_a_job_file_with_a_value_of_the_wrong_type_is_a_usage_error(command, tiny_bundle, dataset, tmp_path, line):
    (tmp_path / "job.toml").write_text(line)
    out = () if line.startswith("out") else ("--out", tmp_path / "out")
    done = command("score", tiny_bundle, dataset, *out, "--config", tmp_path / "job.toml")
    assert done.code == 2
    assert line.split()[0] in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("flag", ["--max-reject-rate", "--max-masked-mse"])
def test_a_gate_that_is_not_a_number_is_a_usage_error_and_no_open_door(command, tiny_bundle, dataset, tmp_path, flag):
    done = command("score", tiny_bundle, dataset, "--out", tmp_path / "out", flag, "nan")
    assert done.code == 2
    assert flag in done.err
