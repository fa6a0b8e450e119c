"""Read what came true, a row a time step: those series that were forecast, up to the last step forecast."""

import numpy as np
import pyarrow as pa

from runner.errors import InputError, explain
from runner.evaluation.actuals import Actuals, Told, sort_out
from runner.evaluation.columns import ROLES, ActualColumns, batches_of, excluded_by, match_actuals, measured
from runner.evaluation.keys import ABSENT, Numbers, as_int64, plain
from runner.evaluation.question import Question
from runner.parts import Part
from runner.stop import Stop


def read_actuals(question: Question, part: Part, series: Numbers, times: Numbers, latest: int, stop: Stop) -> Actuals:
    """Read what came true of the series that were forecast.

    Args:
        question: where the actuals are; the key columns are the series, and the time.
        part: one of the forecasts. As in scoring, the target may have its own name.
        series: those that were forecast.
        times: knows the type of the forecasts' times.
        latest: the last step that was forecast; later rows are left out.
        stop: ends the reading.

    Raises:
        InputError: no files, columns that do not fit, damaged files, or two values for one step.
    """
    dataset, pieces = question.dataset(), []
    roles = {**ROLES, "target": (*ROLES["target"], part.maker.target)}
    for path in dataset.paths():
        with dataset.open(path) as file:
            found = match_actuals(file.schema_arrow, path, question.on, question.columns, part, roles)
            for batch in batches_of(file, found, path, stop):
                rows = _rows(batch, found, path, series, times)
                kept = (rows.series != ABSENT) & (rows.time <= latest) & (rows.time != np.iinfo(np.int64).min)
                pieces.append(Told(rows.series[kept], rows.time[kept], rows.target[kept], rows.firm[kept]))
    if not pieces and not dataset.paths():
        raise InputError(explain("the actuals have no Parquet files", got=dataset.root, expected="*.parquet"))
    return sort_out(pieces, lambda who, when: _named(series, times, who, when))


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


def _named(series: Numbers, times: Numbers, who: int, when: int) -> str:
    moment = pa.array([when]) if times.known is None else pa.array([when]).cast(times.known.type)
    return f"{series.value(who)} at {moment[0]}"
