"""An output folder is held against its own ledger and report; what is no fault is no problem."""

import fcntl
import json
from dataclasses import replace

import pytest

from runner.errors import BusyError
from runner.lock import undisturbed
from runner.plan import read_parts
from runner.report import rows_of, summarize
from runner.stop import Stop
from runner.storage import OutputFolder
from runner.totals import ErrorSums, Score
from runner.verify_output import verify_output


@pytest.fixture
def out(tiny_bundle, dataset, tmp_path, score):
    assert score(tiny_bundle, dataset, tmp_path / "out").exit_code == 0
    return tmp_path / "out"


def look(out):
    return verify_output(OutputFolder(out), Stop())


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_good_folder_has_no_problem_and_all_its_rows(out):
    found = look(out)
    assert (found.parts, found.rows.read, found.complete) == (3, 241, True)
    assert (found.problems, found.notes) == ((), ())


@pytest.mark.parametrize(
    "options",
    [{"rows_per_part": 60}, {"mode": "teacher-forced"}, {"columns": {"target": "target"}}, {"fallback": "last"}],
)
def test_the_report_is_held_against_the_parts_of_its_own_options(tiny_bundle, dataset, tmp_path, score, options):
    score(tiny_bundle, dataset, tmp_path / "out", **options)
    assert look(tmp_path / "out").problems == ()


def test_history_and_orphans_are_no_problem_and_in_no_total(tiny, dataset, out, tmp_path, score):
    other = tiny.make_bundle(tmp_path / "other", seed=1)
    (dataset / "b.parquet").unlink()
    tiny.write_dataset(dataset, {"new.parquet": 20})
    report = score(other, dataset, out, rescore="none")
    assert (report.history, report.orphans, report.total.rows.read) == (2, 1, 20)
    found = look(out)
    assert (found.parts, found.rows.read, found.problems) == (4, 261, ())


def test_rows_are_counted_over_bundles_whose_scores_cannot_be_added(out):
    parts = list(read_parts(OutputFolder(out)).values())
    other = replace(parts[0], score=Score(1, (1,), *[ErrorSums((1.0,), (1.0,), (1.0,))] * 2, None))
    assert rows_of([*parts, other]).read == 241 + other.unit.rows
    with pytest.raises(ValueError, match="zip"):
        summarize([*parts, other])


def test_a_run_that_failed_or_was_stopped_is_noted_and_its_report_not_held_against_anything(
    tiny_bundle, dataset, out, score
):
    (dataset / "a.parquet").write_bytes(b"damaged")
    assert score(tiny_bundle, dataset, out).exit_code == 11
    found = look(out)
    assert found.problems == ()
    assert not found.complete
    assert "ended as failed (11)" in found.notes[0]


def test_a_gate_that_did_not_hold_leaves_a_good_folder_that_is_not_complete(tiny_bundle, dataset, tmp_path, score):
    assert score(tiny_bundle, dataset, tmp_path / "out", max_masked_mse=0.0).exit_code == 15
    found = look(tmp_path / "out")
    assert (found.problems, found.complete) == ((), False)


def test_a_folder_that_is_called_like_a_file_is_looked_into(tiny, tiny_bundle, tmp_path, score):
    tiny.write_dataset(tmp_path / "in", {"x.parquet/a.parquet": 5})
    score(tiny_bundle, tmp_path / "in", tmp_path / "out")
    found = look(tmp_path / "out")
    assert (found.parts, found.problems) == (1, ())


def test_a_ledger_that_is_lost_is_no_fault_and_then_the_report_is_not_held_against_anything(out):
    (out / "_ledger.json").unlink()
    found = look(out)
    assert found.problems == ()
    assert "_ledger.json is lost" in found.notes[0]


@pytest.mark.parametrize("key", ["mode", "columns", "rows_per_part", "precision", "layout"])
def test_a_report_whose_options_are_incomplete_is_told(out, key):
    edit(out / "_report.json", lambda report: report["options"].pop(key))
    assert look(out).problems == (f"_report.json: options without {key}",)


def test_reasons_in_the_rows_that_the_footer_does_not_count_are_told(out, monkeypatch):
    monkeypatch.setattr("runner.verify_output.Counter.update", lambda self, _: self.__setitem__("past_missing", 1))
    assert any("has rejects {'past_missing': 1} and 0 rows without a forecast" in line for line in look(out).problems)


def test_nobody_scores_while_somebody_looks_and_nobody_looks_while_somebody_scores(out, tmp_path):
    with undisturbed(OutputFolder(out)), (out / ".lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (out / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="run is writing"), undisturbed(OutputFolder(out)):
            pass
    with undisturbed(OutputFolder(tmp_path)):  # where no run has ever been
        pass
