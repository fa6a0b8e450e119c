"""What is done is skipped, what is new or changed is scored; the ledger saves time and is never believed for truth."""

import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from runner.dataset import Dataset, Identity
from runner.plan import Source, cut

PLAIN = {"compression": "none", "use_dictionary": False, "write_statistics": False}
"""Written so, tables of the same shape make files of the same size."""
FILES = {"a.parquet", "b.parquet", "date=2026-11-23/c.parquet"}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def hashed(monkeypatch):
    """Record which input files are read to be hashed."""
    asked, sha256 = [], Dataset.sha256

    def note(self, path, stop):
        asked.append(path)
        return sha256(self, path, stop)

    monkeypatch.setattr(Dataset, "sha256", note)
    return asked


def inodes(out):
    """Tell the parts apart: one that is written again has another inode."""
    return {str(path.relative_to(out)): path.stat().st_ino for path in out.rglob("*.parquet")}


def rewritten(before, after):
    return {name for name in after if before.get(name) != after[name]}


def source(*groups):
    return Source("d=1/a.parquet", Identity(9, 1, 1, 1), "ab" * 32, groups)


def test_a_file_of_few_rows_is_one_unit_named_like_it():
    (unit,) = cut(source(50, 50, 30), 130)
    assert (unit.part_path, unit.row_groups, unit.rows) == ("d=1/a.parquet", None, 130)
    assert (unit.size, unit.sha256) == (9, "ab" * 32)


@pytest.mark.parametrize(
    ("groups", "rows_per_part", "expected"),
    [
        ((50, 50, 30), 129, [(0, 1, 100), (2, 2, 30)]),
        ((50, 50, 30), 80, [(0, 0, 50), (1, 2, 80)]),
        ((50, 50, 30), 1, [(0, 0, 50), (1, 1, 50), (2, 2, 30)]),
        ((200, 5, 5), 100, [(0, 0, 200), (1, 2, 10)]),
        ((0, 50, 0, 50, 0), 60, [(0, 2, 50), (3, 4, 50)]),
    ],
)
def test_a_larger_file_is_cut_at_row_groups_and_no_row_is_lost(groups, rows_per_part, expected):
    units = cut(source(*groups), rows_per_part)
    assert [(*unit.row_groups, unit.rows) for unit in units] == expected
    assert [unit.part_path for unit in units] == [f"d=1/a.rg{a:05d}-{b:05d}.parquet" for a, b, _ in expected]


@pytest.mark.parametrize("groups", [(), (0,), (500,)])
def test_a_file_without_row_groups_to_cut_at_stays_whole(groups):
    (unit,) = cut(source(*groups), 100)
    assert unit.row_groups is None


def test_a_second_run_scores_nothing_and_says_so(tiny_bundle, dataset, out, score, parts):
    first = score(tiny_bundle, dataset, out)
    before, names = parts(out), inodes(out)
    second = score(tiny_bundle, dataset, out)
    assert (first.this_run.parts, first.already_done) == (3, 0)
    assert (second.this_run.parts, second.already_done) == (0, 3)
    assert second.total == first.total == first.this_run
    assert (parts(out), inodes(out)) == (before, names)
    assert set(names) == FILES


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 3},
        {"workers": 2},
        {"max_reject_rate": 0.5},
        {"max_masked_mse": 1e9},
        {"recheck": True},
        {"columns": {"target": "target"}},
        {"rescore": "all"},
        {"rescore": "none"},
    ],
    ids=str,
)
def test_options_that_change_no_number_leave_done_what_is_done(tiny_bundle, dataset, out, score, options):
    score(tiny_bundle, dataset, out)
    before = inodes(out)
    report = score(tiny_bundle, dataset, out, **options)
    assert (report.exit_code, report.this_run.parts, report.already_done) == (0, 0, 3)
    assert inodes(out) == before


def test_a_new_file_is_scored_and_it_alone(tiny, tiny_bundle, dataset, out, score):
    score(tiny_bundle, dataset, out)
    before = inodes(out)
    tiny.write_dataset(dataset, {"date=2026-11-24/d.parquet": 20})
    report = score(tiny_bundle, dataset, out)
    assert rewritten(before, inodes(out)) == {"date=2026-11-24/d.parquet"}
    assert (report.this_run.rows.read, report.total.rows.read, report.already_done) == (20, 261, 3)


def test_one_changed_value_is_seen_behind_the_same_size_and_time(tiny, tiny_bundle, dataset, out, score, parts):
    path, table = dataset / "b.parquet", tiny.make_table(70, seed=1)
    pq.write_table(table, path, **PLAIN)
    score(tiny_bundle, dataset, out)
    before, old = inodes(out), path.stat()
    future = np.array(table.column("future_known").to_pylist(), np.float32)
    future[33, 2, 0] += 1
    pq.write_table(table.set_column(3, "future_known", tiny.nested(future)), path, **PLAIN)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (old.st_size, old.st_mtime_ns)

    report = score(tiny_bundle, dataset, out)
    assert rewritten(before, inodes(out)) == {"b.parquet"}
    assert (report.this_run.rows.read, report.already_done) == (70, 2)
    score(tiny_bundle, dataset, out.with_name("fresh"))
    assert parts(out) == parts(out.with_name("fresh"))


def test_a_file_that_was_only_touched_is_hashed_again_but_not_scored(tiny_bundle, dataset, out, score, hashed):
    score(tiny_bundle, dataset, out)
    hashed.clear()
    os.utime(dataset / "a.parquet")
    assert score(tiny_bundle, dataset, out).this_run.parts == 0
    assert hashed == ["a.parquet"]


def test_unchanged_files_are_not_read_again_unless_recheck_asks(tiny_bundle, dataset, out, score, hashed):
    score(tiny_bundle, dataset, out)
    assert set(hashed) == FILES
    hashed.clear()
    score(tiny_bundle, dataset, out)
    assert hashed == []
    score(tiny_bundle, dataset, out, recheck=True)
    assert set(hashed) == FILES


def test_recheck_finds_a_change_that_the_ledger_hides(tiny, tiny_bundle, dataset, out, score):
    path = dataset / "b.parquet"
    pq.write_table(tiny.make_table(70, seed=1), path, **PLAIN)
    score(tiny_bundle, dataset, out)
    pq.write_table(tiny.make_table(70, seed=2), path, **PLAIN)
    ledger, found = json.loads((out / "_ledger.json").read_text()), path.stat()
    times = {"mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns, "inode": found.st_ino}
    ledger["files"]["b.parquet"]["identity"] |= times
    (out / "_ledger.json").write_text(json.dumps(ledger))
    assert score(tiny_bundle, dataset, out).this_run.parts == 0
    assert score(tiny_bundle, dataset, out, recheck=True).this_run.rows.read == 70


@pytest.mark.parametrize(
    "left",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b'{"files": 3}',
        b'{"files": {"a.parquet": null, "b.parquet": {"identity": {}}}}',
        b'{"version": 1, "files": {}}',
        b"[" * 100_000,
    ],
    ids=["lost", "empty", "cut", "list", "null", "binary", "number", "holes", "forgetful", "nested"],
)
def test_a_lost_or_corrupt_ledger_costs_time_and_never_truth(tiny_bundle, dataset, out, score, parts, hashed, left):
    score(tiny_bundle, dataset, out)
    before, names, ledger = parts(out), inodes(out), (out / "_ledger.json").read_bytes()
    (out / "_ledger.json").unlink() if left is None else (out / "_ledger.json").write_bytes(left)
    hashed.clear()
    report = score(tiny_bundle, dataset, out)
    assert set(hashed) == FILES
    assert (report.exit_code, report.this_run.parts, report.already_done) == (0, 0, 3)
    assert (parts(out), inodes(out)) == (before, names)
    assert (out / "_ledger.json").read_bytes() == ledger


def test_a_part_that_was_removed_is_made_again_byte_for_byte(tiny_bundle, dataset, out, score, parts):
    score(tiny_bundle, dataset, out)
    before = parts(out)
    (out / "b.parquet").unlink()
    report = score(tiny_bundle, dataset, out)
    assert (report.this_run.parts, report.already_done) == (1, 2)
    assert parts(out) == before


def test_a_file_that_grew_beyond_a_part_replaces_its_one_part(tiny, tiny_bundle, dataset, out, score):
    score(tiny_bundle, dataset, out, rows_per_part=130)
    tiny.write_dataset(dataset, {"a.parquet": 150})
    report = score(tiny_bundle, dataset, out, rows_per_part=130)
    assert report.exit_code == 0
    assert set(inodes(out)) == FILES - {"a.parquet"} | {"a.rg00000-00001.parquet", "a.rg00002-00002.parquet"}
    assert report.total.rows.read == 150 + 70 + 41
