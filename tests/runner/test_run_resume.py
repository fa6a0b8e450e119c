"""Wherever a run failed or died, the same command finishes it, and what there is then equals an undisturbed run's."""

import itertools
import json
import signal

import pytest

from runner.pipeline import Pipeline
from runner.stop import Stop

ROWS = {"a.parquet": 130, "b.parquet": 70, "c.parquet": 20, "date=2026-11-23/d.parquet": 41}
OPTIONS = {"rows_per_part": 60, "max_reject_rate": 0.0}
PARTS = 7


class DeathError(BaseException):
    """A stand-in for SIGKILL: nothing in the product catches it."""


@pytest.fixture
def source(tiny, tmp_path):
    return tiny.write_dataset(tmp_path / "in", ROWS)


@pytest.fixture
def undisturbed(tiny_bundle, source, tmp_path, score, contents, findings):
    """Return what an undisturbed run leaves: its data, marker and ledger, and what it reports."""
    report = score(tiny_bundle, source, tmp_path / "undisturbed", **OPTIONS)
    assert report.total.parts == PARTS
    return left(contents(tmp_path / "undisturbed")), findings(report)


def left(files):
    return {name: content for name, content in files.items() if name != "_report.json"}


def failing_after(monkeypatch, count, error, step="_commit"):
    """Let the run end with this error when `count` units are done, at this step of the next one."""
    take, calls = getattr(Pipeline, step), itertools.count()

    def limited(self, *arguments):
        if next(calls) >= count:
            raise error
        return take(self, *arguments)

    monkeypatch.setattr(Pipeline, step, limited)


@pytest.mark.parametrize("step", ["_finish", "_commit"])
@pytest.mark.parametrize("count", range(PARTS))
def test_a_run_that_died_after_any_part_is_finished_by_the_same_command(
    tiny_bundle, source, tmp_path, score, contents, parts, findings, undisturbed, monkeypatch, count, step
):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        failing_after(patched, count, DeathError(), step)
        with pytest.raises(DeathError):
            score(tiny_bundle, source, out, **OPTIONS)
    assert len(parts(out)) == count
    assert not (out / "_SUCCESS").exists()
    report = score(tiny_bundle, source, out, **OPTIONS)
    assert report.already_done == count
    assert (left(contents(out)), findings(report)) == undisturbed


@pytest.mark.parametrize("step", ["_finish", "_commit"])
def test_a_run_that_a_bug_ended_says_so_in_its_report_and_is_finished_by_the_same_command(
    tiny_bundle, source, tmp_path, score, contents, findings, undisturbed, monkeypatch, step
):
    out, error = tmp_path / "out", RuntimeError("a bug")
    with monkeypatch.context() as patched:
        failing_after(patched, 3, error, step)
        with pytest.raises(RuntimeError):
            score(tiny_bundle, source, out, **OPTIONS)
    told = json.loads((out / "_report.json").read_text())
    assert (told["status"], told["exit_code"], told["error"], told["to_do"]) == ("failed", 1, str(error), PARTS - 3)
    assert told["this_run"]["parts"] == 3
    report = score(tiny_bundle, source, out, **OPTIONS)
    assert (left(contents(out)), findings(report)) == undisturbed


def test_a_run_that_ended_again_and_again_still_reports_the_whole(
    tiny_bundle, source, tmp_path, score, contents, findings, undisturbed, monkeypatch
):
    for _ in range(3):
        with monkeypatch.context() as patched:
            failing_after(patched, 2, DeathError())
            with pytest.raises(DeathError):
                score(tiny_bundle, source, tmp_path / "out", **OPTIONS)
    report = score(tiny_bundle, source, tmp_path / "out", **OPTIONS)
    assert (report.already_done, report.this_run.parts) == (6, PARTS)
    assert (left(contents(tmp_path / "out")), findings(report)) == undisturbed


def test_a_stop_between_two_parts_is_reported_as_interrupted_and_resumed(
    tiny_bundle, source, tmp_path, score, contents, parts, findings, undisturbed, monkeypatch
):
    out, stop, finish, calls = tmp_path / "out", Stop(), Pipeline._finish, itertools.count()

    def interrupted(self, *arguments):
        if next(calls) == 3:
            stop.request(signal.SIGINT)
        return finish(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Pipeline, "_finish", interrupted)
        report = score(tiny_bundle, source, out, stop=stop, **OPTIONS)
    assert (report.status, report.exit_code, report.this_run.parts, report.to_do) == ("interrupted", 130, 3, 4)
    assert json.loads((out / "_report.json").read_text())["status"] == "interrupted"
    assert len(parts(out)) == 3
    assert not (out / "_SUCCESS").exists()
    again = score(tiny_bundle, source, out, **OPTIONS)
    assert (left(contents(out)), findings(again)) == undisturbed


def test_a_stop_before_the_first_row_makes_no_part(tiny_bundle, source, tmp_path, score, parts):
    stop = Stop()
    stop.request(signal.SIGTERM)
    report = score(tiny_bundle, source, tmp_path / "out", stop=stop)
    assert (report.status, report.exit_code) == ("interrupted", 143)
    assert parts(tmp_path / "out") == {}


def test_replacing_history_is_resumed_too(tiny, tiny_bundle, source, tmp_path, score, contents, findings, monkeypatch):
    other, out = tiny.make_bundle(tmp_path / "other", seed=1), tmp_path / "out"
    again = {**OPTIONS, "rescore": "all"}
    whole = findings(score(other, source, tmp_path / "fresh", **again))
    score(tiny_bundle, source, out)
    with monkeypatch.context() as patched:
        failing_after(patched, 3, DeathError())
        with pytest.raises(DeathError):
            score(other, source, out, **again)
    assert findings(score(other, source, out, **again)) == whole
    assert left(contents(out)) == left(contents(tmp_path / "fresh"))


def test_gates_look_at_what_a_dead_run_had_scored_too(tiny_bundle, source, tmp_path, score, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        failing_after(patched, PARTS - 1, DeathError())
        with pytest.raises(DeathError):
            score(tiny_bundle, source, out, **OPTIONS)
    report = score(tiny_bundle, source, out, **OPTIONS, max_masked_mse=0)
    assert (report.exit_code, report.already_done, report.this_run.parts) == (15, PARTS - 1, PARTS)


@pytest.mark.parametrize(
    "junk",
    [b"", b"{", b"[1]", b'{"parts": 3}', b"\xff", b'{"parts": [["a"]]}', b"[" * 100_000],
    ids=["empty", "cut", "list", "number", "binary", "lists", "nested"],
)
def test_a_corrupt_note_of_a_dead_run_stops_nothing(tiny_bundle, source, tmp_path, score, junk):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_unfinished.json").write_bytes(junk)
    report = score(tiny_bundle, source, tmp_path / "out")
    assert (report.exit_code, report.this_run.parts) == (0, 4)
    assert not (tmp_path / "out" / "_unfinished.json").exists()
