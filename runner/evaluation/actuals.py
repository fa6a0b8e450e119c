"""What came true: sorted arrays of series and times, and what was known of them at an origin."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runner.batch import F64, Bool, Index
from runner.errors import InputError, explain, listing
from runner.evaluation.cells import Truth
from runner.evaluation.keys import ABSENT, Int64

SEASONS = 8
"""Earlier seasons that are looked through for a value; where none has it, the last known value stands in."""
TOLD = 5


@dataclass(frozen=True, slots=True)
class Actuals:
    """Every time step that is known or excluded, each once, sorted by series and time.

    Attributes:
        times: every time that occurs, sorted [T].
        keys: number of the series * (T + 1) + number of the time, rising [N].
        target: in raw units, NaN where the step is excluded [N].
        known: position of the latest known step at or before each one, of any series; ABSENT where there is none [N].
    """

    times: Int64
    keys: Int64
    target: F64
    known: Index

    def __len__(self) -> int:
        return len(self.keys)

    def at(self, series: Index, time: Int64) -> tuple[F64, Bool]:
        """Return the target at some steps, NaN where it is excluded or not there, and which steps are there [N]."""
        if not len(self):
            return np.full(len(series), np.nan), np.zeros(len(series), bool)
        number = np.searchsorted(self.times, time)
        exact = (number < len(self.times)) & (series != ABSENT)
        exact &= self.times[np.minimum(number, len(self.times) - 1)] == time
        key = self._key(series, number)
        place = np.minimum(np.searchsorted(self.keys, key), len(self) - 1)
        there = exact & (self.keys[place] == key)
        return np.where(there, self.target[place], np.nan), there

    def passed(self, series: Index, time: Int64) -> Bool:
        """Tell which steps are not waited for: their series is known at them, or later [N]."""
        if not len(self):
            return np.zeros(len(series), bool)
        end = np.searchsorted(self.keys, self._key(series + 1, np.zeros_like(time))) - 1
        found = np.where(end >= 0, self.known[end], ABSENT)
        key = self._key(series, np.searchsorted(self.times, time))
        return np.asarray((found != ABSENT) & (self.keys[found] >= key))

    def last(self, series: Index, time: Int64) -> F64:
        """Return the latest known target at or before some times, NaN where there is none [N]."""
        if not len(self):
            return np.full(len(series), np.nan)
        key = self._key(series, np.searchsorted(self.times, time, "right") - 1)
        place = np.searchsorted(self.keys, key, "right") - 1
        found = np.where(place >= 0, self.known[place], ABSENT)
        same = (found != ABSENT) & (self.keys[found] // (len(self.times) + 1) == series)
        return np.where(same, self.target[found], np.nan)

    def seasonal(self, series: Index, time: Int64, step: Index, step_length: int, season: int, last: F64) -> F64:
        """Return the value of the latest season, before the origin, that has one; else the last known value.

        Args:
            series: number of each cell's series [N].
            time: what was forecast [N].
            step: horizon steps, 0 is the first [N].
            step_length: of one step, in the units of `time`.
            season: steps of a season.
            last: the last known value at the origin [N].
        """
        found = np.full(len(series), np.nan)
        open_ = np.arange(len(series))
        back = step // season + 1
        for further in range(SEASONS):
            lag = (back[open_] + further) * season * step_length
            found[open_], _ = self.at(series[open_], time[open_] - lag)
            open_ = open_[np.isnan(found[open_])]
        return np.where(np.isnan(found), last, found)

    def _key(self, series: Index, number: Int64 | Index) -> Int64:
        return np.asarray(series * np.int64(len(self.times) + 1) + number)


Naming = Callable[[int, int], str]
"""Says in words which step a series' number and a time are."""


@dataclass(frozen=True, slots=True)
class Told:
    """What some rows tell, in any order [N]; `firm` are excluded by a flag, so that no value will come."""

    series: Index
    time: Int64
    target: F64
    firm: Bool


def sort_out(pieces: list[Told], naming: Naming) -> Actuals:
    """Sort what is told, each step once; `pieces` is empty afterwards, for it may be most of the memory.

    Raises:
        InputError: two rows tell different things of one step.
    """
    rows = _joined(pieces)
    moments = np.unique(rows.time)
    keys = rows.series * np.int64(len(moments) + 1) + np.searchsorted(moments, rows.time)
    target, firm = rows.target, rows.firm
    del rows
    if not (keys[1:] > keys[:-1]).all():
        keys, target, firm = _each_once(keys, target, firm, moments, naming)
    kept = _settled(keys // (len(moments) + 1), target, firm)
    keys, target = keys[kept], target[kept]
    known = np.maximum.accumulate(np.where(np.isnan(target), ABSENT, np.arange(len(keys))))
    return Actuals(moments, keys, target, known.astype(np.intp, copy=False))


def _joined(pieces: list[Told]) -> Told:
    nothing = Told(np.zeros(0, np.intp), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool))
    every = [nothing, *pieces]
    pieces.clear()
    return Told(
        np.concatenate([piece.series for piece in every]),
        np.concatenate([piece.time for piece in every]),
        np.concatenate([piece.target for piece in every]),
        np.concatenate([piece.firm for piece in every]),
    )


def _each_once(keys: Int64, target: F64, firm: Bool, moments: Int64, naming: Naming) -> tuple[Int64, F64, Bool]:
    """Sort by key, and of each key keep what says most: that it is excluded, else a value, else nothing."""
    order = np.lexsort((target, ~firm, keys))  # NaN comes last
    keys, target, firm = keys[order], target[order], firm[order]
    first = np.append(True, keys[1:] != keys[:-1])
    again = ~first[1:] & ~np.isnan(target[1:]) & ((target[1:] != target[:-1]) | firm[:-1])
    if again.any():
        places, width = np.flatnonzero(again)[:TOLD], len(moments) + 1
        named = [naming(int(keys[at] // width), int(moments[keys[at] % width])) for at in places]
        told = [f"{name}: {_said(target, at)}" for name, at in zip(named, places, strict=True)]
        raise _contradiction(int(again.sum()), told)
    return keys[first], target[first], firm[first]


def _settled(series: Int64, target: F64, firm: Bool) -> Bool:
    """Tell which steps are known or excluded: a null that no known step of its series follows may still come."""
    positions = np.arange(len(series))
    latest = np.full(int(series.max(initial=-1)) + 1, ABSENT)
    valued = ~np.isnan(target)
    latest[series[valued]] = positions[valued]  # the last one written stays
    return np.asarray(firm | (positions <= latest[series]))


def _contradiction(count: int, told: list[str]) -> InputError:
    what = f"the actuals say different things of {count} steps:" + listing(told)
    return InputError(explain(what, remedy="keep one row for each series and time"))


def _said(target: F64, place: np.intp) -> str:
    values = [f"{value:.6g}" if np.isfinite(value) else "excluded" for value in target[place : place + 2]]
    return " and ".join(values)


def truth_of(
    actuals: Actuals, series: Index, time: Int64, origin: Int64, step: Index, season: tuple[int, int] | None
) -> Truth:
    """Look up what came true of some forecasts, and what the naive ones would have said at their origins.

    Args:
        actuals: what is known by now.
        series: number of each cell's series [N].
        time: what was forecast [N].
        origin: the last step that the forecast was allowed to see [N].
        step: horizon steps, 0 is the first [N].
        season: steps of a season, and the length of a step; None where one of them is not known.
    """
    target, there = actuals.at(series, time)
    missing = np.flatnonzero(~there)
    there[missing] = actuals.passed(series[missing], time[missing])
    last = actuals.last(series, origin)
    seasonal = None if season is None else actuals.seasonal(series, time, step, season[1], season[0], last)
    return Truth(target, there, last, seasonal)
