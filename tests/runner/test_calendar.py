"""Calendar features are what the standard library says of the same times, in every zone and unit."""

import math
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from runner.calendar import calendar_names, calendar_values
from runner.errors import InputError
from runner.features import Calendar

ALL = Calendar(
    features=("hour", "day_of_week", "month", "holiday"), holidays=("1969-12-25", "2024-01-01", "2024-12-25")
)
OF_DATES = Calendar(features=("holiday", "month", "day_of_week"), holidays=ALL.holidays)
ZONES = (None, "UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Australia/Lord_Howe")
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
NEAR_HOLIDAYS = [datetime.fromisoformat(day).replace(tzinfo=UTC) for day in ALL.holidays]
SECONDS = st.one_of(
    st.integers(-(2**32), 2**32),
    st.builds(
        lambda day, offset: int(day.timestamp()) + offset,
        st.sampled_from(NEAR_HOLIDAYS),
        st.integers(-(10**5), 2 * 10**5),
    ),
)


def circle(turn):
    return [math.sin(2 * math.pi * turn), math.cos(2 * math.pi * turn)]


def expected(calendar, time):
    """Return one row as the standard library has it."""
    seconds = timedelta(hours=time.hour, minutes=time.minute, seconds=time.second).total_seconds()
    known = {
        "hour": circle(seconds / 86_400),
        "day_of_week": circle(time.weekday() / 7),
        "month": circle((time.month - 1) / 12),
        "holiday": [float(time.date().isoformat() in calendar.holidays)],
    }
    return [value for name in calendar.features for value in known[name]]


@settings(deadline=None)
@given(st.sampled_from(list(PER_SECOND)), st.sampled_from(ZONES), st.lists(SECONDS, min_size=1, max_size=20))
def test_values_are_those_of_the_clock_on_the_wall(unit, zone, seconds):
    ds = pa.array([second * PER_SECOND[unit] for second in seconds], pa.timestamp(unit, zone))
    start = datetime(1970, 1, 1, tzinfo=UTC)
    times = [(start + timedelta(seconds=second)).astimezone(ZoneInfo(zone or "UTC")) for second in seconds]
    values = calendar_values(ALL, ds)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, [expected(ALL, time) for time in times], atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.dates(), min_size=1, max_size=20))
def test_dates_have_all_but_the_hour(dates):
    days = [*dates, date(2024, 12, 25)]
    rows = [expected(OF_DATES, datetime(day.year, day.month, day.day, tzinfo=UTC)) for day in days]
    np.testing.assert_allclose(calendar_values(OF_DATES, pa.array(days, pa.date32())), rows, atol=1e-6)


def test_columns_are_in_the_order_of_the_features_two_for_what_goes_round():
    assert calendar_names(ALL) == (
        *("hour_sin", "hour_cos", "day_of_week_sin", "day_of_week_cos", "month_sin", "month_cos"),
        "holiday",
    )
    assert calendar_names(OF_DATES)[:2] == ("holiday", "month_sin")
    ds = pa.array([datetime(2024, 12, 25, 6)], pa.timestamp("s"))  # noqa: DTZ001
    whole = dict(zip(calendar_names(ALL), calendar_values(ALL, ds)[0], strict=True))
    assert calendar_values(OF_DATES, ds)[0].tolist() == [whole[name] for name in calendar_names(OF_DATES)]


def test_a_row_has_the_same_values_whichever_rows_are_around_it():
    ds = pa.array(np.random.default_rng(0).integers(0, 2**31, 500), pa.timestamp("s", "Europe/Berlin"))
    often = ds.take(pa.array([499, 0, 0, 7, 499]))
    assert np.array_equal(calendar_values(ALL, often), calendar_values(ALL, ds)[[499, 0, 0, 7, 499]])
    assert np.array_equal(calendar_values(ALL, ds.slice(7, 1))[0], calendar_values(ALL, ds)[7])
    assert calendar_values(ALL, ds.slice(0, 0)).shape == (0, 7)


def test_a_day_is_a_holiday_from_midnight_to_midnight_of_its_own_zone():
    berlin = ZoneInfo("Europe/Berlin")
    edges = [(24, 23, 59), (25, 0, 0), (25, 23, 59), (26, 0, 0)]
    times = [datetime(2024, 12, day, hour, minute, tzinfo=berlin) for day, hour, minute in edges]
    ds = pa.array(times, pa.timestamp("ms", "Europe/Berlin"))
    assert calendar_values(ALL, ds)[:, -1].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.string(), pa.date64()])
def test_a_type_without_a_calendar_is_refused(kind):
    with pytest.raises(InputError, match=r"(?s)got: .*expected: a timestamp or date32.*remedy"):
        calendar_values(OF_DATES, pa.array([], kind))


def test_the_hour_of_a_date_is_refused():
    with pytest.raises(InputError, match=r"(?s)got: date32.*a date has no hour"):
        calendar_values(ALL, pa.array([], pa.date32()))


def test_a_zone_that_is_not_known_here_is_refused_with_a_remedy():
    with pytest.raises(InputError, match=r"(?s)time zone.*Atlantis.*remedy: install.*tzdata"):
        calendar_values(ALL, pa.array([0], pa.timestamp("s", "Europe/Atlantis")))


@pytest.mark.parametrize(
    ("features", "holidays", "message"),
    [
        ((), (), "at least 1"),
        (("hour", "hour"), (), "twice"),
        (("minute",), (), "hour"),
        (("hour",), ("2024-12-25",), "if, and only if"),
        (("holiday",), (), "if, and only if"),
        (("holiday",), ("2024-02-30",), "not dates"),
        (("holiday",), ("20241225",), "not dates"),
        (("holiday",), ("2024-W52-3",), "not dates"),
        (("holiday",), ("2024-12-25", "2024-12-25"), "ascending"),
        (("holiday",), ("2024-12-25", "2024-01-01"), "ascending"),
    ],
)
def test_a_calendar_that_contradicts_itself_is_refused(features, holidays, message):
    with pytest.raises(ValidationError, match=message):
        Calendar(features=features, holidays=holidays)
