"""Every sync, rename and removal of a run is broken once; the same command then makes what an undisturbed run makes."""

import contextlib
import errno
import os
from pathlib import Path

import pytest

from runner.report import Report


class DeathError(BaseException):
    """A stand-in for SIGKILL: nothing in the product catches it."""


@pytest.fixture
def pair(tiny, tmp_path):
    """Return two small files, for tests that try every step there is."""
    return tiny.write_dataset(tmp_path / "pair", {"a.parquet": 20, "date=2026-11-23/d.parquet": 11})


def left(files):
    return {name: content for name, content in files.items() if name != "_report.json"}


def break_call(monkeypatch, number, error):
    """Let the n-th sync, rename or removal of the run raise this error; return the calls that were made."""
    made = []

    def breaking(run):
        def call(*args, **settings):
            made.append(args)
            if len(made) == number:
                raise error
            return run(*args, **settings)

        return call

    monkeypatch.setattr("os.fsync", breaking(os.fsync))
    monkeypatch.setattr(Path, "rename", breaking(Path.rename))
    monkeypatch.setattr(Path, "unlink", breaking(Path.unlink))
    return made


def every_call(monkeypatch, run, error):
    """Call `run` again and again, each time with the next call broken, until none is left to break."""
    number = 0
    while True:
        number += 1
        with monkeypatch.context() as patched:
            made = break_call(patched, number, error)
            ended = run(number)
        if len(made) < number:
            return
        yield number, ended


def clone(folder, target):
    for path in folder.rglob("*"):
        if path.is_file():
            (target / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target / path.relative_to(folder))


@pytest.mark.parametrize("before", [False, True], ids=["new folder", "second night"])
def test_a_run_that_died_at_any_step_of_a_commit_is_finished_by_the_same_command(
    tiny, tiny_bundle, pair, tmp_path, score, contents, findings, monkeypatch, before
):
    if before:
        score(tiny_bundle, pair, tmp_path / "first")
        tiny.write_dataset(pair, {"new.parquet": 9})

    def run(number):
        out = tmp_path / f"died-{number}"
        if before:
            clone(tmp_path / "first", out)
        with contextlib.suppress(DeathError):
            return score(tiny_bundle, pair, out)

    whole = findings(run(0))
    expected = left(contents(tmp_path / "died-0"))
    steps = 0
    for number, _ in every_call(monkeypatch, run, DeathError()):
        out, steps = tmp_path / f"died-{number}", number
        settled = left(contents(out)) == expected
        if settled:  # nothing is left to do: what is told already has to be the whole truth
            assert findings(Report.model_validate_json((out / "_report.json").read_bytes())) == whole, number
        report = score(tiny_bundle, pair, out)
        assert left(contents(out)) == expected, number
        assert settled or findings(report) == whole, number
    assert steps > 15


def test_a_disk_that_is_full_at_any_step_ends_with_14_and_the_same_command_finishes(
    tiny_bundle, pair, tmp_path, score, contents, parts, findings, monkeypatch
):
    def run(step):
        return score(tiny_bundle, pair, tmp_path / f"full-{step}")

    whole = findings(run(0))
    expected = left(contents(tmp_path / "full-0"))
    refused = 0
    for step, ended in every_call(monkeypatch, run, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
        out = tmp_path / f"full-{step}"
        if ended.exit_code != 0:  # a temporary file that cannot be removed is tried again later
            refused += 1
            assert (ended.status, ended.exit_code) == ("failed", 14), step
            assert os.strerror(errno.ENOSPC) in ended.error
            assert str(out) in ended.error
        complete = len(parts(out)) == 2
        assert complete or not (out / "_SUCCESS").exists(), step
        assert all(content == expected[name] for name, content in parts(out).items()), step
        settled = left(contents(out)) == expected
        report = run(step)
        assert left(contents(out)) == expected, step
        assert settled or findings(report) == whole, step
    assert refused > 15
