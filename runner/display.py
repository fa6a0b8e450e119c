"""Words and tables for people; whatever a script reads is JSON, Parquet or an exit code."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from runner.errors import ExitCode, FreerunError

if TYPE_CHECKING:
    from runner.audit import GraphFacts
    from runner.bundle import Bundle
    from runner.features import Static
    from runner.manifest import Loss, Start
    from runner.precision import Precision
    from runner.report import Report, Step, Summary
    from runner.tune import Bench


def print_report(report: "Report", stream: IO[str]) -> None:
    """Print the short table: rows, rejects, both scores, three horizon steps, the naive forecast, the rate."""
    shown = report.this_run if report.this_run.parts or not report.total.parts else report.total
    lines = [
        ("status", report.status if report.status != "done" or report.this_run.parts else "nothing new to do"),
        ("mode, device, precision", f"{report.mode}, {report.device}, {report.precision}"),
        (
            "parts",
            f"{report.this_run.parts} in this run, {report.already_done} there before, {report.total.parts} in all",
        ),
        ("rows", f"{shown.rows.read:,} ({shown.rows.rejected:,} rejected)"),
        *((f"  {reason}", f"{count:,}") for reason, count in shown.rejects.items()),
    ]
    if report.history:
        lines.append(("history", f"{report.history} parts of other bundles or options, kept and not counted"))
    if report.this_run.parts and report.total.parts > report.this_run.parts:
        lines.append(("scores", "of this run; the report has those of all parts too"))
    if report.status == "dry-run":
        lines[2:] = [("parts", f"{report.to_do} to do, {report.already_done} there")]
    if report.windows_per_second:
        lines.append(("windows a second", f"{report.windows_per_second:,.0f}"))
    _print_pairs(lines, stream)
    if shown.masked_mse is not None:
        _print_scores(shown, stream)


def print_bench(found: Mapping["Precision", "Bench"], stream: IO[str]) -> None:
    """Print the rate of each trial, the chosen one of each precision marked."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    for title in ("precision", "batch size", "threads", "windows a second", ""):
        table.add_column(title, justify="left" if title in {"precision", ""} else "right")
    for precision, bench in found.items():
        mark = "kept for freerun score" if bench.kept else "best, but the cache folder cannot be written"
        for trial in bench.trials:
            numbers = (str(trial.batch_size), str(trial.workers), f"{trial.windows_per_second:,.0f}")
            table.add_row(precision, *numbers, mark if trial == bench.chosen else "")
    Console(file=stream, width=100).print(table)


def bench_as_json(bundle: "Bundle", device: object, found: Mapping["Precision", "Bench"]) -> str:
    """Write the trials as JSON."""
    benches = {precision: asdict(bench) for precision, bench in found.items()}
    told = {"bundle_id": bundle.manifest.bundle_id, "device": str(device), "precisions": benches}
    return json.dumps(told, indent=2) + "\n"


def print_inspection(bundle: "Bundle", audit: dict[str, "GraphFacts"], stream: IO[str]) -> None:
    """Print what a bundle is, for somebody who found it on a disk."""
    manifest = bundle.manifest
    free, forced, forms = manifest.certified.free_running, manifest.certified.teacher_forced, manifest.precisions
    _print_pairs(
        [
            ("name", manifest.name),
            ("bundle id", manifest.bundle_id),
            ("export id", manifest.export_id),
            ("created", manifest.created_at),
            ("context, horizon", f"{manifest.context_length}, {manifest.horizon}"),
            ("past", ", ".join(manifest.features.past) + (" (with past_observed)" if manifest.past_observed else "")),
            *([("static", _static(manifest.static))] if manifest.static else []),
            ("future known", ", ".join(manifest.features.future_known) or "none"),
            ("target", ", ".join(f"{target.name} (deviation {target.scale:.6g})" for target in manifest.targets)),
            ("start value", _start(manifest.start)),
            ("scaling", manifest.scaling),
            ("states", ", ".join(f"{state.step_input}[{state.width}]" for state in manifest.states)),
            ("memory", ", ".join(memory.step_input for memory in manifest.memory) or "none"),
            ("certified on", f"{manifest.certified.windows:,} windows"),
            ("  teacher-forced", _losses(forced)),
            ("  free-running", _losses(free)),
            *((f"  free-running, {key}", _losses(form.certified.free_running)) for key, form in forms.items()),
            ("opset, producers", f"{manifest.opset}, " + ", ".join(f"{k} {v}" for k, v in manifest.producers.items())),
            ("precisions", ", ".join(manifest.held())),
            *((f"{graph} operators", _counts(facts.operators)) for graph, facts in audit.items()),
        ],
        stream,
    )


@contextmanager
def progress_bar(stream: IO[str], *, wanted: bool) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar with the time left on a terminal; elsewhere, or when not wanted, draw nothing."""
    if not (wanted and stream.isatty()):
        yield lambda _rows, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("windows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("windows", total=None)

        def advance(rows: int, total: int) -> None:
            bar.update(task, advance=rows, total=total)

        yield advance


def _print_pairs(pairs: list[tuple[str, str]], stream: IO[str]) -> None:
    width = max(len(name) for name, _ in pairs)
    stream.writelines(f"{name:<{width}}  {text}\n" for name, text in pairs)


def _print_scores(shown: "Summary", stream: IO[str]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    steps = shown.per_step
    picked = list(dict.fromkeys([0, len(steps) // 2, len(steps) - 1]))
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("")
    for title in ["masked MSE", "observed MSE", *(f"step {steps[index].step}" for index in picked)]:
        table.add_column(title, justify="right")
    for name, masked, observed, by_step in _rows(shown):
        cells = [_number(by_step[index].observed_mse) for index in picked]
        table.add_row(name, _number(masked), _number(observed), *cells)
    Console(file=stream, width=100).print(table)


def _rows(shown: "Summary") -> list[tuple[str, float | None, float | None, tuple["Step", ...]]]:
    titles = {"last": "last value", "seasonal": "seasonal naive"}
    return [
        ("forecast", shown.masked_mse, shown.observed_mse, shown.per_step),
        *((titles[name], naive.masked_mse, naive.observed_mse, naive.per_step) for name, naive in shown.naive.items()),
        *(
            (f"forecast of {name}", of.masked_mse, of.observed_mse, of.per_step)
            for name, of in shown.per_target.items()
        ),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _start(start: "Start") -> str:
    values = start.value if isinstance(start.value, tuple) else (start.value,)
    return start.kind if start.value is None else ", ".join(f"{value:g}" for value in values)


def _static(static: "Static") -> str:
    words = (f"{entry.name} ({len(entry.values)} words, others: {entry.unknown})" for entry in static.categories)
    return ", ".join([*static.numbers, *words])


def _losses(loss: "Loss") -> str:
    return f"masked MSE {_number(loss.masked_mse)}, observed MSE {_number(loss.observed_mse)}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def refusal_as_json(error: Exception) -> str:
    """Write what there is to say about a run that was refused before it could touch anything."""
    code = error.exit_code if isinstance(error, FreerunError) else ExitCode.BUG
    told = {"schema_version": 1, "status": "failed", "exit_code": int(code), "error": str(error)}
    return json.dumps(told, indent=2) + "\n"


def as_json(value: Any) -> str:
    """Write a pydantic value as the JSON that goes to stdout."""
    return str(value.model_dump_json(indent=2)) + "\n"
