from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.cli import cli


def through_windows(within, bundle, table, folder):
    pq.write_table(table, folder / "windows.parquet")
    done = within(
        cli,
        "score",
        bundle,
        folder / "windows.parquet",
        "--out",
        folder / "by-windows",
        "--json",
        "--max-reject-rate",
        1,
    )
    assert done.code == 0, done.err
    return done.json(), pq.read_table(folder / "by-windows" / "windows.parquet")


@pytest.mark.parametrize("seed", range(3))
def test_the_latest_windows_come_out_bit_for_bit_as_through_the_windows_layout(
    long, tiny_bundle, score_rows, within, tmp_path, seed
):
    rows = long.make_rows(seed)
    origins = long.latest_origins(rows)
    windows = [long.window_at(rows, *origin) for origin in origins]
    report, part = score_rows(rows, row_group_size=[7, 50, 1000][seed])
    other, expected = through_windows(within, tiny_bundle, long.window_table(windows), tmp_path)
    forecasts = part["prediction"].to_numpy().reshape(len(origins), -1)
    assert np.array_equal(forecasts, np.array(expected["prediction"].to_pylist(), np.float32), equal_nan=True)
    assert (report["this_run"]["rows"], report["this_run"]["rejects"]) == (
        other["this_run"]["rows"],
        other["this_run"]["rejects"],
    )
    assert report["this_run"]["rows"]["scored"] == len(origins)
    assert report["this_run"]["masked_mse"] is None
    steps = [(s, o + step * long.hour, step, o) for s, o in origins for step in range(1, 5)]
    assert list(zip(*(part[name].to_pylist() for name in ("unique_id", "ds", "step", "origin")), strict=True)) == steps
    assert set(part["source"].to_pylist()) == {"model"}
    assert part["reject_reason"].null_count == len(part)


@pytest.mark.parametrize(("stride", "seed"), [(1, 3), (3, 4), (40, 5)])
def test_rolling_windows_come_out_bit_for_bit_and_score_the_same_digits(
    long, tiny_bundle, score_rows, within, tmp_path, stride, seed
):
    rows = long.make_rows(seed, (30, 41, 10, 18), ahead=0)
    windows, origins = [], []
    for series, last in long.latest_origins(rows):
        first = min(row["ds"] for row in rows if row["unique_id"] == series) + 5 * long.hour
        while first <= last - 4 * long.hour:
            origins.append((series, first))
            windows.append(long.window_at(rows, series, first))
            first += stride * long.hour
    report, part = score_rows(rows, "--window", "rolling", "--stride", stride, "--output-layout", "windows")
    other, expected = through_windows(within, tiny_bundle, long.window_table(windows), tmp_path)
    assert part["prediction"].to_pylist() == expected["prediction"].to_pylist()
    assert part["reject_reason"].to_pylist() == expected["reject_reason"].to_pylist()
    assert list(zip(part["unique_id"].to_pylist(), part["origin"].to_pylist(), strict=True)) == origins
    assert report["this_run"] == other["this_run"]
    assert report["this_run"]["rows"]["scored"] > 0


def test_nothing_after_the_origin_but_the_known_future_changes_a_byte(long, score_rows):
    rows = long.make_rows(6)
    _, before = score_rows(rows)
    origins = dict(long.latest_origins(rows))
    later = [{**row, "x": row["x"] + 100} if row["ds"] > origins[row["unique_id"]] else row for row in rows]
    _, after = score_rows(later)
    assert after.equals(before)
    moved = [{**row, "k": row["k"] + 100} if row["ds"] > origins[row["unique_id"]] else row for row in rows]
    _, after = score_rows(moved)
    assert not after["prediction"].equals(before["prediction"])


def test_a_rolling_forecast_sees_no_target_after_its_origin(long, score_rows):
    rows = long.make_rows(7, (40,), ahead=0, holes=0)
    flags = "--window", "rolling", "--from", long.begin + 12 * long.hour, "--to", long.begin + 12 * long.hour
    _, before = score_rows(rows, *flags)
    late = long.begin + 12 * long.hour
    _, after = score_rows([{**row, "y": row["y"] + 9, "x": -1.0} if row["ds"] > late else row for row in rows], *flags)
    assert after.equals(before)
    _, after = score_rows([{**row, "y": row["y"] + 9} if row["ds"] == late else row for row in rows], *flags)
    assert not after["prediction"].equals(before["prediction"])


@pytest.mark.parametrize("column", ["y", "x"])
def test_a_change_in_the_context_changes_the_forecast_of_its_series_alone(long, score_rows, column):
    rows = long.make_rows(8, (30, 20, 25), holes=0)
    _, before = score_rows(rows)
    origin = dict(long.latest_origins(rows))["s1"]
    row = next(row for row in rows if row["unique_id"] == "s1" and row["ds"] == origin - 2 * long.hour)
    row[column] += 1
    _, after = score_rows(rows)
    changed = [b != a for b, a in zip(before["prediction"].to_pylist(), after["prediction"].to_pylist(), strict=True)]
    assert {name for name, is_new in zip(after["unique_id"].to_pylist(), changed, strict=True) if is_new} == {"s1"}


def test_the_forecasts_do_not_depend_on_row_groups_or_on_how_names_are_encoded(long, score_rows):
    table = long.table_of(long.make_rows(9, tuple(range(3, 60))))
    _, whole = score_rows(table)
    _, crumbs = score_rows(table, row_group_size=3)
    encoded = table.set_column(0, "unique_id", table["unique_id"].combine_chunks().dictionary_encode())
    _, words = score_rows(encoded, use_dictionary=False)
    numbers = table.set_column(0, "unique_id", pa.array([int(name[1:]) for name in table["unique_id"].to_pylist()]))
    _, integers = score_rows(numbers)
    assert crumbs.equals(whole)
    assert words.equals(whole)
    assert integers["unique_id"].to_pylist() == [int(name[1:]) for name in whole["unique_id"].to_pylist()]
    assert integers.drop(["unique_id"]).equals(whole.drop(["unique_id"]))


def test_a_time_in_a_zone_is_an_instant_and_the_parts_keep_the_zone(long, score_rows):
    table = long.table_of(long.make_rows(10, (40,)))
    local = table.set_column(1, "ds", table["ds"].cast(pa.timestamp("us", "Europe/Berlin")))
    _, expected = score_rows(table)
    _, found = score_rows(local)  # 29 March has 23 hours there
    assert found["ds"].type.tz == found["origin"].type.tz == "Europe/Berlin"
    assert found["ds"].cast(pa.timestamp("us", "UTC")).equals(expected["ds"])
    assert found["prediction"].equals(expected["prediction"])
    assert found["ds"][0].as_py() - found["origin"][0].as_py() == timedelta(hours=1)
