"""Show an evaluation: JSON for scripts, a short table for people."""

from collections.abc import Sequence
from typing import IO

from runner.evaluation.report import EvaluationReport, Group

ROWS = 10
"""Dates of origin and series that are shown; the JSON has more."""


def show(report: EvaluationReport, stream: IO[str], *, as_json: bool) -> None:
    """Print an evaluation."""
    if as_json:
        stream.write(report.model_dump_json(indent=2) + "\n")
        return
    cells = report.cells
    left = {"rejected": cells.rejected, "fallback": cells.fallback, "twice": cells.twice}
    beside = ", ".join(f"{count:,} {name}" for name, count in left.items() if count)
    lines = [
        ("parts, windows", f"{report.parts:,}, {report.windows:,}"),
        (
            "forecasts",
            f"{cells.forecast:,}: {cells.known:,} known, {cells.excluded:,} excluded, {cells.pending:,} pending",
        ),
        *([("beside them", beside)] if beside else []),
        ("certified", f"observed MSE {_number(report.certified.observed_mse)}"),
        ("live / certified", _number(report.ratio)),
    ]
    width = max(len(name) for name, _ in lines)
    stream.writelines(f"{name:<{width}}  {text}\n" for name, text in lines)
    if report.observed_mse is not None:
        _print_scores(report, stream)
        _print_groups(
            "bundle", [group.model_copy(update={"name": group.name[:12]}) for group in report.by_bundle], stream
        )
        _print_groups("date of origin", report.by_origin[-ROWS:], stream)
        _print_groups("worst series", report.by_series.worst[:ROWS], stream)


def _print_scores(report: EvaluationReport, stream: IO[str]) -> None:
    steps = report.per_step
    picked = list(dict.fromkeys([0, len(steps) // 2, len(steps) - 1]))
    titles = {"last": "last value", "seasonal": "seasonal naive"}
    rows = [("forecast", report.masked_mse, report.observed_mse, steps)]
    rows += [
        (titles[name], naive.masked_mse, naive.observed_mse, naive.per_step) for name, naive in report.naive.items()
    ]
    cells = [
        (name, _number(masked), _number(observed), *(_number(by_step[index].observed_mse) for index in picked))
        for name, masked, observed, by_step in rows
    ]
    _print_table(["", "masked MSE", "observed MSE", *(f"step {index + 1}" for index in picked)], cells, stream)


def _print_groups(title: str, groups: Sequence[Group], stream: IO[str]) -> None:
    if not groups:
        return
    naive = {"last value": "last_observed_mse", "seasonal naive": "seasonal_observed_mse"}
    shown = {name: key for name, key in naive.items() if any(getattr(group, key) is not None for group in groups)}
    rows = [
        (
            group.name,
            f"{group.known:,} of {group.forecast:,}",
            _number(group.observed_mse),
            *(_number(getattr(group, key)) for key in shown.values()),
        )
        for group in groups
    ]
    _print_table([title, "known", "observed MSE", *shown], rows, stream)


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], stream: IO[str]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    for index, title in enumerate(titles):
        table.add_column(title, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    Console(file=stream, width=100).print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
