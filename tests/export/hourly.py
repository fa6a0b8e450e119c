"""Hourly series with holes and a daily cycle, and windows cut from them hour by hour, without our code."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

BEGIN, HOUR = datetime(2026, 3, 1, 5, tzinfo=UTC), timedelta(hours=1)
HOLIDAY = "2026-03-03"
CALENDAR = ("hour_sin", "hour_cos", "holiday")
Row = dict[str, Any]


def make_rows(seed: int, lengths: tuple[int, ...], missing: float = 0.0, begin: datetime = BEGIN) -> list[Row]:
    """Return rows of series of so many hours; some have no target, and a share of them is missing altogether."""
    rng = np.random.default_rng(seed)
    rows = []
    for series, length in enumerate(lengths):
        for step in range(length):
            ds = begin + (step + series) * HOUR
            cycle = 3 * math.sin(2 * math.pi * ds.hour / 24)
            y, x, k = (float(value) for value in np.float32(rng.normal(size=3)))
            edge, gone, null = step in {0, length - 1}, rng.random() < missing, rng.random() < 0.1
            row = {"unique_id": f"s{series}", "ds": ds, "y": float(np.float32(cycle + 0.2 * y)), "x": x, "k": k}
            rows += [row | {"y": row["y"] if edge or not null else None}] if edge or not gone else []
    return rows


def steps_table(rows: list[Row], kind: pa.DataType | None = None) -> pa.Table:
    floats = [(name, pa.float32()) for name in ("y", "x", "k")]
    return pa.Table.from_pylist(
        rows, pa.schema([("unique_id", pa.string()), ("ds", kind or pa.timestamp("us", "UTC")), *floats])
    )


def cut_by_hand(
    rows: list[Row], context: int, horizon: int, stride: int, past: tuple[str, ...], ahead: tuple[str, ...]
) -> pa.Table:
    """Return the windows layout of all whole windows of the series, in their order."""
    windows = []
    for series in dict.fromkeys(row["unique_id"] for row in rows):
        own = {row["ds"]: row for row in rows if row["unique_id"] == series}
        origin = min(own) + (context - 1) * HOUR
        last = max(ds for ds, row in own.items() if row["y"] is not None)
        while origin + horizon * HOUR <= last:
            windows.append(_window(own, origin, (context, horizon), past, ahead))
            origin += stride * HOUR
    numbers, nested = pa.list_(pa.float32()), pa.list_(pa.list_(pa.float32()))
    columns = [("past", nested), ("past_observed", numbers), ("future_known", nested), ("target", numbers)]
    return pa.Table.from_pylist(windows, pa.schema(columns))


def _window(
    own: dict[datetime, Row], origin: datetime, sizes: tuple[int, int], past: tuple[str, ...], ahead: tuple[str, ...]
) -> Row:
    context = [origin + (step + 1 - sizes[0]) * HOUR for step in range(sizes[0])]
    horizon = [origin + (step + 1) * HOUR for step in range(sizes[1])]
    there = [ds in own and own[ds]["y"] is not None for ds in context]
    known = all(ds in own or set(ahead) <= set(CALENDAR) for ds in horizon)
    target = [own[ds]["y"] if ds in own else None for ds in horizon]
    nothing = [None] * len(past)
    return {
        "past": [_values(own, ds, past) if is_there else nothing for ds, is_there in zip(context, there, strict=True)],
        "past_observed": [float(seen) for seen in there],
        "future_known": [_values(own, ds, ahead) for ds in horizon] if known else None,
        "target": target if any(value is not None for value in target) else None,
    }


def _values(own: dict[datetime, Row], ds: datetime, names: tuple[str, ...]) -> list[float]:
    turn = 2 * math.pi * ds.hour / 24
    times = {"hour_sin": math.sin(turn), "hour_cos": math.cos(turn), "holiday": float(str(ds.date()) == HOLIDAY)}
    return [times[name] if name in times else own[ds][name] for name in names]
