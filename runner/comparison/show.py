"""Show a comparison: JSON for scripts; for people the verdict, and both bundles beside the naive forecasts."""

from typing import IO, TYPE_CHECKING

from runner.comparison.report import ComparisonReport

if TYPE_CHECKING:
    from runner.report import Step


def show(report: ComparisonReport, stream: IO[str], *, as_json: bool) -> None:
    """Print a comparison."""
    if as_json:
        stream.write(report.model_dump_json(indent=2) + "\n")
        return
    windows, share = report.windows, "" if report.share is None else f", {report.share:+.2%} of the old one's"
    stream.write(f"{report.verdict}: {report.reason}\n")
    stream.write(f"the new one wins {report.difference:+.6g} of masked MSE{share}\n")
    grouped = f"{windows.blocks:,} blocks of {windows.blocks_are}"
    stream.write(f"over {windows.used:,} of {windows.total:,} windows, in {grouped}\n")
    stream.writelines(f"note: {line}\n" for line in report.differs)
    _print_scores(report, stream)


def _print_scores(report: ComparisonReport, stream: IO[str]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    steps = len(report.old.per_step)
    picked = list(dict.fromkeys([0, steps // 2, steps - 1]))
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("")
    for title in ("masked MSE", "observed MSE", *(f"step {index + 1}" for index in picked)):
        table.add_column(title, justify="right")
    rows: list[tuple[str, float | None, float | None, tuple[Step, ...]]] = [
        (f"{name} {found.bundle_id[:12]}", found.masked_mse, found.observed_mse, found.per_step)
        for name, found in (("old", report.old), ("new", report.new))
    ]
    titles = {"last": "last value", "seasonal": "seasonal naive"}
    rows += [(titles[key], found.masked_mse, found.observed_mse, found.per_step) for key, found in report.naive.items()]
    for name, masked, observed, by_step in rows:
        table.add_row(name, _number(masked), _number(observed), *(_number(by_step[at].observed_mse) for at in picked))
    Console(file=stream, width=100).print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
