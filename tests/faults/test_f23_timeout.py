"""F23: --timeout ends a run that hangs as SIGTERM would: at a slow disk, in an endless graph."""

import json
import subprocess
import sys
import time

import pytest

from campaigns import signals
from campaigns.signals import LATEST_SECONDS

SECONDS = 2.5
SLOW_DISK = "import os, time\nos.fsync = lambda _: time.sleep(60)\n"
MAIN = "from runner.cli import main\nmain()\n"


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    return signals.make_light(tmp_path_factory.mktemp("light"))


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """Return a bundle whose encoder is busy for a quarter of a minute in a single node, which no request ends."""
    made_by, folder = signals.hand_made(C=1024, U=1024), tmp_path_factory.mktemp("endless")
    made_by.make_bundle(folder / "bundle", tolerances={"parity": 1e-5, "golden": 1000.0})
    made_by.write_dataset(folder / "in", {"a.parquet": 3})
    return folder


def timed(code, *words):
    """Run a command with --timeout; return how it ended and how many seconds too late."""
    started = time.monotonic()
    command = [sys.executable, "-c", code + MAIN, *map(str, words), "--timeout", str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    late = time.monotonic() - started - SECONDS
    print(f"{late:.2f} s after the time was up")
    return done, late


def ended_as_by_sigterm(done, late):
    assert done.returncode == 143, done.stderr
    assert "interrupted by --timeout after 2.5 s" in done.stderr
    assert "Traceback" not in done.stderr
    assert late < LATEST_SECONDS


def test_f23_a_disk_that_hangs(light, tmp_path):
    done, late = timed(SLOW_DISK, "score", light.folder / "bundle", light.folder / "in", "--out", tmp_path / "out")
    ended_as_by_sigterm(done, late)
    assert light.finish(tmp_path / "out") is None


def test_f23_a_graph_that_takes_for_ever(endless, tmp_path):
    words = ["score", endless / "bundle", endless / "in", "--out", tmp_path / "out", "--batch-size", 64]
    done, late = timed("", *words)
    ended_as_by_sigterm(done, late)
    report = json.loads((tmp_path / "out" / "_report.json").read_text())
    assert (report["status"], report["exit_code"], report["this_run"]["parts"]) == ("interrupted", 143, 0)
    assert "--timeout" in report["error"]
    assert report["options"]["timeout"] == SECONDS


def test_f23_a_run_that_is_done_in_time_is_not_touched_and_the_limit_changes_no_byte(light, tmp_path):
    words = ["score", light.folder / "bundle", light.folder / "in", "--out", tmp_path / "out", "--timeout", 600]
    done = subprocess.run([sys.executable, "-c", MAIN, *map(str, words)], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert light.parts(tmp_path / "out") == light.parts(light.folder / "whole")
