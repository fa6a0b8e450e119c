"""Draw an explanation: error by step of both modes and of the panel, and what the gap consists of at each step."""

import importlib.util
import io
from pathlib import Path
from typing import Any

from runner.errors import OutputError, UsageError, explain
from runner.gap.report import GapReport
from runner.gap.walk import FREE_RUNNING, TEACHER_FORCED
from runner.storage import OutputFolder

FORMATS = (".svg", ".png", ".pdf")
STACKED = {
    "horizon": "#9e9e9e",
    "plug_in": "#e69f00",
    "undertrained": "#56b4e9",
    "exposure_bias": "#d55e00",
    "model": "#009e73",
    "one_step": "#cc79a7",
}
"""Parts from the bottom up, in colours that can be told apart by everybody (Okabe and Ito's)."""


def require_figure(path: Path | None) -> None:
    """Find out before any work whether a figure can be drawn.

    Raises:
        UsageError: matplotlib is not installed, or the name does not say a format.
        OutputError: a folder has that name, or there is none to put it into.
    """
    if path is None:
        return
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            explain("--figure does not fit", got=path.name, expected=f"a name that ends in {' '.join(FORMATS)}")
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(explain("--figure needs matplotlib", remedy="pip install 'freerun[report]'"))
    if path.is_dir() or not path.parent.is_dir():
        got = "a folder" if path.is_dir() else f"no folder {path.parent}"
        raise OutputError(explain(f"cannot write {path}", got=got, expected="a file in a folder that is there"))


def draw(report: GapReport, path: Path) -> None:
    """Write the figure.

    Raises:
        OutputError: it cannot be written; what was there before is untouched.
    """
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    walked = report.recoverable is not None
    figure, axes = plt.subplots(1, 2 if walked else 1, figsize=(12 if walked else 6, 4.5), squeeze=False)
    _draw_losses(report, axes[0, 0])
    if walked:
        _draw_parts(report, axes[0, 1])
    figure.tight_layout()
    drawn, form = io.BytesIO(), path.suffix.lower()
    figure.savefig(drawn, format=form[1:], metadata={"Date": None} if form == ".svg" else None)
    plt.close(figure)
    OutputFolder(path.parent).write(path.name, drawn.getvalue())


def _draw_losses(report: GapReport, axis: Any) -> None:
    steps = [entry.step for entry in report.per_step]
    axis.plot(steps, [entry.teacher_forced for entry in report.per_step], "k--", label=TEACHER_FORCED)
    axis.plot(steps, [entry.free_running for entry in report.per_step], "k-", linewidth=2, label=FREE_RUNNING)
    for entry in report.panel:
        if entry.name not in {TEACHER_FORCED, FREE_RUNNING}:
            axis.plot(steps, entry.per_step, linewidth=0.9, alpha=0.8, label=entry.name)
    if report.recoverable is not None:
        axis.plot(steps, [entry.best for entry in report.per_step], "r:", linewidth=2, label="best of all tried")
    top = max(max(entry.free_running, entry.teacher_forced) for entry in report.per_step)
    axis.set(xlabel="step of the horizon", ylabel="masked MSE", ylim=(0, 1.3 * top or 1), title="Error by step")
    axis.legend(fontsize=8)


def _draw_parts(report: GapReport, axis: Any) -> None:
    steps = [entry.step for entry in report.per_step]
    floor = [0.0] * len(steps)
    ceiling = [0.0] * len(steps)
    tried = [name for name in STACKED if getattr(report.parts, name) is not None]
    for name in tried:
        values = [getattr(entry.parts, name) or 0.0 for entry in report.per_step]
        base = [low if value < 0 else high for value, low, high in zip(values, floor, ceiling, strict=True)]
        axis.bar(steps, values, bottom=base, color=STACKED[name], label=name.replace("_", " "))
        floor = [low + min(value, 0) for value, low in zip(values, floor, strict=True)]
        ceiling = [high + max(value, 0) for value, high in zip(values, ceiling, strict=True)]
    gaps = [entry.free_running - entry.teacher_forced for entry in report.per_step]
    axis.plot(steps, gaps, "k.-", label="free-running less teacher-forced")
    axis.set(xlabel="step of the horizon", ylabel="masked MSE", title="What the gap consists of")
    axis.legend(fontsize=8)
