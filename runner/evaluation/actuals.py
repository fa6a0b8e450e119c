"""What came true, a row a time step: sorted arrays of those series that were forecast, up to the last step forecast."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runner.batch import F64, Bool, Index
from runner.dataset import READ_ERRORS, Dataset, first_line
from runner.errors import InputError, explain, listing
from runner.evaluation.cells import Truth
from runner.evaluation.columns import ActualColumns, excluded_by, match_actuals, measured
from runner.evaluation.keys import ABSENT, Int64, Numbers, as_int64, plain
from runner.stop import Stop

ROWS_AT_ONCE = 1 << 17
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


def read_actuals(
    dataset: Dataset,
    on: tuple[str, ...],
    columns: Mapping[str, str],
    made_with: Mapping[str, str],
    series: Numbers,
    times: Numbers,
    latest: int,
    stop: Stop,
) -> Actuals:
    """Read what came true of the series that were forecast.

    Args:
        dataset: the actuals.
        on: key columns of the forecasts: the series, and the time.
        columns: role -> column name, as the command line has it.
        made_with: the same, as the forecasts were made.
        series: those that were forecast.
        times: knows the type of the forecasts' times.
        latest: the last step that was forecast; later rows are left out.
        stop: ends the reading.

    Raises:
        InputError: no files, columns that do not fit, damaged files, or two values for one step.
    """
    pieces = []
    for path in dataset.paths():
        with dataset.open(path) as file:
            found = match_actuals(file.schema_arrow, path, on, columns, made_with)
            for batch in batches_of(file, found, path, stop):
                rows = _rows(batch, found, path, series, times)
                kept = (rows.series != ABSENT) & (rows.time <= latest) & (rows.time != np.iinfo(np.int64).min)
                pieces.append(Told(rows.series[kept], rows.time[kept], rows.target[kept], rows.firm[kept]))
    if not pieces and not dataset.paths():
        raise InputError(explain("the actuals have no Parquet files", got=dataset.root, expected="*.parquet"))
    return sort_out(pieces, lambda who, when: _named(series, times, who, when))


def batches_of(
    file: pq.ParquetFile, columns: ActualColumns, path: str, stop: Stop, rows: int = ROWS_AT_ONCE
) -> Iterator[pa.RecordBatch]:
    """Yield the columns that are needed, a bounded number of rows at a time.

    Raises:
        InputError: the file is damaged.
    """
    try:
        for batch in file.iter_batches(rows, columns=columns.names, use_threads=False):
            stop.check()
            yield batch
    except READ_ERRORS as error:
        if isinstance(error, InputError):
            raise
        raise InputError(explain(f"{path} is damaged", got=first_line(error), remedy="restore the file")) from error


def _rows(batch: pa.RecordBatch, columns: ActualColumns, path: str, series: Numbers, times: Numbers) -> Told:
    number = series.of(batch.column(columns.keys[0]), new=False)
    moments = plain(batch.column(columns.keys[1]), times.what)
    if times.known is not None and moments.type != times.known.type:
        got, remedy = moments.type, "both need a time zone, or neither; cast one of them"
        raise InputError(
            explain(
                f"{path}: the times are not those of the forecasts", got=got, expected=times.known.type, remedy=remedy
            )
        )
    target = measured(batch.column(columns.target), path, columns.target)
    firm = np.zeros(len(target), bool)
    if columns.flag is not None:
        firm = excluded_by(batch.column(columns.flag), path, excludes=columns.excludes)
    return Told(number, as_int64(moments), np.where(firm, np.nan, target), firm)


def sort_out(pieces: list[Told], naming: Naming) -> Actuals:
    """Sort what is told, each step once.

    Raises:
        InputError: two rows tell different things of one step.
    """
    rows = Told(
        np.concatenate([piece.series for piece in pieces] or [np.zeros(0, np.intp)]),
        np.concatenate([piece.time for piece in pieces] or [np.zeros(0, np.int64)]),
        np.concatenate([piece.target for piece in pieces] or [np.zeros(0)]),
        np.concatenate([piece.firm for piece in pieces] or [np.zeros(0, bool)]),
    )
    moments, number = np.unique(rows.time, return_inverse=True)
    keys = rows.series * np.int64(len(moments) + 1) + number
    order = np.lexsort((rows.target, ~rows.firm, keys))  # of one step: what is excluded, then values, then nulls
    keys, target, firm = keys[order], rows.target[order], rows.firm[order]
    first = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    again = ~first[1:] & ~np.isnan(target[1:]) & ((target[1:] != target[:-1]) | firm[:-1])
    if again.any():
        places, width = np.flatnonzero(again)[:TOLD], len(moments) + 1
        told = [naming(int(keys[at] // width), int(moments[keys[at] % width])) for at in places]
        raise _contradiction(
            int(again.sum()), [f"{name}: {_said(target, at)}" for name, at in zip(told, places, strict=True)]
        )
    keys, target, firm = keys[first], target[first], firm[first]
    known = np.maximum.accumulate(np.where(np.isnan(target), ABSENT, np.arange(len(keys)))).astype(np.intp)
    kept = _settled(keys // (len(moments) + 1), target, firm)
    known_after = np.cumsum(kept) - 1
    return Actuals(moments, keys[kept], target[kept], np.where(known == ABSENT, ABSENT, known_after[known])[kept])


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


def _named(series: Numbers, times: Numbers, who: int, when: int) -> str:
    moment = pa.array([when]) if times.known is None else pa.array([when]).cast(times.known.type)
    return f"{series.value(who)} at {moment[0]}"


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
    last = actuals.last(series, origin)
    seasonal = None if season is None else actuals.seasonal(series, time, step, season[1], season[0], last)
    return Truth(target, there, last, seasonal)
