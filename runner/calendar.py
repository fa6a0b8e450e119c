"""Features that are made of the time alone: the hour, the day of the week, the month, holidays.

One implementation serves training and scoring, so a model never sees other numbers than those it was trained on.
"""

from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from runner.batch import F32, F64
from runner.errors import InputError, explain
from runner.features import Calendar
from runner.freq import Ticks, months_of, ticks_of, ticks_of_day, wall_time

THURSDAY = 3
"""The first day of 1970, counted from Monday 0."""


def calendar_names(calendar: Calendar) -> tuple[str, ...]:
    """Return the names of the columns: two for what goes round, one for `holiday`."""
    pairs = ((name,) if name == "holiday" else (f"{name}_sin", f"{name}_cos") for name in calendar.features)
    return tuple(chain.from_iterable(pairs))


def calendar_values(calendar: Calendar, ds: pa.Array) -> F32:
    """Return the calendar features of times, by the clock on the wall where `ds` has a zone.

    Args:
        calendar: which features, in which order.
        ds: timestamps or date32, none of them null [N].

    Returns:
        Sine and cosine of what goes round (a whole turn is a day, a week, a year of equal months); 1 on a holiday and
        0 on other days [N, n], in the order of `calendar_names`.

    Raises:
        InputError: `ds` holds no times, or no hours where they are asked for, or its time zone is not known here.
    """
    if problem := _problem(calendar, ds.type):
        remedy = "cast ds, or train without this calendar feature"
        raise InputError(explain("ds has no such calendar features", got=ds.type, expected=problem, remedy=remedy))
    rows = ds.dictionary_encode()  # many series share their times: each is worked out once
    ticks, day = ticks_of(wall_time(rows.dictionary)), ticks_of_day(ds.type)
    days = ticks // np.int64(day)
    time_of_day = (ticks - days * day) / day
    columns = np.concatenate([_columns(name, days, time_of_day, calendar) for name in calendar.features], axis=1)
    return np.asarray(columns.astype(np.float32)[rows.indices.to_numpy()])


def _problem(calendar: Calendar, kind: pa.DataType) -> str | None:
    if not pt.is_timestamp(kind) and not pt.is_date32(kind):
        return "a timestamp or date32"
    return "a timestamp, as a date has no hour" if pt.is_date32(kind) and "hour" in calendar.features else None


def _columns(name: str, days: Ticks, time_of_day: F64, calendar: Calendar) -> F64:
    """Return the columns of one feature [N, 1 or 2], of days since 1970 and the share of the day that is over."""
    if name == "holiday":
        holidays = np.array(calendar.holidays, "M8[D]").view(np.int64)
        return np.isin(days, holidays)[:, None].astype(np.float64)
    if name == "hour":
        return _circle(time_of_day)
    return _circle((days + THURSDAY) % 7 / 7 if name == "day_of_week" else months_of(days) % 12 / 12)


def _circle(turn: F64) -> F64:
    """Return sine and cosine [N, 2] of a share of a whole turn [N]."""
    return np.stack([np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)], axis=1)
