"""F21: a GPU that is missing, busy or lost ends the run with 13; no row is ever scored on the CPU unasked."""

import json
import os
from pathlib import Path

import onnxruntime
import pyarrow.parquet as pq
import pytest

FAKE = Path(__file__).parent / "fake_onnxruntime"
ROWS = {"a.parquet": 40, "b.parquet": 40, "c.parquet": 40}


@pytest.fixture(scope="module")
def job(tiny, tmp_path_factory):
    """Return the words that every run here begins with, and a folder for what it makes."""
    folder = tmp_path_factory.mktemp("device")
    return tiny.make_bundle(folder / "bundle"), tiny.write_dataset(folder / "in", ROWS)


def with_cuda(freerun, fault, *words):
    """Run a command where onnxruntime seems to have CUDA, with this fault."""
    path = os.pathsep.join([str(FAKE), os.environ.get("PYTHONPATH", "")])
    return freerun(*words, "--device", "cuda", env={"FAKE_CUDA": fault, "PYTHONPATH": path})


def devices(out):
    return {json.loads(pq.read_metadata(path).metadata[b"freerun"])["device"] for path in out.rglob("*.parquet")}


def refused_before_the_first_row(done, out):
    assert done.code == done.json()["exit_code"] == 13, done.err
    assert "Traceback" not in done.err
    assert "remedy: " in done.err
    assert json.loads((out / "_report.json").read_text())["device"] == "cuda:0"
    assert {path.name for path in out.iterdir()} == {".lock", "_report.json"}


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)
def test_f21_a_build_without_cuda_is_refused(freerun, job, tmp_path):
    done = freerun("score", *job, "--out", tmp_path / "out", "--device", "cuda", "--json")
    refused_before_the_first_row(done, tmp_path / "out")


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("silent", "got: CPUExecutionProvider"),
        ("busy", "busy or unavailable"),
        ("preload", "libcudnn"),
        ("astray", "Squeeze 'squeeze' on CPUExecutionProvider"),
        ("unrecorded", "no record of any node"),
        ("old", "no_such_attribute"),
        ("lost:0", "CUDA failure 719"),
    ],
)
def test_f21_a_device_that_is_not_wholly_granted_is_refused_before_the_first_row(freerun, job, tmp_path, fault, named):
    done = with_cuda(freerun, fault, "score", *job, "--out", tmp_path / "out", "--json")
    refused_before_the_first_row(done, tmp_path / "out")
    assert named in done.err


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_f21_every_command_that_runs_graphs_refuses(freerun, job, command):
    done = with_cuda(freerun, "busy", command, job[0])
    assert (done.code, done.out) == (13, "")
    assert "Traceback" not in done.err


def test_f21_a_device_lost_in_the_middle_ends_the_run_and_what_is_there_was_made_on_it(freerun, job, tmp_path):
    words = ["score", *job, "--batch-size", 16, "--workers", 1, "--rows-per-part", 40, "--json", "--out"]
    whole = with_cuda(freerun, "none", *words, tmp_path / "whole")
    assert whole.code == 0, whole.err
    lost = with_cuda(freerun, "lost:40", *words, tmp_path / "out")
    assert lost.code == lost.json()["exit_code"] == 13, lost.err
    assert "719" in lost.json()["error"]
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert lost.json()["to_do"] > 0
    assert devices(tmp_path / "out") <= {"cuda:0"}
    again = with_cuda(freerun, "none", *words, tmp_path / "out")
    assert again.code == 0, again.err
    assert devices(tmp_path / "out") == {"cuda:0"}
    for path in (tmp_path / "whole").rglob("*.parquet"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_f21_every_part_says_that_it_was_made_on_the_cpu(freerun, job, tmp_path):
    assert freerun("score", *job, "--out", tmp_path / "out", "--quiet").code == 0
    assert len(list((tmp_path / "out").rglob("*.parquet"))) == len(ROWS)
    assert devices(tmp_path / "out") == {"cpu"}
