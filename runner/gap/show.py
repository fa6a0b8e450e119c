"""Show an explanation: JSON for scripts; for people the verdict, what the gap consists of, and the panel."""

import math
import textwrap
from pathlib import Path
from typing import IO

from runner.gap.figure import draw
from runner.gap.report import GapReport, Panellist

TITLES = {
    "metric": "metric: what was averaged otherwise",
    "wiring": "wiring: what the exported step does otherwise",
    "horizon": "horizon: what the true values inside it tell",
    "plug_in": "plug-in bias: a point forecast fed back",
    "undertrained": "too few epochs: more of the same training",
    "exposure_bias": "exposure bias: trained on its own predictions",
    "model": "model: another kind of forecast does better",
    "one_step": "one-step: where a forecast beats the teacher-forced",
    "unattributed": "not divided: the wiring is at fault",
}

WIDTH = 100
"""Characters in a line of the verdict."""
DIGITS = 5
"""Significant digits of the free-running loss; all losses have as many decimals."""


def show(report: GapReport, figure: Path | None, stream: IO[str], *, as_json: bool) -> None:
    """Draw the figure, if one is wanted, and print the explanation.

    Raises:
        OutputError: the figure cannot be written.
    """
    if figure:
        draw(report, figure)
    if as_json:
        stream.write(report.model_dump_json(indent=2) + "\n")
    else:
        _print(report, stream)


def paragraph(statement: str) -> str:
    """Return a statement in lines that a terminal need not break; all but the first are indented."""
    return textwrap.fill(statement, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _print(report: GapReport, stream: IO[str]) -> None:
    for line in [*report.verdict.splitlines(), *(f"Note: {note}." for note in report.notes)]:
        stream.write(paragraph(line) + "\n")
    decimals = _decimals(report.free_running)
    _print_parts(report, decimals, stream)
    if report.panel:
        _print_panel(report.panel, decimals, stream)


def _print_parts(report: GapReport, decimals: int, stream: IO[str]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("")
    for title in ("masked MSE", "of free-running", "95% between"):
        table.add_column(title, justify="right")
    start = "the loss that training reported" if report.reported else "the training model, teacher-forced"
    table.add_row(start, _number(report.teacher_forced, decimals), "", "")
    for name, title in TITLES.items():
        value, share = getattr(report.parts, name), getattr(report.shares, name)
        if value is not None:
            bounds = _bounds(report.intervals.get(name), decimals)
            table.add_row(f"  + {title}", _signed(value, decimals), _percent(share), bounds)
    table.add_row("free-running: what production gets", _number(report.free_running, decimals), "100.0%", "")
    if report.recoverable is not None:
        share = report.recoverable / report.free_running if report.free_running else None
        bounds = _bounds(report.intervals.get("recoverable"), decimals)
        table.add_row("recoverable by what was tried", _signed(report.recoverable, decimals), _percent(share), bounds)
    Console(file=stream, width=120).print(table)


def _print_panel(panel: tuple[Panellist, ...], decimals: int, stream: IO[str]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    steps = len(panel[0].per_step)
    picked = list(dict.fromkeys([0, steps // 2, steps - 1]))
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("forecast")
    for title in ("masked MSE", "below free-running", "95% between", *(f"at step {index + 1}" for index in picked)):
        table.add_column(title, justify="right")
    for entry in panel:
        cells = (_number(entry.per_step[index], decimals) for index in picked)
        wins, bounds = _signed(entry.better_by, decimals), _bounds(entry.interval, decimals)
        table.add_row(entry.name, _number(entry.masked_mse, decimals), wins, bounds, *cells)
    Console(file=stream, width=120).print(table)


def _decimals(loss: float) -> int:
    """Return how many decimals show enough of a loss."""
    return max(0, DIGITS - 1 - math.floor(math.log10(loss))) if loss > 0 else DIGITS


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _signed(value: float, decimals: int) -> str:
    return f"{value:+z.{decimals}f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:z.1%}"


def _bounds(bounds: tuple[float, float] | None, decimals: int) -> str:
    return "" if bounds is None else f"{_signed(bounds[0], decimals)} and {_signed(bounds[1], decimals)}"
