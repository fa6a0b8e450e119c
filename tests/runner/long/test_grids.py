"""Time grids of every kind, numbers of every type, and the bounds of rolling windows."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

C, H = 6, 4
BERLIN = ZoneInfo("Europe/Berlin")


def table_of(ds, known, seed=0, series="a"):
    """Return a series at these times, of which the first `known` have a target."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, len(ds))).astype(np.float32)
    target = pa.array(values[0], mask=np.arange(len(ds)) >= known)
    return pa.table([pa.array([series] * len(ds)), ds, target, *values[1:]], names=["unique_id", "ds", "y", "x", "k"])


def hourly(count):
    return pa.array(np.arange(count) * 3600).view(pa.timestamp("s"))


@pytest.fixture
def expected(score_rows):
    """Return the forecasts of a plain hourly series of 20 known steps."""
    return score_rows(table_of(hourly(20 + H), 20))[1]


def noons(count, zone=BERLIN):
    first = datetime(2026, 3, 20, 0, tzinfo=zone)  # the clocks go forward on the 29th
    return [first + timedelta(days=step) for step in range(count)]


GRIDS = {
    "days in a zone": ("D", pa.array(noons(24), pa.timestamp("us", "Europe/Berlin"))),
    "months": ("MS", pa.array([date(2025 + s // 12, s % 12 + 1, 1) for s in range(24)]).cast(pa.timestamp("ns"))),
    "ends of months": ("ME", pa.array([date(2025 + s // 12, s % 12 + 1, 1) - timedelta(days=1) for s in range(24)])),
    "quarters": ("QS", pa.array([date(2020 + step // 4, step % 4 * 3 + 2, 1) for step in range(24)])),
    "years": ("YE", pa.array([date(2000 + step, 12, 31) for step in range(24)])),
    "dates": ("D", pa.array([date(2026, 2, 20) + timedelta(days=step) for step in range(24)])),
    "weeks": ("2W", pa.array([date(2026, 1, 1) + timedelta(weeks=2 * step) for step in range(24)])),
    "integers": ("1", pa.array(range(-5, 19))),
    "every third int32": ("3", pa.array(range(1, 73, 3), pa.int32())),
    "quarters of an hour": ("15min", pa.array(np.arange(24) * 900_000 + 60_000).view(pa.timestamp("ms"))),
}  # fmt: skip


@pytest.mark.parametrize("name", GRIDS)
def test_a_series_on_any_grid_is_forecast_as_the_same_values_on_another(score_rows, expected, name):
    freq, ds = GRIDS[name]
    report, part = score_rows(table_of(ds, 20), "--freq", freq)
    assert report["this_run"]["rejects"] == {}
    assert part["prediction"].equals(expected["prediction"])
    assert part["ds"].to_pylist() == ds.slice(20).to_pylist()
    assert part["origin"].to_pylist() == [ds[19].as_py()] * H
    assert part["ds"].type == part["origin"].type == ds.type


@pytest.mark.parametrize("name", GRIDS)
def test_a_step_that_is_left_out_is_seen_as_missing_on_any_grid(score_rows, name):
    freq, ds = GRIDS[name]
    kept = [place for place in range(24) if place not in {9, 17}]
    _, part = score_rows(table_of(ds, 20).take(kept), "--freq", freq)
    _, plain = score_rows(table_of(hourly(24), 20).take(kept))
    assert part["prediction"].equals(plain["prediction"])


def test_days_of_a_zone_are_no_days_of_utc(score_rows):
    ds = GRIDS["days in a zone"][1]
    report, _ = score_rows(table_of(ds.cast(pa.timestamp("us", "UTC")), 20), "--freq", "D", "--fallback", "last")
    assert report["this_run"]["rejects"] == {"step_off_grid": 1}


@pytest.mark.parametrize("kind", [pa.float64(), pa.float16(), pa.int8(), pa.int64(), pa.uint64(), pa.bool_()], ids=str)
def test_numbers_of_any_type_are_cast_and_the_report_says_which(score_rows, kind):
    table = table_of(hourly(24), 20)
    for place, name in enumerate(("x", "k"), start=3):
        whole = pa.array(np.arange(24) % 2).cast(pa.int8())
        table = table.set_column(place, name, whole.cast(pa.float32()))
    _, expected = score_rows(table)
    for place, name in enumerate(("x", "k"), start=3):
        table = table.set_column(place, name, table[name].cast(pa.int8()).cast(kind))
    report, part = score_rows(table)
    assert part.equals(expected)
    assert report["warnings"] == ["cast to float32: k, x"]


def origins_of(part):
    return sorted(set(part["origin"].to_pylist()))


ROLL = "--window", "rolling"


@pytest.fixture
def utc(long):
    """Return a series of 40 hours from the begin of 28 March in UTC."""
    ds = pa.array([long.begin + step * long.hour for step in range(40)], pa.timestamp("us", "UTC"))
    return table_of(ds, 40)


def hours(*of_march):
    return [datetime(2026, 3, 28, tzinfo=UTC) + timedelta(hours=hour) for hour in of_march]


def test_all_origins_are_those_with_a_whole_context_and_a_whole_horizon(score_rows, utc):
    assert origins_of(score_rows(utc, *ROLL)[1]) == hours(*range(C - 1, 40 - H))


def test_a_stride_counts_from_the_first_origin_or_from_where_it_is_told(score_rows, utc):
    assert origins_of(score_rows(utc, *ROLL, "--stride", 7)[1]) == hours(5, 12, 19, 26, 33)
    anchored = score_rows(utc, *ROLL, "--stride", 7, "--from", "2026-03-28T02:00")[1]
    assert origins_of(anchored) == hours(9, 16, 23, 30)  # 2 itself has no whole context
    assert origins_of(score_rows(utc, *ROLL, "--stride", 7, "--from", "2026-03-28T10:00")[1]) == hours(10, 17, 24, 31)


def test_the_bounds_are_taken_in_whatever_zone_they_name_and_in_that_of_the_data_otherwise(score_rows, utc):
    local = utc.set_column(1, "ds", utc["ds"].cast(pa.timestamp("us", "Europe/Berlin")))
    for table, texts in (
        (utc, ("2026-03-28T20:00", "2026-03-28T22:00")),
        (utc, ("2026-03-28T21:00+01:00", "2026-03-28T23:00+01:00")),
        (utc, ("2026-03-28 20:00:00", "2026-03-28T22:00Z")),
        (local, ("2026-03-28T21:00", "2026-03-28T23:00")),
        (local, ("2026-03-28T20:00Z", "2026-03-28T22:00Z")),
    ):
        part = score_rows(table, *ROLL, "--from", texts[0], "--to", texts[1])[1]
        assert [time.astimezone(UTC) for time in origins_of(part)] == hours(20, 21, 22)


def test_bounds_off_the_grid_are_met_from_inside(score_rows, utc):
    part = score_rows(utc, *ROLL, "--from", "2026-03-28T19:01", "--to", "2026-03-28T22:59")[1]
    assert origins_of(part) == hours(20, 21, 22)
    part = score_rows(utc, *ROLL, "--from", "2026-03-28T23:01", "--to", "2026-03-28T23:59")[1]
    assert len(part) == 0


def test_bounds_of_dates_and_integers_are_read_as_such(score_rows):
    dates = pa.array([date(2026, 1, 1) + timedelta(days=step) for step in range(24)])
    part = score_rows(table_of(dates, 24), *ROLL, "--freq", "D", "--from", "2026-01-10", "--to", "2026-01-11")[1]
    assert origins_of(part) == [date(2026, 1, 10), date(2026, 1, 11)]
    part = score_rows(table_of(pa.array(range(24)), 24), *ROLL, "--freq", "1", "--from", "9", "--to", "10")[1]
    assert origins_of(part) == [9, 10]


@pytest.mark.parametrize("flag", ["--from", "--to"])
@pytest.mark.parametrize("text", ["yesterday", "12", ""])
def test_a_bound_that_is_no_time_of_the_data_is_wrong_usage(score_rows, utc, flag, text):
    report, part = score_rows(utc, *ROLL, flag, text, code=2)
    assert (report["exit_code"], part) == (2, None)
    assert f"{flag} is no time of the data" in report["error"]


def test_a_series_with_a_phase_of_its_own_keeps_it(score_rows):
    both = pa.concat_tables(
        [
            table_of(hourly(24), 20),
            table_of(pa.array(np.arange(24) * 3600 + 1234).view(pa.timestamp("s")), 20, series="b"),
        ]
    )
    report, part = score_rows(both)
    assert report["this_run"]["rejects"] == {}
    ds = part["ds"].to_pylist()
    assert [later - time for time, later in zip(ds[:H], ds[H:], strict=True)] == [timedelta(seconds=1234)] * H
    assert part["prediction"][:H].equals(part["prediction"][H:])
    first, last = "1970-01-01T09:10", "1970-01-01T10:10"
    rolled = score_rows(both, *ROLL, "--from", first, "--to", last)[1]
    assert [time.strftime("%H:%M:%S") for time in origins_of(rolled)] == ["09:20:34", "10:00:00"]
