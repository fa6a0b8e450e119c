"""The grid of a series: every time has a step and a phase, and they lead back to the time, in every zone and unit."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.errors import InputError, UsageError
from runner.freq import Freq, grid_of, parse_freq

UNITS = ("s", "ms", "us", "ns")
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
NAMED = ("s", "min", "15min", "h", "6h", "D", "2D", "W", "MS", "ME", "2ME", "QS", "QE", "YS", "YE")
DAILY = NAMED[NAMED.index("D") :]
ZONES = (None, "UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Australia/Lord_Howe", "+05:45")
SECONDS = st.integers(-(2**32), 2**32)
"""From 1833 to 2106."""


def times(kind, *texts):
    return pa.array([datetime.fromisoformat(text) for text in texts], kind)


def local_times(zone, *texts, unit="us"):
    """Return what the clock shows in a zone as timestamps; each text may end in `+1` for the second of two."""
    shown = [datetime.fromisoformat(text.removesuffix("+1")) for text in texts]
    folds = [text.endswith("+1") for text in texts]
    there = [time.replace(tzinfo=ZoneInfo(zone), fold=fold) for time, fold in zip(shown, folds, strict=True)]
    return pa.array(there, pa.timestamp(unit, zone))


def read(freq, ds):
    return grid_of(parse_freq(freq), ds.type).read(ds)


def is_on_one_grid(freq, ds):
    grid = grid_of(parse_freq(freq), ds.type)
    ordinal, phase = grid.read(ds)
    steps = set(np.diff(ordinal).tolist())
    return steps == {1} and len(set(phase.tolist())) == 1 and grid.times(ordinal, phase).equals(ds)


@pytest.mark.parametrize("text", [*NAMED, "1", "7", "3600000"])
def test_a_frequency_is_written_as_it_is_read(text):
    assert str(parse_freq(text)) == text
    assert parse_freq(str(parse_freq(text))) == parse_freq(text)


def test_older_names_and_a_count_of_one_mean_the_same():
    assert [str(parse_freq(text)) for text in ("H", "M", "Q", "Y", "1h", "30H", "2M")] == [
        *("h", "ME", "QE", "YE"),
        *("h", "30h", "2ME"),
    ]
    assert parse_freq("15min") == Freq(15, "min")
    assert parse_freq("1") == Freq(1, "")


@pytest.mark.parametrize(
    "text", ["", " h", "h\n", "0h", "-1D", "1.5h", "T", "15T", "d", "B", "W-MON", "QE-MAR", "1h30min", "٣h", "0", "?"]
)
def test_any_other_text_is_refused_with_what_is_understood(text):
    with pytest.raises(UsageError, match=r"(?s)not understood.*got: .*s, min, h, D, W, MS, ME, QS, QE, YS, YE"):
        parse_freq(text)


@pytest.mark.parametrize("text", ["876601h", "36526D", "1201MS", "101YE", "2147483648", "9999999999W"])
def test_a_step_of_more_than_a_hundred_years_is_refused(text):
    with pytest.raises(UsageError, match="too long a step"):
        parse_freq(text)


@pytest.mark.parametrize(
    ("freq", "kind"),
    [
        *[("h", kind) for kind in (pa.date32(), pa.int64(), pa.string(), pa.date64(), pa.time64("us"), pa.float64())],
        ("24h", pa.date32()),
        *[("1", kind) for kind in (pa.timestamp("s"), pa.date32(), pa.int16(), pa.uint64(), pa.duration("s"))],
        ("D", pa.int32()),
    ],
)
def test_a_type_that_does_not_go_with_the_frequency_is_refused_with_what_does(freq, kind):
    with pytest.raises(InputError, match=r"(?s)got: .*expected: .*remedy: cast ds"):
        grid_of(parse_freq(freq), kind)


def test_a_zone_that_is_not_known_here_is_refused_with_a_remedy_where_the_clock_on_the_wall_counts():
    kind = pa.timestamp("us", "Europe/Atlantis")
    with pytest.raises(InputError, match=r"(?s)time zone.*Atlantis.*remedy: install.*tzdata"):
        grid_of(parse_freq("D"), kind)
    ds = times(pa.timestamp("us"), "2024-03-01 10:30").cast(pa.timestamp("us", "UTC")).view(kind)
    ordinal, phase = read("h", ds)
    assert grid_of(parse_freq("h"), kind).times(ordinal, phase).equals(ds)


@settings(deadline=None)
@given(st.sampled_from(NAMED), st.sampled_from(UNITS), st.lists(SECONDS, max_size=20), st.integers(0, 10**9 - 1))
@example("YE", "ns", [-(2**32), -1, 0, 2**32], 999_999_999)
def test_times_without_a_zone_come_back(freq, unit, seconds, fraction):
    ticks = [second * PER_SECOND[unit] + fraction % PER_SECOND[unit] for second in seconds]
    ds = pa.array(ticks, pa.timestamp(unit))
    grid = grid_of(parse_freq(freq), ds.type)
    ordinal, phase = grid.read(ds)
    assert (ordinal.dtype, phase.dtype) == (np.int64, np.int64)
    assert grid.times(ordinal, phase).equals(ds)
    assert grid.agrees(ds, ordinal, phase).all()
    assert not grid.agrees(ds, ordinal + 1, phase).any()


@settings(deadline=None)
@given(st.sampled_from(NAMED), st.sampled_from(UNITS), st.sampled_from(ZONES), st.lists(SECONDS, max_size=20))
def test_times_in_a_zone_come_back_but_for_the_second_showing_of_an_hour(freq, unit, zone, seconds):
    ds = pa.array([second * PER_SECOND[unit] for second in seconds], pa.timestamp(unit, zone))
    grid = grid_of(parse_freq(freq), ds.type)
    ordinal, phase = grid.read(ds)
    back = grid.times(ordinal, phase)
    assert back.type == ds.type
    lost = [a != b for a, b in zip(back.to_pylist(), ds.to_pylist(), strict=True)]
    second = [freq in DAILY and bool(time.tzinfo) and bool(time.fold) for time in datetimes_of(seconds, zone)]
    assert lost == second
    assert grid.agrees(ds, ordinal, phase).tolist() == [not one for one in second]


def datetimes_of(seconds, zone):
    """Return times as the standard library has them: `fold` is set where the clock shows one for the second time."""
    if zone is None or zone.startswith("+"):
        return [datetime(1970, 1, 1) + timedelta(seconds=second) for second in seconds]  # noqa: DTZ001
    start = datetime(1970, 1, 1, tzinfo=ZoneInfo("UTC"))
    return [(start + timedelta(seconds=second)).astimezone(ZoneInfo(zone)) for second in seconds]


@settings(deadline=None)
@given(
    st.sampled_from(DAILY),
    st.sampled_from(UNITS),
    st.integers(-1_200, 1_200),
    st.integers(1, 28),
    st.integers(0, 86_399),
)
def test_steps_that_follow_each_other_in_times_do_so_in_ordinals(freq, unit, start, day, seconds):
    grid = grid_of(parse_freq(freq), pa.timestamp(unit))
    month = np.datetime64(start, "M").astype("M8[D]")  # no more than 28 days from where offsets are counted from
    first = (month - day if grid.at_end else month + day - 1) + np.timedelta64(seconds, "s")
    ordinal, phase = grid.read(pa.array([first]).cast(grid.kind))
    steps = ordinal + np.arange(-3, 30)
    ds = grid.times(steps, np.broadcast_to(phase, steps.shape))
    seen, phases = grid.read(ds)
    assert np.array_equal(seen, steps)
    assert set(phases.tolist()) == set(phase.tolist())


@settings(deadline=None)
@given(st.sampled_from(DAILY), st.lists(st.dates(), max_size=20))
def test_dates_come_back(freq, dates):
    ds = pa.array(dates, pa.date32())
    grid = grid_of(parse_freq(freq), ds.type)
    assert grid.times(*grid.read(ds)).equals(ds)


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64()])
@settings(deadline=None)
@given(step=st.integers(1, 1000), ticks=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20))
def test_integers_come_back_and_are_on_one_grid_when_they_are_whole_steps_apart(kind, step, ticks):
    ds = pa.array(ticks, kind)
    grid = grid_of(parse_freq(str(step)), kind)
    ordinal, phase = grid.read(ds)
    assert grid.times(ordinal, phase).equals(ds)
    assert [int(o) * step + int(p) for o, p in zip(ordinal, phase, strict=True)] == ticks
    assert all(0 <= p < step for p in phase)


def test_integers_at_both_ends_of_int64_come_back():
    ds = pa.array([-(2**63), -1, 0, 2**63 - 1], pa.int64())
    for freq in ("1", "2", "3600000", "2147483647"):
        grid = grid_of(parse_freq(freq), ds.type)
        ordinal, phase = grid.read(ds)
        assert grid.agrees(ds, ordinal, phase).all()


def test_a_part_of_an_array_is_read_as_what_it_is():
    ds = pa.array(range(0, 36_000, 3_600), pa.timestamp("s"))
    assert read("h", ds.slice(3, 2))[0].tolist() == [3, 4]
    assert read("D", pa.array([5, 6, 7], pa.date32()).slice(1))[0].tolist() == [6, 7]


def test_no_rows_have_no_steps():
    for kind in (pa.timestamp("ns", "Europe/Berlin"), pa.date32()):
        grid = grid_of(parse_freq("MS"), kind)
        ordinal, phase = grid.read(pa.array([], kind))
        assert (len(ordinal), len(phase)) == (0, 0)
        assert grid.times(ordinal, phase).equals(pa.array([], kind))


def test_times_before_1970_are_whole_steps_too():
    ds = times(pa.timestamp("ns"), "1969-12-31 22:30", "1969-12-31 23:30", "1970-01-01 00:30")
    assert read("h", ds)[0].tolist() == [-2, -1, 0]
    assert is_on_one_grid("h", ds)


@pytest.mark.parametrize("unit", UNITS)
def test_an_hour_on_the_wall_that_is_skipped_or_shown_twice_is_no_matter_to_an_hourly_grid(unit):
    spring = local_times("Europe/Berlin", "2024-03-31 00:00", "2024-03-31 01:00", "2024-03-31 03:00", unit=unit)
    autumn = local_times("Europe/Berlin", "2024-10-27 01:00", "2024-10-27 02:00", "2024-10-27 02:00+1", unit=unit)
    assert is_on_one_grid("h", spring)
    assert is_on_one_grid("h", autumn)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("hour", ["00:00", "12:00", "23:59:59"])
def test_a_day_of_23_or_25_hours_is_one_step(unit, hour):
    for days in (("2024-03-30", "2024-03-31", "2024-04-01"), ("2024-10-26", "2024-10-27", "2024-10-28")):
        ds = local_times("Europe/Berlin", *[f"{day} {hour}" for day in days], unit=unit)
        assert is_on_one_grid("D", ds)
        in_hours = read("24h", ds)[1]
        assert len(set(in_hours.tolist())) == 2  # in absolute time they are not


def test_weeks_and_months_are_those_of_the_wall_too():
    assert is_on_one_grid("W", local_times("Europe/Berlin", "2024-03-25 00:00", "2024-04-01 00:00"))
    months = [f"2024-{month:02}-01 00:00" for month in range(1, 13)]
    assert is_on_one_grid("MS", local_times("Europe/Berlin", *months))
    assert is_on_one_grid(
        "ME", local_times("America/New_York", "2024-02-29 00:00", "2024-03-31 00:00", "2024-04-30 00:00")
    )


def test_zones_half_an_hour_off_have_hours_and_days_of_their_own():
    hours = local_times("Asia/Kolkata", "2024-01-01 00:00", "2024-01-01 01:00")
    assert is_on_one_grid("h", hours)
    assert set(read("h", hours)[1].tolist()) == {30 * 60 * 10**6}
    days = local_times("Asia/Kolkata", "2024-01-01 00:00", "2024-01-02 00:00")
    assert is_on_one_grid("D", days)
    assert set(read("D", days)[1].tolist()) == {0}


@pytest.mark.parametrize(
    ("zone", "days"),
    [
        ("America/Sao_Paulo", ("2018-11-03", "2018-11-04", "2018-11-05")),
        ("Asia/Beirut", ("2022-03-26", "2022-03-27", "2022-03-28")),
    ],
)
def test_a_midnight_that_is_skipped_is_the_first_instant_after_and_agrees_with_the_days_around_it(zone, days):
    shown = [f"{days[0]} 00:00", f"{days[1]} 01:00", f"{days[2]} 00:00"]
    ds = local_times(zone, *shown)
    grid = grid_of(parse_freq("D"), ds.type)
    ordinal, phase = grid.read(ds)
    assert np.diff(ordinal).tolist() == [1, 1]
    assert phase.tolist() == [0, 3600 * 10**6, 0]
    first = np.full(3, phase[0])
    assert grid.times(ordinal, first).equals(ds)
    assert grid.agrees(ds, ordinal, first).tolist() == [True] * 3
    later = local_times(zone, shown[0], f"{days[1]} 02:00", f"{days[2]} 01:00")
    assert grid.agrees(later, ordinal, first).tolist() == [True, False, False]


def test_a_time_that_the_clock_shows_twice_is_the_earlier():
    ds = local_times("Europe/Berlin", "2024-10-27 02:30", "2024-10-27 02:30+1")
    grid = grid_of(parse_freq("D"), ds.type)
    ordinal, phase = grid.read(ds)
    assert ordinal[0] == ordinal[1]
    assert phase[0] == phase[1]
    assert grid.times(ordinal, phase).equals(ds.take([0, 0]))
    assert grid.agrees(ds, ordinal, phase).tolist() == [True, False]


@pytest.mark.parametrize(
    "kind", [pa.date32(), *[pa.timestamp(unit) for unit in UNITS], pa.timestamp("ns", "Asia/Tokyo")]
)
def test_the_last_days_of_months_quarters_and_years_are_one_grid_each(kind):
    month_ends = ["2023-11-30", "2023-12-31", "2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30"]
    ends = {
        "ME": month_ends,
        "2ME": ["2022-12-31", "2023-02-28", "2023-04-30"],
        "QE": ["1969-09-30", "1969-12-31", "1970-03-31", "1970-06-30"],
        "YE": ["1968-12-31", "1969-12-31", "1970-12-31"],
    }
    for freq, texts in ends.items():
        assert is_on_one_grid(freq, dates(kind, *texts)), freq
        assert set(read(freq, dates(kind, *texts))[1].tolist()) != {0}
    assert len(set(read("MS", dates(kind, *month_ends))[1].tolist())) > 1


@pytest.mark.parametrize(
    "kind", [pa.date32(), *[pa.timestamp(unit) for unit in UNITS], pa.timestamp("ns", "Asia/Tokyo")]
)
def test_the_first_days_of_months_quarters_and_years_are_at_phase_0(kind):
    starts = {
        "MS": ["1969-12-01", "1970-01-01", "1970-02-01", "1970-03-01"],
        "QS": ["2023-10-01", "2024-01-01", "2024-04-01"],
        "YS": ["1969-01-01", "1970-01-01", "1971-01-01"],
    }
    for freq, texts in starts.items():
        assert is_on_one_grid(freq, dates(kind, *texts)), freq
        assert set(read(freq, dates(kind, *texts))[1].tolist()) == {0}


def test_quarters_and_years_may_begin_in_any_month():
    fiscal = {
        "QE": ["2023-11-30", "2024-02-29", "2024-05-31", "2024-08-31"],
        "QS": ["2023-11-01", "2024-02-01", "2024-05-01"],
        "YE": ["2022-02-28", "2023-02-28", "2024-02-29", "2025-02-28"],
        "YS": ["2023-04-01", "2024-04-01", "2025-04-01"],
        "5MS": ["2023-03-15", "2023-08-15", "2024-01-15"],
    }
    for freq, texts in fiscal.items():
        assert is_on_one_grid(freq, dates(pa.date32(), *texts)), freq


def dates(kind, *texts):
    """Return dates, in a zone the midnights that they begin with."""
    days = [date.fromisoformat(text) for text in texts]
    if kind == pa.date32():
        return pa.array(days, kind)
    zone = ZoneInfo(kind.tz) if kind.tz else None
    return pa.array([datetime(day.year, day.month, day.day, tzinfo=zone) for day in days], kind)


@pytest.mark.parametrize(
    ("freq", "kind", "last"),
    [
        ("D", pa.date32(), 2**31 - 1),
        ("MS", pa.date32(), 2**31 - 1),
        ("1", pa.int32(), 2**31 - 1),
        ("h", pa.timestamp("ns"), 2**63 - 1),
        ("YE", pa.timestamp("ns", "Europe/Berlin"), 2**63 - 2**53),
    ],
)
def test_a_step_past_the_end_of_what_the_type_holds_is_refused_not_wrapped(freq, kind, last):
    grid = grid_of(parse_freq(freq), kind)
    ordinal, phase = grid.read(
        pa.array([last], pa.int64()).cast(pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)
    )
    with pytest.raises(InputError, match=r"(?s)does not fit.*remedy: cast ds"):
        grid.times(ordinal + 1, phase)
    grid.times(ordinal - 1, phase)


@pytest.mark.parametrize("freq", ["h", "D", "W", "MS", "YE"])
def test_the_first_and_the_last_time_that_nanoseconds_hold_come_back(freq):
    ds = pa.array([-(2**63), 2**63 - 1], pa.timestamp("ns"))
    grid = grid_of(parse_freq(freq), ds.type)
    ordinal, phase = grid.read(ds)
    assert grid.times(ordinal, phase).equals(ds)
    assert grid.agrees(ds, ordinal, phase).all()
