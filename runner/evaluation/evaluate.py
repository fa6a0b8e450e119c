"""The order of an evaluation: footers, actuals, forecasts part by part, sums, report."""

import pyarrow as pa
import pyarrow.parquet as pq

from runner.errors import InputError, UsageError, explain
from runner.evaluation.columns import check_mapping
from runner.evaluation.issued import IssuedPart, find_parts
from runner.evaluation.join import Join
from runner.evaluation.keys import Numbers
from runner.evaluation.long import LongJoin, join_long
from runner.evaluation.question import Question
from runner.evaluation.report import EvaluationReport, Group
from runner.evaluation.tally import KINDS, Sums, Tally, divided
from runner.evaluation.tell import report_of
from runner.evaluation.windows import join_windows
from runner.stop import Stop
from runner.storage import OutputFolder


def evaluate(question: Question, stop: Stop) -> EvaluationReport:
    """Hold the forecasts of an output folder against what came true. The folder is only read.

    Raises:
        UsageError: a column or the file for the series cannot be what it was said to be.
        InputError: forecasts or actuals cannot be read or joined.
        OutputError: the file for the series cannot be written.
    """
    if not question.out.is_dir():
        raise InputError(explain(f"{question.out} is no folder", expected="an --out of freerun score"))
    _refuse_inside(question)
    out, tally = OutputFolder(question.out), Tally()
    parts, foreign = find_parts(out, stop)
    check_mapping(question.columns, question.on, [issued.part for issued in parts])
    join, layout = _join(out, parts, question, stop)
    for issued in parts:
        for issue in join.read(issued):
            tally.add(issue)
    if question.by_series:
        _write_series(question, tally.series, join.picture.series)
    counts = len(parts), len(foreign), join.windows
    return report_of(question, tally, join.picture, counts, layout, _notes(join, foreign))


def _join(out: OutputFolder, parts: list[IssuedPart], question: Question, stop: Stop) -> tuple[Join, str]:
    if parts[0].is_windows:
        return join_windows(out, parts, question, stop), "windows"
    return join_long(out, parts, question, stop), "long"


def _notes(join: Join, foreign: list[str]) -> list[str]:
    notes = []
    if foreign:
        notes.append(f"{len(foreign)} files were left out, for freerun did not write them: {', '.join(foreign[:5])}")
    if isinstance(join, LongJoin) and join.unsteady:
        notes.append(f"no seasonal forecast for {len(join.unsteady)} parts: their steps are not all equally long")
    return notes


def _refuse_inside(question: Question) -> None:
    place = question.by_series
    if place and question.out.resolve() in place.resolve().parents:
        what = "--by-series lies in OUT, which is only read"
        raise UsageError(explain(what, got=place, remedy="give it another folder"))


def _write_series(question: Question, sums: Sums, series: Numbers | None) -> None:
    """Write a row for each series: its counts and its losses."""
    if series is None or question.by_series is None:
        raise UsageError(explain("--by-series needs a series", remedy="name its column first in --on, then the origin"))
    known = pa.array([], pa.string()) if series.known is None else series.known
    fields = [name for name in Group.model_fields if name != "name"]
    columns = {
        "forecast": sums.of("forecast").astype("int64"),
        "known": sums.of("model_known").astype("int64"),
        "masked_mse": divided(sums.of("model_squared"), sums.of("due")),
        "observed_mse": sums.mean(),
        **{f"{kind}_observed_mse": sums.mean(kind) for kind in KINDS[1:]},
    }
    table = pa.table(
        {question.on[0]: known[: len(sums)], **{name: pa.array(columns[name], from_pandas=True) for name in fields}}
    )
    path = question.by_series
    with OutputFolder(path.parent).replacing(path.name) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)
