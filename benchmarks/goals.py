"""The numbers that freerun has set itself, held against what a run found."""

import statistics
from dataclasses import dataclass
from typing import Any

MEMORY_LIMIT = 400e6
SAME = 1.1
RATIOS = (
    ("freerun_fp32", "keras_default", 6.0, "float32 against Keras `predict`, default batch"),
    ("freerun_fp32", "keras_best", 1.8, "float32 against Keras `predict`, its best batch"),
    ("freerun_int8", "keras_default", 8.0, "int8 against Keras `predict`, default batch"),
    ("freerun_int8", "keras_best", 2.3, "int8 against Keras `predict`, its best batch"),
    ("freerun_fp32", "plain", 1.6, "float32 against a plain onnxruntime loop, Parquet to Parquet"),
    ("freerun_fp32", "limit", 0.65, "float32 against the machine's float32 matrix product"),
    ("freerun_int8", "limit", 0.9, "int8 against the machine's float32 matrix product"),
    ("freerun_fp32", "memory_fp32", 0.95, "float32 against the same loop in memory (what I/O costs)"),
    ("freerun_int8", "memory_int8", 0.95, "int8 against the same loop in memory (what I/O costs)"),
)
STARTS = (("score", 1.8, "on 1,000 windows"), ("nothing", 0.6, "with nothing to do"), ("help", 0.2, "`--help`"))
Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """One number to reach; `reached` is None where it was not measured, and `found` says why."""

    what: str
    goal: str
    found: str
    reached: bool | None


def goals(results: Results) -> list[Goal]:
    """Hold every number of the design against the results of a run."""
    ratios = [ratio(results["contestants"], *row) for row in RATIOS]
    return [*ratios, int8(results["int8"]), *memory(results), *starts(results["start"]), demo(results["demo"])]


def ratio(contestants: dict[str, Any], mine: str, theirs: str, least: float, what: str) -> Goal:
    """Compare two contestants round by round; the median of the ratios counts."""
    missing = [contestants[name]["skipped"] for name in (mine, theirs) if contestants[name]["skipped"]]
    if missing:
        return Goal(what, f"at least {least:g}x", f"not measured: {missing[0]}", None)
    found = quotients(contestants[mine]["rates"], contestants[theirs]["rates"])
    text = f"{statistics.median(found):.3f}x ({min(found):.2f} to {max(found):.2f})"
    return Goal(what, f"at least {least:g}x", text, statistics.median(found) >= least)


def quotients(mine: list[float], theirs: list[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(mine, theirs, strict=True)]


def int8(found: dict[str, Any]) -> Goal:
    """Hold the masked MSE of both precisions beside each other, on the same windows."""
    what, goal = "int8: change of the masked MSE", "under 1 %"
    if "skipped" in found:
        return Goal(what, goal, f"not measured: {found['skipped']}", None)
    change = found["int8"] / found["fp32"] - 1
    return Goal(what, goal, f"{change:+.3%}", abs(change) < 0.01)


def memory(results: Results) -> list[Goal]:
    """Hold peaks over the imports beside each other: few windows and many, a usual file and a bomb."""
    points = [point for point in results["curves"]["windows"]["fp32"] if point["peaks"]]
    usual, most = points[1], points[-1]
    bomb = results["memory"]["bomb"]
    return [
        same(f"peak memory over the imports, {usual['x']:,} against {most['x']:,} windows",
             max(usual["peaks"]), max(most["peaks"])),
        same(f"the same for a file of {size(bomb['file'])} that decodes to {size(bomb['decoded'])}",
             bomb["usual_peak"], bomb["peak"]),
    ]  # fmt: skip


def same(what: str, usual: int, most: int) -> Goal:
    """Ask for at most 10 % more, and for less than the limit."""
    text = f"{usual / 1e6:,.0f} and {most / 1e6:,.0f} MB"
    reached = most <= SAME * usual and max(usual, most) < MEMORY_LIMIT
    return Goal(what, f"at most 10 % more, under {MEMORY_LIMIT / 1e6:,.0f} MB", text, reached)


def starts(found: dict[str, list[float]]) -> list[Goal]:
    """Hold the seconds of whole processes against their limits."""
    middle = {name: statistics.median(seconds) for name, seconds in found.items()}
    return [
        Goal(f"start to finish {what}", f"at most {most} s", spread(found[name], "s", 2), middle[name] <= most)
        for name, most, what in STARTS
    ]


def demo(found: dict[str, Any]) -> Goal:
    """Hold the demo's free-running loss against that of the optimal forecast."""
    what, goal = "free-running loss on the demo data against the optimal forecast", "within 10 %"
    if "skipped" in found:
        return Goal(what, goal, f"not measured: {found['skipped']}", None)
    over = found["free_running"] / found["optimal"] - 1
    return Goal(what, goal, f"{over:+.1%} ({found['free_running']:.4f} against {found['optimal']:.4f})", over <= 0.1)


def spread(values: list[float], unit: str = "", digits: int = 0) -> str:
    """Return median and range, such as `1.50 s (1.42 to 1.61)`."""
    middle, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    span = f" ({low} to {high})" if len(values) > 1 else ""
    return f"{middle}{unit and f' {unit}'}{span}"


def size(count: int) -> str:
    """Return a number of bytes as people say it."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= 0.95 * unit:
            return f"{count / unit:.2g} {name}" if count < 100 * unit else f"{count / unit:,.0f} {name}"
    return f"{count} bytes"
