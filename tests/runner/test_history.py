"""Parts of other makers, parts without an input, and files of strangers are never overwritten or removed unasked."""

import pyarrow.parquet as pq
import pytest

from runner.errors import UsageError

FILES = {"a.parquet", "b.parquet", "date=2026-11-23/c.parquet"}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def done(tiny_bundle, dataset, out, score):
    """Return an output folder with three finished parts."""
    assert score(tiny_bundle, dataset, out).exit_code == 0
    return out


@pytest.fixture
def other(tiny, tmp_path):
    """Return a bundle with other weights."""
    return tiny.make_bundle(tmp_path / "other", seed=1)


def refusal(score, *args, **options):
    with pytest.raises(UsageError) as caught:
        score(*args, **options)
    return str(caught.value)


def test_another_bundle_is_refused_with_counts_and_both_ids_and_nothing_is_touched(
    tiny, tiny_bundle, other, dataset, done, score, contents
):
    tiny.write_dataset(dataset, {"new.parquet": 5})
    before = contents(done)
    message = refusal(score, other, dataset, done)
    assert "3 parts" in message
    for bundle in (tiny_bundle, other):
        assert tiny.read_manifest(bundle)["bundle_id"][:12] in message
    assert "--rescore" in message
    assert contents(done) == before


@pytest.mark.parametrize(
    "options", [{"mode": "teacher-forced"}, {"columns": {"target": "y"}}, {"rows_per_part": 60}], ids=str
)
def test_other_options_that_change_numbers_are_refused_and_nothing_is_touched(
    tiny_bundle, dataset, done, score, contents, options
):
    before = contents(done)
    message = refusal(score, tiny_bundle, dataset, done, **options)
    assert f"{2 if 'rows_per_part' in options else 3} parts" in message
    assert contents(done) == before


def test_rescore_none_keeps_history_and_scores_only_what_is_new(tiny, other, dataset, done, score, parts):
    before = parts(done)
    tiny.write_dataset(dataset, {"new.parquet": 5})
    report = score(other, dataset, done, rescore="none")
    after = parts(done)
    assert (report.exit_code, report.history, report.this_run.parts, report.total.parts) == (0, 3, 1, 1)
    assert report.total.rows.read == 5
    assert {name: after[name] for name in before} == before
    assert set(after) == FILES | {"new.parquet"}


def test_rescore_none_keeps_history_even_where_its_input_was_restated(tiny, other, dataset, done, score, parts):
    before = parts(done)
    tiny.write_dataset(dataset, {"b.parquet": 10})
    assert score(other, dataset, done, rescore="none").this_run.parts == 0
    assert parts(done) == before


def test_rescore_all_replaces_history_with_what_a_fresh_run_makes(other, dataset, done, score, parts, tmp_path):
    report = score(other, dataset, done, rescore="all")
    assert (report.exit_code, report.this_run.parts, report.history) == (0, 3, 0)
    score(other, dataset, tmp_path / "fresh")
    assert parts(done) == parts(tmp_path / "fresh")


def test_mixed_history_is_counted_by_maker(tiny, tiny_bundle, other, dataset, done, score):
    tiny.write_dataset(dataset, {"new.parquet": 5})
    score(other, dataset, done, rescore="none")
    message = refusal(score, tiny_bundle, dataset, done, mode="teacher-forced")
    assert "4 parts" in message
    assert f"1 by bundle {tiny.read_manifest(other)['bundle_id'][:12]}" in message
    assert "3 by this bundle with other options" in message


def test_another_cut_is_history_that_rescore_none_keeps_whole(tiny_bundle, dataset, done, score, parts):
    before = parts(done)
    report = score(tiny_bundle, dataset, done, rows_per_part=60, rescore="none")
    assert (report.exit_code, report.this_run.parts) == (0, 0)
    assert parts(done) == before


def test_another_cut_is_made_by_rescore_all_and_no_row_is_doubled_or_lost(tiny_bundle, dataset, done, score, parts):
    whole = {name: pq.ParquetFile(done / name).read() for name in FILES}
    report = score(tiny_bundle, dataset, done, rows_per_part=60, rescore="all")
    assert report.exit_code == 0
    ranges = {"a.parquet": ["00000-00000", "00001-00001", "00002-00002"], "b.parquet": ["00000-00000", "00001-00001"]}
    assert set(parts(done)) == {"date=2026-11-23/c.parquet"} | {
        name.replace(".parquet", f".rg{piece}.parquet") for name, pieces in ranges.items() for piece in pieces
    }
    for name, pieces in ranges.items():
        files = [done / name.replace(".parquet", f".rg{piece}.parquet") for piece in pieces]
        rows = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
        assert rows == whole[name].to_pylist()


def test_ranges_of_row_groups_equal_the_whole(tiny, tiny_bundle, tmp_path, score, parts):
    source = tiny.write_dataset(tmp_path / "in", {"a.parquet": 130}, row_group_size=10)
    whole = score(tiny_bundle, source, tmp_path / "whole")
    ranged = score(tiny_bundle, source, tmp_path / "ranged", rows_per_part=30)
    names = sorted(parts(tmp_path / "ranged"))
    assert names == [f"a.rg{i:05d}-{min(i + 2, 12):05d}.parquet" for i in range(0, 13, 3)]
    rows = [row for name in names for row in pq.ParquetFile(tmp_path / "ranged" / name).read().to_pylist()]
    assert rows == pq.ParquetFile(tmp_path / "whole" / "a.parquet").read().to_pylist()
    assert ranged.total.rows == whole.total.rows
    assert ranged.total.masked_mse == pytest.approx(whole.total.masked_mse, rel=1e-12)


def test_a_file_named_like_a_range_of_another_is_neither_lost_nor_overwritten(tiny, tiny_bundle, tmp_path, score):
    source = tiny.write_dataset(tmp_path / "in", {"a.parquet": 100, "a.rg00000-00000.parquet": 7})
    report = score(tiny_bundle, source, tmp_path / "out", rows_per_part=50)
    assert report.exit_code != 0 or report.total.rows.read == 107


def test_a_part_whose_input_is_gone_is_kept_counted_and_warned_about(tiny_bundle, dataset, done, score, parts):
    before = parts(done)
    (dataset / "b.parquet").unlink()
    report = score(tiny_bundle, dataset, done)
    assert (report.exit_code, report.orphans, report.total.parts) == (0, 1, 2)
    assert any("1 parts have no input" in warning for warning in report.warnings)
    assert parts(done) == before


def test_orphans_can_be_refused_by_name_and_nothing_is_touched(tiny_bundle, dataset, done, score, contents):
    before = contents(done)
    (dataset / "b.parquet").unlink()
    (dataset / "date=2026-11-23/c.parquet").unlink()
    message = refusal(score, tiny_bundle, dataset, done, orphans="refuse")
    assert "b.parquet" in message
    assert "date=2026-11-23/c.parquet" in message
    assert contents(done) == before


def test_pruning_removes_orphans_and_nothing_else(tiny, tiny_bundle, dataset, done, score, parts):
    pq.write_table(tiny.make_table(3).select(["id"]), done / "theirs.parquet")
    before = parts(done)
    (dataset / "b.parquet").unlink()
    report = score(tiny_bundle, dataset, done, orphans="prune")
    assert report.exit_code == 0
    assert parts(done) == {name: data for name, data in before.items() if name != "b.parquet"}
    assert score(tiny_bundle, dataset, done).orphans == 0


def test_ranges_of_a_file_that_is_gone_are_orphans_each(tiny_bundle, dataset, out, score):
    score(tiny_bundle, dataset, out, rows_per_part=60)
    (dataset / "a.parquet").unlink()
    assert score(tiny_bundle, dataset, out, rows_per_part=60).orphans == 3


@pytest.mark.parametrize("kind", ["table", "junk", "folder"])
def test_a_strangers_file_in_the_way_is_named_and_kept_and_nothing_is_scored(
    tiny, tiny_bundle, dataset, out, score, parts, kind
):
    (out / "b.parquet").mkdir(parents=True) if kind == "folder" else out.mkdir()
    if kind == "table":
        pq.write_table(tiny.make_table(3), out / "b.parquet")
    elif kind == "junk":
        (out / "b.parquet").write_bytes(b"not Parquet at all")
    before = parts(out)
    report = score(tiny_bundle, dataset, out)
    assert report.exit_code == 14
    assert "b.parquet" in report.error
    assert parts(out) == before
    assert not (out / "_SUCCESS").exists()


def test_a_strangers_file_elsewhere_is_left_alone(tiny, tiny_bundle, dataset, out, score):
    out.mkdir()
    pq.write_table(tiny.make_table(3), out / "theirs.parquet")
    before = (out / "theirs.parquet").read_bytes()
    report = score(tiny_bundle, dataset, out, orphans="prune")
    assert (report.exit_code, report.total.parts, report.orphans) == (0, 3, 0)
    assert (out / "theirs.parquet").read_bytes() == before


def test_a_link_in_place_of_a_part_is_refused_by_name_and_not_believed(tiny_bundle, dataset, out, tmp_path, score):
    score(tiny_bundle, dataset, tmp_path / "elsewhere")
    out.mkdir()
    (out / "b.parquet").symlink_to(tmp_path / "elsewhere" / "b.parquet")
    report = score(tiny_bundle, dataset, out)
    assert report.exit_code == 14
    assert "b.parquet" in report.error


def test_a_linked_folder_inside_the_output_is_refused_by_name_and_nothing_is_written_through_it(
    tiny_bundle, dataset, out, tmp_path, score
):
    (tmp_path / "elsewhere").mkdir()
    out.mkdir()
    (out / "date=2026-11-23").symlink_to(tmp_path / "elsewhere")
    report = score(tiny_bundle, dataset, out)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert report.exit_code == 14
    assert "date=2026-11-23" in report.error
