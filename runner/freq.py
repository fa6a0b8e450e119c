"""The time grid of a series in long layout, where a row is a time step: which step a time is, and the way back."""

import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt

from runner.batch import Bool
from runner.errors import InputError, UsageError, explain

Ticks = npt.NDArray[np.int64]
Unit = Literal["s", "min", "h", "D", "W", "MS", "ME", "QS", "QE", "YS", "YE", ""]

ALIASES = {"H": "h", "M": "ME", "Q": "QE", "Y": "YE"}
"""Older names of pandas for the same."""
SECONDS = {"s": 1, "min": 60, "h": 3_600, "D": 86_400, "W": 604_800}
MONTHS = {"MS": 1, "ME": 1, "QS": 3, "QE": 3, "YS": 12, "YE": 12}
PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
DAY = SECONDS["D"]
LONGEST_SECONDS, LONGEST_MONTHS, LONGEST_COUNT = 36_525 * DAY, 1_200, (1 << 31) - 1
"""A step of a hundred years, or of any int32: in nanoseconds it still fits an int64."""
MONTH_DAYS = 32
"""More than any month has: an offset inside a month never reaches into the next one's."""
WRAPS = 2.0**62
"""A sum that does not fit an int64 is 2**64 away from what it should be; rounding to a float moves it by far less."""


@dataclass(frozen=True, slots=True)
class Freq:
    """How far apart the steps of a series are.

    Attributes:
        count: how many units a step is.
        unit: a name of pandas; "" = `ds` is a plain integer.
    """

    count: int
    unit: Unit

    def __str__(self) -> str:
        return f"{self.count if self.count > 1 or not self.unit else ''}{self.unit}"


def parse_freq(text: str) -> Freq:
    """Read a frequency in the names of pandas, such as `h`, `15min`, `MS`, or an integer such as `1`.

    Raises:
        UsageError: not one of the names understood, or a step of more than a hundred years.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,9})?([A-Za-z]*)", text)
    count, unit = (int(found[1] or 1), ALIASES.get(found[2], found[2])) if found else (1, "?")
    if not text or unit not in get_args(Unit):
        known = ", ".join(name for name in get_args(Unit) if name)
        expected = f"one of {known}, with a count before it or not (15min, 2W), or an integer where ds is one (1)"
        raise UsageError(explain("the frequency is not understood", got=repr(text), expected=expected))
    too_long = (
        count * SECONDS.get(unit, 0) > LONGEST_SECONDS
        or count * MONTHS.get(unit, 0) > LONGEST_MONTHS
        or count > LONGEST_COUNT
    )
    if too_long:
        expected = f"a hundred years, or {LONGEST_COUNT} of an integer, at most"
        raise UsageError(explain("the frequency has too long a step", got=repr(text), expected=expected))
    return Freq(count, cast("Unit", unit))


@dataclass(frozen=True, slots=True)
class Grid:
    """The steps of a frequency on a type of `ds`; made by `grid_of`.

    A tick is the type's own unit: a nanosecond to a second of a timestamp, a day of a date, 1 of an integer.

    Attributes:
        kind: the type of `ds`.
        step: length of a step, in ticks, or in months where the frequency counts months.
        day: ticks of a day; 1 for integers.
        monthly: a step is a number of months.
        at_end: offsets are counted from the end of a month.
        wall: steps are those of the clock on the wall in the zone of `kind`, not of absolute time.
    """

    kind: pa.DataType
    step: int
    day: int
    monthly: bool = False
    at_end: bool = False
    wall: bool = False

    def read(self, ds: pa.Array) -> tuple[Ticks, Ticks]:
        """Return the step of each time, and where inside its step it lies.

        Args:
            ds: times of the grid's kind, none of them null [N].

        Returns:
            ordinal: steps that follow each other differ by exactly 1 [N].
            phase: ticks from the begin of the step; rows on one grid share it [N]. Of months: ticks from the begin of
                the month or, of `ME`, `QE` and `YE`, from its end (so below zero), plus 32 days for each whole month
                of the step before it.
        """
        ticks = ticks_of(wall_time(ds) if self.wall else ds)
        if not self.monthly:
            return _split(ticks, self.step)
        month = months_of(ticks // np.int64(self.day))
        ordinal, before = _split(month, self.step)
        return ordinal, ticks - _first_day(month + self.at_end) * self.day + before * (MONTH_DAYS * self.day)

    def follows(self, ds: pa.Array) -> Bool | None:
        """Tell which times are exactly a step behind the one before, at a fraction of the price of `read`.

        Args:
            ds: times of the grid's kind, none of them null [N].

        Returns:
            True = it is [N - 1]; None where steps are not all equally long.
        """
        return None if self.monthly or self.wall else np.diff(ticks_of(ds)) == self.step

    def times(self, ordinal: Ticks, phase: Ticks) -> pa.Array:
        """Return the times of steps: the inverse of `read`.

        A time that a zone's clock skips becomes the first instant after the gap; one that it shows twice, the first.

        Args:
            ordinal: steps [N].
            phase: where inside its step each time lies [N].

        Returns:
            Times of the grid's kind [N].

        Raises:
            InputError: a time lies outside what the type holds.
        """
        units, scale, rest = self._apart(ordinal, phase)
        ticks = units * scale + rest
        stored = self._instants(ticks).astype(np.int32 if self.kind.bit_width == 32 else np.int64)
        wrapped = np.abs(units.astype(np.float64) * scale + rest - ticks) > WRAPS
        if wrapped.any() or (stored.itemsize == 4 and (stored != ticks).any()):
            remedy = "cast ds to a type that reaches further, such as timestamp[us] or int64"
            raise InputError(explain(f"a time does not fit {self.kind}", remedy=remedy))
        return pa.array(stored).view(self.kind)

    def agrees(self, ds: pa.Array, ordinal: Ticks, phase: Ticks) -> Bool:
        """Tell which times are those of a step and a phase, say of their series' first row.

        A midnight that a zone skips has another phase than those around it, and yet is where it belongs.

        Args:
            ds: times of the grid's kind, none of them null [N].
            ordinal: their steps [N].
            phase: where inside the step they should lie [N].

        Returns:
            True = `times(ordinal, phase)` is `ds` [N].
        """
        units, scale, rest = self._apart(ordinal, phase)
        return np.asarray(self._instants(units * scale + rest) == ticks_of(ds))

    def _apart(self, ordinal: Ticks, phase: Ticks) -> tuple[Ticks, int, Ticks]:
        """Return units [N], their length and a rest [N] in ticks that add up to each time."""
        if not self.monthly:
            return ordinal, self.step, phase
        month_ticks = MONTH_DAYS * self.day
        before = (phase + self.at_end * month_ticks) // month_ticks
        return _first_day(ordinal * self.step + before + self.at_end), self.day, phase - before * month_ticks

    def _instants(self, ticks: Ticks) -> Ticks:
        """Return the values of `ds` [N] at which the grid's clock shows these ticks [N]."""
        if not self.wall:
            return ticks
        import pyarrow.compute as pc

        shown = pa.array(ticks).view(pa.timestamp(self.kind.unit))
        return ticks_of(pc.assume_timezone(shown, self.kind.tz, ambiguous="earliest", nonexistent="latest"))


def grid_of(freq: Freq, kind: pa.DataType) -> Grid:
    """Return the grid of a frequency on a type of `ds`.

    Raises:
        InputError: the type holds no times, or not those of the frequency, or its time zone is not known.
    """
    if problem := _problem(freq, kind):
        remedy = "cast ds, or name the frequency that its steps have"
        raise InputError(explain(f"ds does not fit the frequency {freq}", got=kind, expected=problem, remedy=remedy))
    if not freq.unit:
        return Grid(kind, freq.count, 1)
    day = ticks_of_day(kind)
    wall = pt.is_timestamp(kind) and kind.tz is not None and freq.unit not in {"s", "min", "h"}
    if wall:
        wall_time(pa.array([0]).view(kind))  # an unknown zone shows here, before the first row
    if months := MONTHS.get(freq.unit):
        return Grid(kind, freq.count * months, day, monthly=True, at_end=freq.unit.endswith("E"), wall=wall)
    return Grid(kind, freq.count * SECONDS[freq.unit] * day // DAY, day, wall=wall)


def _problem(freq: Freq, kind: pa.DataType) -> str | None:
    """Say what type a frequency goes with, where it is not this one."""
    if not freq.unit:
        return None if kind in {pa.int32(), pa.int64()} else "int64 or int32, as the frequency is an integer"
    if pt.is_date32(kind):
        sub_day = freq.unit in {"s", "min", "h"}
        return "a timestamp, as a date has no steps shorter than a day" if sub_day else None
    return None if pt.is_timestamp(kind) else "a timestamp or date32"


def wall_time(ds: pa.Array) -> pa.Array:
    """Return what the clock on the wall shows: timestamps without a zone for those that have one, all others as given.

    Args:
        ds: times [N].

    Raises:
        InputError: the zone is not known here.
    """
    if not pt.is_timestamp(ds.type) or ds.type.tz is None:
        return ds
    import pyarrow.compute as pc

    try:
        return pc.local_timestamp(ds)
    except pa.ArrowInvalid as error:
        remedy = "install the operating system's time zone database (tzdata), or cast ds to a zone that it knows"
        raise InputError(explain("the time zone of ds is not known here", got=error, remedy=remedy)) from error


def ticks_of(ds: pa.Array) -> Ticks:
    """Return times without nulls as integers, in the type's own unit [N]; a view where they have 64 bits."""
    if ds.type.bit_width == 64:
        return np.asarray(ds.view(pa.int64()).to_numpy())
    return np.asarray(ds.view(pa.int32()).to_numpy().astype(np.int64))


def ticks_of_day(kind: pa.DataType) -> int:
    """Return how many ticks a day has: of a date 1."""
    return DAY * PER_SECOND[kind.unit] if pt.is_timestamp(kind) else 1


def months_of(days: Ticks) -> Ticks:
    """Return the months since January 1970 that days since 1970 lie in [N]."""
    return days.view("M8[D]").astype("M8[M]").view(np.int64)


def _first_day(months: Ticks) -> Ticks:
    return months.view("M8[M]").astype("M8[D]").view(np.int64)


def _split(ticks: Ticks, step: int) -> tuple[Ticks, Ticks]:
    """Return the whole steps [N], and what is left over [N]."""
    ordinal = ticks // np.int64(step)
    rest = ordinal * np.int64(step)
    return ordinal, np.subtract(ticks, rest, out=rest)
