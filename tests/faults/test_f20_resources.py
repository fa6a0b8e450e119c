"""F20: memory, threads or file descriptors run out: a clear end with 14, nothing lost, and the same command resumes."""

import errno
import json
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from campaigns import limits, signals
from campaigns.limits import MEBIBYTE, Limit
from runner.config import Job
from runner.errors import BundleError, DeviceError, InputError, OutputError, ResourcesError, told
from runner.run import run_job
from runner.stop import Stop

SEED = random.SystemRandom().randrange(1 << 32)
GROWING = """
import runner.forecaster as f
decode, kept = f.decode, []
def growing(*arguments, **settings):
    kept.append(b"x" * 30_000_000)
    return decode(*arguments, **settings)
f.decode = growing
from runner.cli import main
main()
"""
"""A run whose every batch leaves 30 MB behind."""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return signals.make_light(tmp_path_factory.mktemp("light"))


def sweep(task, tmp_path, kind, values):
    def broken(value):
        return value, Limit(kind, value).broken(task, tmp_path / str(value))

    with ThreadPoolExecutor(2) as pool:
        assert {value: why for value, why in pool.map(broken, values) if why} == {}


@pytest.mark.skipif(
    not limits.threads_can_be_denied(), reason="takes root and setpriv: root alone may be somebody else"
)
def test_f20_threads_that_do_not_start_end_the_run_in_words(task, tmp_path):
    sweep(task, tmp_path, "threads", [1, 2, 3, 4, 7, 11, 12])


def test_f20_file_descriptors_that_are_not_there_end_the_run_in_words(task, tmp_path):
    sweep(task, tmp_path, "file descriptors", [5, 6, 8, 9])


def test_f20_address_space_that_is_not_there_ends_the_run_in_words_or_loses_nothing(task, tmp_path):
    sweep(task, tmp_path, "address space", [size * MEBIBYTE for size in (66, 204, 250, 457, 595, 900)])


def test_f20_any_limit_ends_the_run_in_words(tmp_path):
    found = limits.run(4, SEED, tmp_path)
    print(f"seed {SEED}")
    assert found.failures == ()
    assert found.survived == found.tried == 4


def test_f20_a_run_that_outgrows_its_memory_ends_with_14_and_keeps_what_it_has(task, tmp_path):
    out = tmp_path / "out"
    words = ["score", task.folder / "bundle", task.folder / "in", "--out", out, "--batch-size", 16, "--json"]
    command = [sys.executable, "-c", GROWING, *words, "--max-memory", 500]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 14, done.stderr
    for line in ("the run took more than --max-memory", "got: ", "expected: at most 500 MB", "fewer --workers"):
        assert line in done.stderr
    report = json.loads((out / "_report.json").read_text())
    assert report == json.loads(done.stdout)
    assert (report["status"], report["exit_code"], report["options"]["max_memory"]) == ("failed", 14, 500)
    assert report["this_run"]["parts"] == len(task.parts(out)) < len(signals.ROWS)
    assert task.finish(out) is None


def test_f20_a_run_within_its_memory_is_left_alone(freerun, task, tmp_path):
    words = ["score", task.folder / "bundle", task.folder / "in", "--out", tmp_path / "out", "--quiet"]
    done = freerun(*words, "--max-memory", 1500)
    assert (done.code, done.err) == (0, "")
    assert task.parts(tmp_path / "out") == task.parts(task.folder / "whole")


def job(task, out):
    return Job(task.folder / "bundle", str(task.folder / "in"), out, batch_size=16, workers=2)


def attempt(task, out):
    """Run the job in a thread, so that a hang is seen; return its report or its error."""
    outcome = []

    def work():
        try:
            outcome.append(run_job(job(task, out), Stop(), lambda *_: None))
        except Exception as error:  # noqa: BLE001  (whatever it is, it is looked at)
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it hangs"
    return outcome[0]


FAULTS = {
    "memory": MemoryError(),
    "threads": RuntimeError("can't start new thread"),
    "file descriptors": OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
}
PLACES = (
    "runner.execution.make_plan",
    "runner.forecaster.open_session",
    "runner.pipeline.read_ahead",
    "runner.feed.validate",
    "runner.batches.join",
    "runner.pipeline.score_block",
    "runner.pipeline.open_part",
    "runner.writer.PartWriter.finish",
    "runner.execution.remember",
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("lack", FAULTS)
def test_f20_whatever_runs_out_wherever_is_told_and_the_same_command_finishes(task, tmp_path, monkeypatch, place, lack):
    def fail(*_, **__):
        raise FAULTS[lack]

    with monkeypatch.context() as patched:
        patched.setattr(place, fail)
        report = attempt(task, tmp_path / "out")
    assert (report.status, report.exit_code) == ("failed", 14)
    assert f"{lack} ran out" in report.error
    assert json.loads((tmp_path / "out" / "_report.json").read_text())["exit_code"] == 14
    assert task.finish(tmp_path / "out") is None


def test_f20_memory_that_runs_out_at_any_call_of_ours_hangs_nothing_and_loses_nothing(task, tmp_path):
    print(f"seed {SEED}")
    draw, calls = random.Random(SEED), count_calls(task, tmp_path / "counted")
    for number in (draw.randrange(calls) for _ in range(12)):
        out = tmp_path / str(number)
        with memory_ends_at(number):
            ended = attempt(task, out)
        refusal = told(ended) if isinstance(ended, Exception) else None
        code = refusal.exit_code if refusal else getattr(ended, "exit_code", 1)
        assert code in {0, 11, 12, 14}, (number, ended)
        assert task.finish(out) is None, number


class memory_ends_at:  # noqa: N801  (it is used as a function)
    """Let the n-th call of a function of the runner, in whatever thread, raise MemoryError."""

    def __init__(self, number):
        self.left = number

    def __enter__(self):
        threading.settrace(self.trace)
        return self

    def __exit__(self, *_):
        threading.settrace(None)

    def trace(self, frame, _event, _argument):
        if "/runner/" in frame.f_code.co_filename and "/tests/" not in frame.f_code.co_filename:
            self.left -= 1
            if self.left == -1:
                raise MemoryError


def count_calls(task, out):
    with memory_ends_at(1 << 60) as counting:
        attempt(task, out)
    return (1 << 60) - counting.left


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 14),
        (RuntimeError("can't start new thread"), 14),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), 14),
        (ImportError("libarrow.so: failed to map segment from shared object"), 14),
        (InputError("a.parquet is not a readable Parquet file\n  got: Too many open files"), 14),
        (OutputError("cannot write a.parquet\n  got: Too many open files"), 14),
        (InputError("a.parquet is not a readable Parquet file\n  got: malloc of size 40640 failed"), 14),
        (InputError("a.parquet is damaged\n  got: malloc of size 9223372036854775744 failed"), 11),
        (InputError("a.parquet is damaged\n  got: Cannot allocate memory"), 11),
        (ResourcesError("memory ran out"), 14),
    ],
    ids=str,
)
def test_f20_what_ran_out_is_told_from_damage_that_asks_for_too_much(error, code):
    assert told(error).exit_code == code


@pytest.mark.parametrize(
    ("error", "cause", "code"),
    [
        (InputError("a.parquet is damaged"), MemoryError(), 11),
        (InputError("a.parquet is damaged"), OSError(errno.EMFILE, "Too many open files"), 14),
        (BundleError("the graphs do not run"), ResourcesError("memory ran out"), 14),
        (BundleError("the graphs do not run"), DeviceError("lost"), 13),
    ],
    ids=str,
)
def test_f20_what_a_stage_took_for_its_own_fault_is_told_by_its_cause(error, cause, code):
    error.__cause__ = cause
    assert told(error).exit_code == code


def test_f20_a_bug_stays_a_bug():
    assert told(ValueError("a bug")) is None
    assert told(KeyError("memory")) is None
