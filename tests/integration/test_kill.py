"""SIGKILL at any moment: what is committed is whole, and the same command makes the rest as if nothing had been."""

import json
import random
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

SEED = random.SystemRandom().randrange(1 << 32)
TIMES = ("run_id", "started_at", "finished_at", "seconds", "windows_per_second", "already_done", "decoding", "out")


def score(bundle, dataset, out):
    command = ["score", bundle, dataset, "--out", out, "--batch-size", 16, "--quiet"]
    return [sys.executable, "-c", "from runner.cli import main; main()", *map(str, command)]


def parts(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def report(out):
    content = json.loads((out / "_report.json").read_text())
    return {key: value for key, value in content.items() if key not in TIMES}


@pytest.fixture(scope="module")
def many(tiny, tmp_path_factory):
    """Return forty files, with what an undisturbed run makes of them."""
    folder = tmp_path_factory.mktemp("many")
    tiny.write_dataset(folder / "in", {f"day={n % 3}/f{n:02d}.parquet": 300 + n for n in range(40)})
    bundle = tiny.make_bundle(folder / "bundle")
    subprocess.run(score(bundle, folder / "in", folder / "whole"), check=True, timeout=120)
    return folder


def killed_after(many, out, parts_wanted, delay):
    """Start a run, kill it once so many parts are there and a moment has passed; return how many it left."""
    running = subprocess.Popen(score(many / "bundle", many / "in", out))
    while running.poll() is None and len(list(out.rglob("*.parquet"))) < parts_wanted:
        time.sleep(0.002)
    time.sleep(delay)
    running.send_signal(signal.SIGKILL)
    running.wait()
    return len(list(out.rglob("*.parquet")))


def test_a_killed_run_is_finished_by_the_same_command_and_nothing_tells_it_apart(many, tmp_path):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    expected, undisturbed = parts(many / "whole"), report(many / "whole")
    interrupted = 0
    for attempt in range(4):
        out = tmp_path / str(attempt)
        left = killed_after(many, out, rng.randrange(0, 38), rng.uniform(0, 0.02))
        interrupted += left < len(expected)
        for path in out.rglob("*.parquet"):
            pq.read_table(path, partitioning=None)
        assert not (left < len(expected) and (out / "_SUCCESS").exists())
        subprocess.run(score(many / "bundle", many / "in", out), check=True, timeout=120)
        assert parts(out) == expected
        assert report(out) == undisturbed
        assert (out / "_SUCCESS").exists()
        leftovers = [path.name for path in out.rglob("*freerun-tmp")]
        assert leftovers == []
    assert interrupted >= 2


def test_a_run_killed_again_and_again_still_gets_there(many, tmp_path):
    out = tmp_path / "out"
    for wanted in (5, 12, 25):
        killed_after(many, out, wanted, 0)
    subprocess.run(score(many / "bundle", many / "in", out), check=True, timeout=120)
    assert parts(out) == parts(many / "whole")
    assert report(out) == report(many / "whole")


def test_a_run_told_to_terminate_says_so_and_leaves_only_whole_parts(many, tmp_path):
    out = tmp_path / "out"
    running = subprocess.Popen(score(many / "bundle", many / "in", out), stderr=subprocess.PIPE, text=True)
    while running.poll() is None and not list(out.rglob("*.parquet")):
        time.sleep(0.002)
    running.send_signal(signal.SIGTERM)
    _, messages = running.communicate(timeout=20)
    assert running.returncode == 143, messages
    assert "Traceback" not in messages
    told = json.loads((out / "_report.json").read_text())
    assert (told["status"], told["exit_code"]) == ("interrupted", 143)
    assert set(parts(out)) < set(parts(many / "whole"))
    subprocess.run(score(many / "bundle", many / "in", out), check=True, timeout=120)
    assert parts(out) == parts(many / "whole")
