"""Whatever the input is like, nothing at all, damaged or misfit, the run has one clear end."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.errors import UsageError


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def damage(path):
    """Spoil the first data page of a file and leave its footer alone."""
    content = bytearray(path.read_bytes())
    content[8:40] = bytes(byte ^ 0xFF for byte in content[8:40])
    path.write_bytes(content)


def misfit(tiny, rows):
    """Return windows whose context is too short, as lists of any length."""
    past = pa.array([[[1.0, 2.0]] * 3] * rows, pa.list_(pa.list_(pa.float32())))
    return tiny.make_table(rows).set_column(1, "past", past)


def test_a_file_without_rows_is_fine_and_makes_an_empty_part_of_the_same_schema(
    tiny, tiny_bundle, out, tmp_path, score
):
    source = tiny.write_dataset(tmp_path / "in", {"full.parquet": 3})
    pq.write_table(tiny.make_table(3).slice(0, 0), source / "empty.parquet")
    report = score(tiny_bundle, source, out)
    assert (report.exit_code, report.total.parts, report.total.rows.read) == (0, 2, 3)
    empty, full = (pq.ParquetFile(out / f"{name}.parquet") for name in ("empty", "full"))
    assert empty.metadata.num_rows == 0
    assert empty.schema_arrow == full.schema_arrow
    assert score(tiny_bundle, source, out).already_done == 2


def test_files_without_any_row_score_null(tiny, tiny_bundle, out, tmp_path, score):
    report = score(tiny_bundle, tiny.write_dataset(tmp_path / "in", {"empty.parquet": 0}), out)
    assert (report.exit_code, report.total.masked_mse, report.total.observed_mse) == (0, None, None)
    assert (out / "_SUCCESS").exists()


def test_an_empty_folder_is_exit_11_unless_allowed(tiny_bundle, out, tmp_path, score):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "_skipped.parquet").write_bytes(b"")
    report = score(tiny_bundle, tmp_path / "in", out)
    assert (report.status, report.exit_code) == ("failed", 11)
    assert "--allow-empty" in report.error
    assert not (out / "_SUCCESS").exists()
    allowed = score(tiny_bundle, tmp_path / "in", out, allow_empty=True)
    assert (allowed.exit_code, allowed.total.parts, allowed.total.masked_mse) == (0, 0, None)
    assert (out / "_SUCCESS").exists()


def test_a_missing_folder_is_exit_11_with_its_path(tiny_bundle, out, tmp_path, score):
    report = score(tiny_bundle, tmp_path / "nowhere", out)
    assert report.exit_code == 11
    assert str(tmp_path / "nowhere") in report.error


def test_a_missing_folder_is_as_good_as_an_empty_one_where_that_is_allowed(tiny_bundle, out, tmp_path, score):
    assert score(tiny_bundle, tmp_path / "nowhere", out, allow_empty=True).exit_code == 0


def test_rows_all_masked_have_forecasts_and_a_score_of_null(tiny, tiny_bundle, out, tmp_path, score):
    table = tiny.make_table(9)
    table = table.set_column(5, "mask", tiny.nested(np.ones((9, 4), np.uint8)))
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    report = score(tiny_bundle, tmp_path / "in", out, max_masked_mse=0)
    assert (report.exit_code, report.total.rows.scored) == (0, 9)
    assert (report.total.masked_mse, report.total.observed_mse) == (None, None)
    assert {step.observed for step in report.total.per_step} == {0}
    assert {step.observed_mse for step in report.total.per_step} == {None}
    assert pq.ParquetFile(out / "a.parquet").read().column("prediction").null_count == 0


def test_without_a_target_there_are_forecasts_and_no_score(tiny, tiny_bundle, out, tmp_path, score):
    (tmp_path / "in").mkdir()
    pq.write_table(tiny.make_table(9).drop_columns(["target", "mask"]), tmp_path / "in" / "a.parquet")
    report = score(tiny_bundle, tmp_path / "in", out, max_masked_mse=0)
    assert (report.exit_code, report.total.rows.scored, report.total.masked_mse) == (0, 9, None)
    assert (report.total.per_step, report.total.naive) == ((), {})
    assert pq.ParquetFile(out / "a.parquet").read().column("prediction").null_count == 0


def test_teacher_forced_without_a_target_is_exit_11_before_the_first_row(tiny, tiny_bundle, dataset, out, score, parts):
    pq.write_table(tiny.make_table(9).drop_columns(["target", "mask"]), dataset / "b.parquet")
    report = score(tiny_bundle, dataset, out, mode="teacher-forced")
    assert report.exit_code == 11
    assert "b.parquet" in report.error
    assert parts(out) == {}


def test_a_damaged_file_is_named_with_its_row_group_and_all_others_are_scored(tiny_bundle, dataset, out, score, parts):
    damage(dataset / "b.parquet")
    report = score(tiny_bundle, dataset, out)
    assert (report.status, report.exit_code, report.to_do) == ("failed", 11, 1)
    assert "b.parquet is damaged in row group 0" in report.error
    assert set(parts(out)) == {"a.parquet", "date=2026-11-23/c.parquet"}
    assert not (out / "_SUCCESS").exists()


def test_a_damaged_file_that_was_restored_is_scored_alone_and_nothing_tells_it_apart(
    tiny_bundle, dataset, tmp_path, score, parts, findings
):
    good = (dataset / "b.parquet").read_bytes()
    whole = score(tiny_bundle, dataset, tmp_path / "whole")
    damage(dataset / "b.parquet")
    score(tiny_bundle, dataset, tmp_path / "out")
    (dataset / "b.parquet").write_bytes(good)
    report = score(tiny_bundle, dataset, tmp_path / "out")
    assert report.already_done == 2
    assert findings(report) == findings(whole)
    assert parts(tmp_path / "out") == parts(tmp_path / "whole")


def test_an_input_that_is_refused_takes_back_the_success_of_an_earlier_night_but_no_part(
    tiny, tiny_bundle, dataset, out, score, parts
):
    score(tiny_bundle, dataset, out)
    before = parts(out)
    pq.write_table(tiny.make_table(9).drop_columns(["past"]), dataset / "tonight.parquet")
    assert score(tiny_bundle, dataset, out).exit_code == 11
    assert not (out / "_SUCCESS").exists()
    assert parts(out) == before


@pytest.mark.parametrize("content", [b"", b"no Parquet", b"PAR1PAR1"])
def test_files_that_are_no_parquet_are_all_named_before_the_first_row(tiny_bundle, dataset, out, score, parts, content):
    (dataset / "a.parquet").write_bytes(content)
    (dataset / "z.parquet").write_bytes(content)
    report = score(tiny_bundle, dataset, out)
    assert report.exit_code == 11
    assert "a.parquet" in report.error
    assert "z.parquet" in report.error
    assert parts(out) == {}


def test_all_schemas_are_checked_before_the_first_row(tiny, tiny_bundle, dataset, out, score, parts):
    for name in ("y.parquet", "z.parquet"):
        pq.write_table(tiny.make_table(9).drop_columns(["past"]), dataset / name)
    report = score(tiny_bundle, dataset, out)
    assert report.exit_code == 11
    assert "y.parquet: column 'past' is missing" in report.error
    assert "z.parquet: column 'past' is missing" in report.error
    assert parts(out) == {}


def test_a_file_none_of_whose_rows_fits_is_exit_11_with_both_shapes_and_all_others_are_scored(
    tiny, tiny_bundle, dataset, out, score, parts
):
    pq.write_table(misfit(tiny, 6), dataset / "m.parquet")
    report = score(tiny_bundle, dataset, out, max_reject_rate=1)
    assert report.exit_code == 11
    for piece in ("no row of m.parquet fits", "'past_shape': 6", "past [6, 2]"):
        assert piece in report.error
    assert set(parts(out)) == {"a.parquet", "b.parquet", "date=2026-11-23/c.parquet"}


def test_one_row_that_fits_makes_the_others_rejects(tiny, tiny_bundle, dataset, out, score):
    good = tiny.make_table(1)
    good = good.set_column(1, "past", good.column("past").cast(pa.list_(pa.list_(pa.float32()))))
    pq.write_table(pa.concat_tables([misfit(tiny, 6), good]), dataset / "m.parquet")
    report = score(tiny_bundle, dataset, out, max_reject_rate=1)
    assert (report.exit_code, report.total.rejects) == (0, {"past_shape": 6})
    reasons = pq.ParquetFile(out / "m.parquet").read().column("reject_reason").to_pylist()
    assert reasons == ["past_shape"] * 6 + [None]


@pytest.mark.parametrize("place", ["in/out", "in/date=2026-11-23", "in", "in/../in/out", "link/out", "."])
def test_input_and_output_in_one_another_are_refused_and_nothing_is_touched(
    tiny_bundle, dataset, tmp_path, score, contents, place
):
    (tmp_path / "link").symlink_to(dataset)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="lie in one another"):
        score(tiny_bundle, dataset, tmp_path / place)
    assert contents(tmp_path) == before


def test_an_output_inside_an_input_given_as_uri_is_refused(tiny_bundle, dataset, score):
    with pytest.raises(UsageError, match="lie in one another"):
        score(tiny_bundle, dataset.as_uri(), dataset / "out")


def test_a_single_file_is_an_input_and_its_folder_is_no_output(tiny_bundle, dataset, out, score, parts):
    report = score(tiny_bundle, os.path.relpath(dataset / "a.parquet"), out)
    assert (report.exit_code, set(parts(out))) == (0, {"a.parquet"})
    with pytest.raises(UsageError, match="lie in one another"):
        score(tiny_bundle, dataset / "a.parquet", dataset)


def test_a_file_name_that_is_no_utf_8_is_exit_11_and_no_crash(tiny_bundle, dataset, out, score):
    os.link(dataset / "a.parquet", os.fsencode(dataset) + b"/\xff.parquet")
    report = score(tiny_bundle, dataset, out)
    assert (report.status, report.exit_code) == ("failed", 11)
