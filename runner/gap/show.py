"""Show an explanation: JSON for scripts; for people the verdict, what the gap consists of, and the panel."""

from pathlib import Path
from typing import IO

from runner.gap.figure import draw
from runner.gap.report import GapReport, Panellist

TITLES = {
    "metric": "metric: what was averaged otherwise",
    "wiring": "wiring: what the exported step does otherwise",
    "horizon": "horizon: what the true values inside it tell",
    "plug_in": "plug-in bias: a point forecast fed back",
    "undertrained": "too few epochs",
    "exposure_bias": "exposure bias",
    "model": "model: another kind of forecast does better",
    "one_step": "one-step: where the teacher's input does not help",
    "unattributed": "unattributed",
}


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


def _print(report: GapReport, stream: IO[str]) -> None:
    stream.write(report.verdict + "\n")
    stream.writelines(f"Note: {note}.\n" for note in report.notes)
    _print_parts(report, stream)
    if report.panel:
        _print_panel(report.panel, stream)


def _print_parts(report: GapReport, stream: IO[str]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("")
    for title in ("masked MSE", "of free-running", "95 % between"):
        table.add_column(title, justify="right")
    table.add_row("the loss that training reported", _number(report.teacher_forced), "", "")
    for name, title in TITLES.items():
        value, share = getattr(report.parts, name), getattr(report.shares, name)
        if value is not None:
            table.add_row(f"  + {title}", _signed(value), _percent(share), _bounds(report.intervals.get(name)))
    table.add_row("free-running: what production gets", _number(report.free_running), "100.0%", "")
    if report.recoverable is not None:
        share = report.recoverable / report.free_running if report.free_running else None
        bounds = _bounds(report.intervals.get("recoverable"))
        table.add_row("recoverable by what was tried", _signed(report.recoverable), _percent(share), bounds)
    Console(file=stream, width=120).print(table)


def _print_panel(panel: tuple[Panellist, ...], stream: IO[str]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    steps = len(panel[0].per_step)
    picked = list(dict.fromkeys([0, steps // 2, steps - 1]))
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("forecast")
    for title in ("masked MSE", "better by", "95 % between", *(f"step {index + 1}" for index in picked)):
        table.add_column(title, justify="right")
    for entry in panel:
        cells = (_number(entry.per_step[index]) for index in picked)
        table.add_row(entry.name, _number(entry.masked_mse), _signed(entry.better_by), _bounds(entry.interval), *cells)
    Console(file=stream, width=120).print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _signed(value: float) -> str:
    return f"{value:+.4g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _bounds(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:+.4g} and {bounds[1]:+.4g}"
