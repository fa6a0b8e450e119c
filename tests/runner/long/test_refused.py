"""Files of time steps that are refused as a whole, all problems at once; and odd ones that are fine."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.cli import cli
from runner.long.series import LONGEST_SERIES, whole_series
from runner.long.text import LONGEST_TEXT

H = 4


@pytest.fixture
def rows(long):
    return long.make_rows(1, (12, 12, 12), holes=0)


@pytest.fixture
def refused(long, within, tiny_bundle, tmp_path, rows):
    """Return what scores a table beside a good file, and gives the message of its refusal."""

    def score(table, *flags, code=11, others=True, **writing):
        folder = tmp_path / f"case{len(list(tmp_path.iterdir()))}"
        (folder / "in").mkdir(parents=True)
        pq.write_table(table, folder / "in" / "bad.parquet", **writing)
        pq.write_table(long.table_of(rows), folder / "in" / "good.parquet")
        freq = () if "--freq" in flags else ("--freq", "h")
        words = "score", tiny_bundle, folder / "in", "--out", folder / "out", "--layout", "long", "--quiet"
        done = within(cli, *words, *freq, *flags)
        assert done.code == code, done.err
        parts = [path.name for path in (folder / "out").glob("*.parquet")]
        assert parts == (["good.parquet"] if others else [])
        assert not (folder / "out" / "_SUCCESS").exists()
        return done.err

    return score


def with_values(table, column, changes):
    values = table[column].to_pylist()
    for place, value in changes.items():
        values[place] = value
    place = table.schema.names.index(column)
    return table.set_column(place, column, pa.array(values, table.schema.field(column).type))


@pytest.mark.parametrize("sort", [(), ("--sort",)], ids=["as it is", "sorted"])
def test_a_row_without_a_series_refuses_its_file_and_no_other(long, refused, rows, sort):
    told = refused(with_values(long.table_of(rows), "unique_id", {17: None}), *sort)
    assert "bad.parquet: column 'unique_id' has rows without a series" in told


@pytest.mark.parametrize("sort", [(), ("--sort",)], ids=["as it is", "sorted"])
def test_a_row_without_a_time_refuses_its_file_and_names_the_first_series(long, refused, rows, sort):
    told = refused(with_values(long.table_of(rows), "ds", {17: None, 33: None, 34: None}), *sort, row_group_size=40)
    assert "bad.parquet: column 'ds' has rows without a time" in told
    assert "got: the first in series 's1'" in told


@pytest.mark.parametrize("row_group_size", [5, 1000])
def test_series_that_do_not_stand_together_are_refused_by_name(long, refused, rows, row_group_size):
    moved = [*rows[:40], *rows[40:], rows[3]]
    told = refused(long.table_of(moved), row_group_size=row_group_size)
    assert "bad.parquet: the rows of a series do not stand together" in told
    assert "got: series 's0' begins a second time" in told
    assert "--sort" in told


def test_series_of_integers_that_do_not_stand_together_are_refused_too(long, refused, rows):
    table = long.table_of([*rows, rows[3]])
    numbers = pa.array([int(name[1:]) for name in table["unique_id"].to_pylist()])
    assert "series 0 begins a second time" in refused(table.set_column(0, "unique_id", numbers))


def test_all_that_is_wrong_with_types_is_told_at_once_and_nothing_is_scored(long, refused, rows):
    table = long.table_of(rows)
    for name, kind in {
        "unique_id": pa.float64(),
        "ds": pa.string(),
        "y": pa.string(),
        "x": pa.list_(pa.int8()),
    }.items():
        column = pa.nulls(len(table), kind)
        table = table.set_column(table.schema.names.index(name), name, column)
    told = refused(table.append_column("mask", pa.nulls(len(table), pa.string())), others=False)
    for problem in (
        "column 'unique_id' (unique_id): double, expected text or integers",
        "column 'y': string, expected numbers",
        "column 'x': list<element: int8>, expected numbers",
        "column 'mask': string, expected numbers",
        "column 'ds' (ds): ds does not fit the frequency h",
    ):
        assert problem in told
    assert "'k'" not in told


def test_all_columns_that_are_missing_or_stand_there_twice_are_told_at_once(long, refused, rows):
    table = long.table_of(rows)
    twice = table.drop_columns(["x", "k"]).append_column("y", table["y"])
    told = refused(twice, "--column", "unique_id=series", others=False)
    for problem in ("column 'series' is missing", "column 'x' is missing", "'k' is missing", "'y' stands there twice"):
        assert problem in told


def test_a_role_that_there_is_none_of_is_told_with_those_that_there_are(long, refused, rows):
    told = refused(long.table_of(rows), "--column", "past=y", others=False)
    assert "--column past: no such role or feature" in told
    for role in ("unique_id", "ds", "y", "x", "k", "mask", "available_mask"):
        assert role in told


def test_both_flags_are_refused(long, refused, rows):
    table = long.table_of(rows)
    flags = pa.array(np.ones(len(table), np.int8))
    told = refused(table.append_column("mask", flags).append_column("available_mask", flags), others=False)
    assert "available_mask and mask are there; give one" in told


def test_a_time_beyond_all_arithmetic_is_refused_with_its_series(score_rows):
    numbers = pa.array([*range(12), (1 << 63) - 20, (1 << 63) - 1])
    table = pa.table({"unique_id": ["a"] * 12 + ["b"] * 2, "ds": numbers} | {name: np.ones(14) for name in "yxk"})
    report, part = score_rows(table, "--freq", "1", code=11)
    assert part is None
    assert "in.parquet: column 'ds' has a time that no grid reaches" in report["error"]
    assert "got: in series 'b'" in report["error"]


def test_a_forecast_that_reaches_beyond_what_the_type_holds_is_refused(long, refused, rows):
    table = long.table_of(rows[:16])
    last = np.iinfo(np.int64).max // 3_600_000_000 * 3_600_000_000
    ticks = last + (np.arange(16) - 11) * 3_600_000_000 * (np.arange(16) <= 11)
    late = table.slice(0, 12).set_column(1, "ds", pa.array(ticks[:12]).view(pa.timestamp("us", "UTC")))
    told = refused(late)
    assert "bad.parquet" in told
    assert "a time does not fit timestamp[us, tz=UTC]" in told


def test_a_name_that_is_too_long_refuses_its_file(long, refused, rows):
    table = long.table_of(rows)
    told = refused(with_values(table, "unique_id", {40: "x" * (LONGEST_TEXT + 1)}))
    assert "bad.parquet: column 'unique_id' has a text that is too long" in told
    assert "got: 257 bytes" in told


def test_a_series_that_no_memory_should_have_to_hold_is_refused_by_name():
    piece = pa.record_batch({"unique_id": np.full(1 << 20, 7), "ds": np.arange(1 << 20)})
    pieces = [piece] * (LONGEST_SERIES // piece.nbytes)
    (whole,) = whole_series(iter(pieces), "unique_id")
    assert whole[0].num_rows == len(pieces) << 20
    with pytest.raises(ValueError, match="a series is too long") as refusal:
        list(whole_series(iter([*pieces, piece]), "unique_id"))
    assert f"{(len(pieces) + 1) << 20:,} rows and more of series 7" in str(refusal.value)


def test_a_file_without_rows_and_one_without_row_groups_make_empty_parts(long, score_rows, tmp_path):
    empty = long.table_of([])
    report, part = score_rows(empty)
    assert (report["this_run"]["rows"]["read"], len(part)) == (0, 0)
    assert part.schema.names[:5] == ["unique_id", "ds", "step", "origin", "prediction"]
    with pq.ParquetWriter(tmp_path / "none.parquet", empty.schema):
        pass
    assert pq.read_metadata(tmp_path / "none.parquet").num_row_groups == 0
    report, again = score_rows(pq.read_table(tmp_path / "none.parquet"), "--sort")
    assert again.schema.equals(part.schema)


@pytest.mark.parametrize("flags", [(), ("--sort",), ("--window", "rolling")])
def test_empty_row_groups_between_full_ones_change_nothing(long, within, tiny_bundle, tmp_path, rows, flags):
    table = long.table_of(rows)
    with pq.ParquetWriter(tmp_path / "in.parquet", table.schema) as writer:
        for begun, ended in ((0, 0), (0, 7), (7, 7), (7, 30), (30, len(table)), (0, 0)):
            writer.write_table(table.slice(begun, ended - begun))
    pq.write_table(table, tmp_path / "whole.parquet")
    found = []
    for name in ("in", "whole"):
        out = tmp_path / f"out-{name}"
        words = "score", tiny_bundle, tmp_path / f"{name}.parquet", "--out", out, "--layout", "long", "--freq", "h"
        assert within(cli, *words, "--quiet", *flags).code == 0
        found.append(pq.read_table(out / f"{name}.parquet"))
    assert found[0].equals(found[1])
    assert len(found[0]) > 0


def test_a_series_of_300_000_steps_is_forecast_as_its_end_is(score_rows):
    count = 300_000
    rng = np.random.default_rng(0)
    ticks = np.arange(count + H) * 3_600_000_000
    values = rng.normal(size=(3, count + H)).astype(np.float32)
    target = pa.array(values[0], mask=np.arange(count + H) >= count)
    columns = [pa.array(["a"] * (count + H)), pa.array(ticks).view(pa.timestamp("us", "UTC")), target, *values[1:]]
    table = pa.table(columns, names=["unique_id", "ds", "y", "x", "k"])
    _, whole = score_rows(table, row_group_size=70_000)
    _, end = score_rows(table.slice(count - 20))
    assert whole.equals(end)
    report, _ = score_rows(table, "--window", "rolling", "--stride", 1000)
    assert report["this_run"]["rows"]["scored"] == len(range(5, count - H, 1000))
