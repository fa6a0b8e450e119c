"""Forecasts of which a row is a step: `unique_id`, `ds`, `step`, `origin`, `prediction`."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from runner.batch import F64, Index
from runner.errors import InputError, UsageError, explain
from runner.evaluation.actuals import Actuals, truth_of
from runner.evaluation.cells import Cells
from runner.evaluation.issued import IssuedPart, check_columns, read_rows
from runner.evaluation.join import Issue, Picture, made_by_model, source_of, split
from runner.evaluation.keys import ABSENT, Int64, Numbers, as_int64, day_of, plain
from runner.evaluation.long_actuals import read_actuals
from runner.evaluation.question import Question
from runner.evaluation.seen import Seen
from runner.stop import Stop
from runner.storage import OutputFolder


@dataclass(slots=True)
class LongJoin:
    """Rows of steps, joined on the series and the time.

    Attributes:
        out: where the parts are.
        on: the column of the series, and that of the time.
        actuals: what came true.
        series: those that were forecast.
        origins: all origins.
        days: the date of each origin.
        group: the number of each origin's date.
        seen: the forecasts counted so far, by bundle.
        unsteady: parts whose steps are not all equally long, so that nobody knows where a season ago is.
    """

    out: OutputFolder
    on: tuple[str, ...]
    actuals: Actuals
    series: Numbers
    origins: Numbers
    days: Numbers
    group: Index
    stop: Stop
    seen: dict[str, Seen] = field(default_factory=dict)
    unsteady: set[str] = field(default_factory=set)

    @property
    def picture(self) -> Picture:
        return Picture(self.series, self.days)

    @property
    def windows(self) -> int:
        return sum(seen.windows for seen in self.seen.values())

    def read(self, issued: IssuedPart) -> Iterator[Issue]:
        """Yield a part's forecasts, cell by cell.

        Raises:
            InputError: the part is damaged, or was replaced; a step is beyond the horizon.
        """
        names = [issued.column(role) for role in (*self.on, "step", "origin", "prediction")]
        seen = self.seen.setdefault(issued.part.bundle_id, Seen(issued.part.maker.horizon))
        for batch in read_rows(self.out, issued, [*names, *source_of(issued)], self.stop):
            who, when, step, origin, prediction = (batch.column(name) for name in names)
            number = _steps(step, issued)
            place = self.series.of(who, new=False), self.origins.of(origin, new=False)
            values = np.asarray(pc.fill_null(prediction.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False))
            whole = (number >= 0) & (place[0] != ABSENT) & (place[1] != ABSENT)
            window = place[0] * np.int64(len(self.origins)) + place[1]
            fresh, counts = split(np.where(whole, values, np.nan), made_by_model(batch), window, number, seen)
            times = as_int64(plain(when, "the time"))[fresh], as_int64(plain(origin, "the origin"))[fresh]
            yield Issue(
                self._cells(issued, place[0][fresh], place[1][fresh], times, number[fresh], values[fresh]), *counts
            )

    def _cells(
        self,
        issued: IssuedPart,
        series: Index,
        origin: Index,
        times: tuple[Int64, Int64],
        step: Index,
        values: F64,
    ) -> Cells:
        season, length = issued.part.maker.season_length, _step_length(*times, step)
        if season is not None and length is None and len(step):
            self.unsteady.add(issued.name)
        known = None if season is None or length is None else (season, length)
        truth = truth_of(self.actuals, series, *times, step, known)
        return Cells(issued.part, series, self.group[origin], step, values, truth)


def join_long(out: OutputFolder, parts: list[IssuedPart], question: Question, stop: Stop) -> LongJoin:
    """Look which series and origins were forecast, and read what came true of them.

    Raises:
        UsageError: `--on` does not name two columns.
        InputError: columns are missing, of other types, or hold contradictions.
    """
    on = question.on
    if len(on) != 2:
        expected = "the column of the series and that of the time, as in --on unique_id,ds"
        raise UsageError(explain("these forecasts have a row a step", got=f"--on {','.join(on)}", expected=expected))
    check_columns(parts, (*on, "step", "origin"))
    series, times, origins, latest = Numbers(on[0]), Numbers(on[1]), Numbers("origin"), np.iinfo(np.int64).min
    for issued in parts:
        names = [issued.column(role) for role in (*on, "origin")]
        for batch in read_rows(out, issued, names, stop):
            series.of(batch.column(names[0]), new=True)
            origins.of(batch.column(names[2]), new=True)
            moments = plain(batch.column(names[1]), on[1])
            times.of(moments.slice(0, 0), new=True)
            latest = max(latest, int(as_int64(moments).max(initial=latest)))
    _refuse_other_clocks(times, origins)
    actuals = read_actuals(question, parts[0].part, series, times, latest, stop)
    days, group = Numbers("date of origin"), np.zeros(0, np.intp)
    if origins.known is not None:
        group = days.of(day_of(origins.known, _zone(parts[0], "origin")), new=True)
    return LongJoin(out, on, actuals, series, origins, days, group, stop)


def _refuse_other_clocks(times: Numbers, origins: Numbers) -> None:
    if times.known is not None and origins.known is not None and times.known.type != origins.known.type:
        what = f"{times.what} and origin are of two types"
        raise InputError(explain(what, got=origins.known.type, expected=times.known.type))


def _zone(issued: IssuedPart, role: str) -> str | None:
    kind = issued.schema.field(issued.column(role)).type
    return kind.tz if pt.is_timestamp(kind) else None


def _steps(column: pa.Array, issued: IssuedPart) -> Index:
    """Return the horizon steps, 0 is the first; -1 where there is none [N]."""
    number = np.asarray(pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)).astype(np.intp) - 1
    if (number >= issued.part.maker.horizon).any():
        got, expected = int(number.max()) + 1, f"1 to {issued.part.maker.horizon}"
        raise InputError(explain(f"{issued.name} holds a step beyond its horizon", got=got, expected=expected))
    return number


def _step_length(time: Int64, origin: Int64, step: Index) -> int | None:
    """Return how long a step is, in the units of the times; None where they are not all equally long."""
    if not len(step):
        return None
    length = int(time[0] - origin[0]) // int(step[0] + 1)
    return length if length > 0 and np.array_equal(time - origin, length * (step + 1)) else None
