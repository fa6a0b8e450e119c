"""How speed and memory change: along the number of windows, horizon, units, files and workers."""

from collections.abc import Callable
from dataclasses import replace

from data import Store
from processes import Bench, Run
from sizes import Plan, Point, Shape

Curve = dict[str, list[dict[str, object]]]
"""By precision, the points in order: `x`, `rates` (windows a second), `peaks` (bytes over the imports)."""
MOST_WINDOWS = 100_000
BATCH = 512
LONG_ROUNDS = 1
MANY_WINDOWS = 500_000
MANY_FILES = 1_000


def curves(plan: Plan, precision: str) -> dict[str, dict[int, Point]]:
    """Return the curves of a precision by name: the points by their place along the curve."""
    base = replace(at(plan, plan.shape), precision=precision)
    horizons = {h: at(plan, replace(plan.shape, horizon=h)) for h in plan.curve_horizons}
    units = {u: at(plan, replace(plan.shape, units=u)) for u in plan.curve_units}
    spread = replace(base, windows=plan.file_windows)
    float32 = precision == "fp32"  # how many windows and files there are matters little to the arithmetic
    return {
        "windows": {n: lasting(replace(base, windows=n)) for n in plan.curve_windows if float32 or few(n)},
        "horizon": {h: replace(point, precision=precision) for h, point in horizons.items()},
        "units": {u: replace(point, precision=precision) for u, point in units.items()},
        "files": {n: lasting(replace(spread, files=n)) for n in plan.curve_files if float32},
        "workers": {n: replace(base, workers=n) for n in sorted({1, base.workers})},
    }


def at(plan: Plan, shape: Shape) -> Point:
    """Return a point at a shape, with as many windows as take about as long as the base's."""
    windows = min(MOST_WINDOWS, plan.base_windows * plan.shape.flop // shape.flop)
    return Point(shape, max(BATCH, windows // BATCH * BATCH), rounds=plan.curve_rounds)


def few(windows: int) -> bool:
    """Say whether so many windows take seconds rather than minutes."""
    return windows < MANY_WINDOWS


def lasting(point: Point) -> Point:
    """Give a point that takes minutes a single round."""
    return point if few(point.windows) and point.files < MANY_FILES else replace(point, rounds=LONG_ROUNDS)


def measure(plan: Plan, store: Store, bench: Bench, say: Callable[[str], None]) -> dict[str, Curve]:
    """Measure every point, taking turns; a point that lies on several curves is measured once.

    Returns:
        The curves by name; a point that did not finish in time has no rates.
    """
    wanted = {precision: curves(plan, precision) for precision in store.precisions}
    points = [point for found in wanted.values() for curve in found.values() for point in curve.values()]
    runs: dict[Point, list[Run]] = {point: [] for point in points if not store.missing(point.shape, point.precision)}
    for turn in range(max(point.rounds for point in runs)):
        for point in [point for point in runs if turn < point.rounds]:
            source = store.windows(point.shape, point.windows, point.files)
            run = bench.score(store.bundle(point.shape), source, point, plan.file_seconds if point.files > 1 else None)
            runs[point] += [run] if run else []
            say(f"  {told(point)}: {f'{run.rate:,.0f} windows/s, {run.peak / 1e6:,.0f} MB' if run else 'stopped'}")
    return {
        name: {precision: entries(found[name], runs) for precision, found in wanted.items() if found[name]}
        for name in wanted["fp32"]
    }


def entries(points: dict[int, Point], runs: dict[Point, list[Run]]) -> list[dict[str, object]]:
    """Return a curve's points with what was measured."""
    return [
        {
            "x": x,
            "windows": point.windows,
            "rates": [run.rate for run in runs[point]],
            "peaks": [run.peak for run in runs[point]],
        }
        for x, point in points.items()
        if point in runs
    ]


def told(point: Point) -> str:
    """Describe a point in a line of the log."""
    shape = f"H {point.shape.horizon}, {point.shape.units} units"
    return f"{shape}, {point.windows:,} windows, {point.files:,} files, {point.workers} workers, {point.precision}"
