"""Forecasts of which a row is a window: `prediction` is a list, and the actuals are windows too.

A window is taken for a series, and a step of it for a time, so that one join serves both layouts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from runner.batch import F64, Index
from runner.columns import read_cells, type_problem
from runner.errors import InputError, UsageError, explain
from runner.evaluation.actuals import Actuals, Told, sort_out
from runner.evaluation.cells import Cells, Truth
from runner.evaluation.columns import ActualColumns, batches_of, excluded_by, match_actuals, measured
from runner.evaluation.issued import CELLS_AT_ONCE, IssuedPart, check_columns, read_rows
from runner.evaluation.join import Issue, Picture, made_by_model, source_of, split
from runner.evaluation.keys import ABSENT, Int64, Numbers, day_of, plain
from runner.evaluation.question import Question
from runner.evaluation.seen import Seen
from runner.stop import Stop
from runner.storage import OutputFolder

PLACES = 1 << 31
"""Numbers of one key column, when two of them are made one."""


@dataclass(slots=True)
class Keys:
    """Numbers for windows that have one key column, or two.

    Attributes:
        columns: numbers of each column's values.
        windows: numbers of what the columns say together.
    """

    columns: tuple[Numbers, ...]
    windows: Numbers = field(default_factory=lambda: Numbers("windows"))

    def of(self, arrays: list[pa.Array], *, new: bool) -> Index:
        """Return the number of each window [N]; ABSENT where a key is null or, unless `new`, not seen before."""
        found, whole = np.zeros(len(arrays[0]), np.int64), np.ones(len(arrays[0]), bool)
        for column, array in zip(self.columns, arrays, strict=True):
            number = column.of(array, new=new)
            whole &= number != ABSENT
            found = found * PLACES + number
        return self.windows.of(pa.array(found, mask=~whole), new=new)

    def name(self, window: int) -> str:
        """Say in words which window has a number."""
        packed = int(str(self.windows.value(window)))
        numbers = divmod(packed, PLACES) if len(self.columns) > 1 else (packed,)
        return ", ".join(str(column.value(number)) for column, number in zip(self.columns, numbers, strict=True))


@dataclass(slots=True)
class WindowsJoin:
    """Rows of windows, joined on their keys.

    Attributes:
        out: where the parts are.
        on: the key columns; of several, the first is the series, the second the origin.
        actuals: what came true; a window is a series there, and a step a time.
        keys: of the windows that were forecast.
        days: the dates of the second key; None where there is but one.
        seen: the forecasts counted so far, by bundle.
    """

    out: OutputFolder
    on: tuple[str, ...]
    actuals: Actuals
    keys: Keys
    days: Numbers | None
    stop: Stop
    seen: dict[str, Seen] = field(default_factory=dict)

    @property
    def picture(self) -> Picture:
        return Picture(self.keys.columns[0] if len(self.on) > 1 else None, self.days)

    @property
    def windows(self) -> int:
        return sum(seen.windows for seen in self.seen.values())

    def read(self, issued: IssuedPart) -> Iterator[Issue]:
        """Yield a part's forecasts, cell by cell.

        Raises:
            InputError: the part is damaged, or was replaced.
        """
        names, horizon = [issued.column(role) for role in self.on], issued.part.maker.horizon
        seen = self.seen.setdefault(issued.part.bundle_id, Seen(horizon))
        columns = [*names, "prediction", *source_of(issued)]
        for batch in read_rows(self.out, issued, columns, self.stop, max(1, CELLS_AT_ONCE // horizon)):
            arrays = [batch.column(name) for name in names]
            window = np.repeat(self.keys.of(arrays, new=False), horizon)
            step = np.tile(np.arange(horizon, dtype=np.intp), batch.num_rows)
            values = _predictions(batch.column("prediction"), issued)
            model = np.repeat(made_by_model(batch), horizon)
            fresh, counts = split(np.where(window == ABSENT, np.nan, values), model, window, step, seen)
            truth = Truth(*self.actuals.at(window[fresh], step[fresh].astype(np.int64)), None, None)
            series, group = (
                None if found is None else np.repeat(found, horizon)[fresh] for found in self._groups(arrays)
            )
            yield Issue(Cells(issued.part, series, group, step[fresh], values[fresh], truth), *counts)

    def _groups(self, arrays: list[pa.Array]) -> tuple[Index | None, Index | None]:
        if self.days is None:
            return None, None
        zone = getattr(arrays[1].type, "tz", None)
        return self.keys.columns[0].of(arrays[0], new=False), self.days.of(_day(arrays[1], zone), new=True)


def join_windows(out: OutputFolder, parts: list[IssuedPart], question: Question, stop: Stop) -> WindowsJoin:
    """Look which windows were forecast, and read what came true of them.

    Raises:
        UsageError: `--on` names more than two columns.
        InputError: columns are missing, of other types, or hold contradictions; or the horizons differ.
    """
    if not 0 < len(question.on) <= 2:
        expected = "the key of a window, or its series and its origin"
        raise UsageError(
            explain("these windows cannot be joined", got=f"--on {','.join(question.on)}", expected=expected)
        )
    check_columns(parts, question.on)
    horizons = {issued.part.maker.horizon for issued in parts}
    if len(horizons) > 1:
        got, remedy = ", ".join(map(str, sorted(horizons))), "evaluate each bundle's parts in an OUT of their own"
        raise InputError(explain("the windows have several horizons", got=got, remedy=remedy))
    keys = Keys(tuple(Numbers(name) for name in question.on))
    for issued in parts:
        names = [issued.column(role) for role in question.on]
        for batch in read_rows(out, issued, names, stop):
            keys.of([batch.column(name) for name in names], new=True)
    actuals = _read_actuals(question, parts[0], keys, horizons.pop(), stop)
    return WindowsJoin(
        out, question.on, actuals, keys, Numbers("date of origin") if len(question.on) > 1 else None, stop
    )


def _read_actuals(question: Question, issued: IssuedPart, keys: Keys, horizon: int, stop: Stop) -> Actuals:
    dataset, rows = question.dataset(), max(1, CELLS_AT_ONCE // horizon)
    pieces: list[Told] = []
    if not (paths := dataset.paths()):
        raise InputError(explain("the actuals have no Parquet files", got=dataset.root, expected="*.parquet"))
    for path in paths:
        with dataset.open(path) as file:
            found = match_actuals(file.schema_arrow, path, question.on, question.columns, issued.part)
            _check_types(file.schema_arrow, path, found, horizon)
            batches = batches_of(file, found, path, stop, rows)
            pieces += [_told(batch, found, path, keys, horizon) for batch in batches]
    return sort_out(pieces, lambda who, step: f"window {keys.name(who)}, step {step + 1}")


def _check_types(schema: pa.Schema, path: str, columns: ActualColumns, horizon: int) -> None:
    for name, flags in ((columns.target, False), (columns.flag, True)):
        problem = None if name is None else type_problem(schema.field(name).type, (horizon,), flags=flags)
        if problem:
            remedy = "actuals of forecasts that are windows are windows: lists of H targets"
            raise InputError(explain(f"{path}: column '{name}': {problem}", remedy=remedy))


def _told(batch: pa.RecordBatch, columns: ActualColumns, path: str, keys: Keys, horizon: int) -> Told:
    window = keys.of([batch.column(name) for name in columns.keys], new=False)
    target = _numbers(batch.column(columns.target), horizon)
    measured(pa.array(target), path, columns.target)
    firm = np.zeros(len(target), bool)
    if columns.flag is not None:
        cells = read_cells(batch.column(columns.flag), (horizon,))
        usable = ~(cells.absent | cells.misfit)
        flag = np.where(usable[:, None], cells.values, 1 if columns.excludes else 0).ravel()
        firm = excluded_by(pa.array(flag.astype(np.float64)), path, excludes=columns.excludes)
        firm &= np.repeat(~batch.column(columns.target).is_null().to_numpy(zero_copy_only=False), horizon)
    kept = np.repeat(window != ABSENT, horizon)
    steps: Int64 = np.tile(np.arange(horizon, dtype=np.int64), batch.num_rows)
    values = np.where(firm, np.nan, target)
    return Told(np.repeat(window, horizon)[kept], steps[kept], values[kept], firm[kept])


def _predictions(column: pa.Array, issued: IssuedPart) -> F64:
    """Return the forecasts, NaN where there is none [rows * H]."""
    horizon = issued.part.maker.horizon
    if read_cells(column, (horizon,)).misfit.any():
        what, remedy = (
            f"{issued.name} holds forecasts of other lengths than its horizon",
            "give OUT of one target alone",
        )
        raise InputError(explain(what, expected=horizon, remedy=remedy))
    return _numbers(column, horizon)


def _numbers(column: pa.Array, horizon: int) -> F64:
    """Return a list column's items in float64, NaN where the row is null or too short [rows * H]."""
    cells = read_cells(column, (horizon,))
    return np.where((cells.absent | cells.misfit)[:, None], np.nan, cells.values.astype(np.float64)).ravel()


def _day(column: pa.Array, zone: str | None) -> pa.Array:
    return day_of(plain(column, "origin"), zone)
