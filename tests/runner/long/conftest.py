"""Series of hourly steps with holes in them, and windows cut from them one by one, without our code."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BEGIN = datetime(2026, 3, 28, tzinfo=UTC)
HOUR = timedelta(hours=1)
C, H = 6, 4
Row = dict[str, Any]


def make_rows(
    seed: int, lengths: tuple[int, ...] = (30, 6, 3, 41, 12), ahead: int = H, holes: float = 0.2
) -> list[Row]:
    """Return the rows of series `s0`, `s1`, ...: so many hours each, some missing, and covariates `ahead` of them."""
    rng = np.random.default_rng(seed)
    rows = []
    for series, length in enumerate(lengths):
        for hour in range(length + ahead):
            kept = hour in (0, length - 1) or hour >= length or rng.random() > holes / 2
            known = hour < length and (hour == length - 1 or rng.random() > holes / 2)
            y, x, k = rng.normal(size=3).astype(np.float32)
            row = {"unique_id": f"s{series}", "ds": BEGIN + series * HOUR + hour * HOUR}
            row |= {"y": float(y) if known else None, "x": float(x), "k": float(k)}
            rows += [row] if kept else []
    return rows


def table_of(rows: list[Row], zone: str | None = "UTC") -> pa.Table:
    schema = pa.schema(
        [
            ("unique_id", pa.string()),
            ("ds", pa.timestamp("us", zone)),
            ("y", pa.float32()),
            ("x", pa.float32()),
            ("k", pa.float32()),
        ]
    )
    extra = [pa.field("available_mask", pa.int8())] if rows and "available_mask" in rows[0] else []
    return pa.Table.from_pylist(rows, pa.schema([*schema, *extra]))


def latest_origins(rows: list[Row]) -> list[tuple[str, datetime]]:
    """Return each series' last known hour, in the order of the series."""
    found: dict[str, datetime] = {}
    for row in rows:
        if is_known(row):
            found[row["unique_id"]] = row["ds"]
    return list(found.items())


def is_known(row: Row | None) -> bool:
    return row is not None and row["y"] is not None and row.get("available_mask", 1) == 1


def window_at(rows: list[Row], series: str, origin: datetime) -> Row:
    """Cut one window, step by step, as the windows layout has it."""
    own = {row["ds"]: row for row in rows if row["unique_id"] == series}
    context = [own.get(origin + (step - C + 1) * HOUR) for step in range(C)]
    horizon = [own.get(origin + (step + 1) * HOUR) for step in range(H)]
    return {
        "past": [[row["y"], row["x"]] if row and is_known(row) else [None, None] for row in context],
        "past_observed": [float(is_known(row)) for row in context],
        "future_known": [[row["k"]] for row in horizon if row] if all(horizon) else None,
        "target": [row["y"] if row and is_known(row) else None for row in horizon],
        "series": series,
    }


def window_table(windows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(
        windows,
        pa.schema(
            [
                ("past", pa.list_(pa.list_(pa.float32()))),
                ("past_observed", pa.list_(pa.float32())),
                ("future_known", pa.list_(pa.list_(pa.float32()))),
                ("target", pa.list_(pa.float32())),
                ("series", pa.string()),
            ]
        ),
    )


@dataclass(frozen=True, slots=True)
class Long:
    """What the tests of the long layout share."""

    make_rows: Callable[..., list[Row]] = make_rows
    table_of: Callable[..., pa.Table] = table_of
    latest_origins: Callable[..., list[tuple[str, datetime]]] = latest_origins
    window_at: Callable[..., Row] = window_at
    window_table: Callable[..., pa.Table] = window_table
    begin: datetime = BEGIN
    hour: timedelta = HOUR


@pytest.fixture(scope="session")
def long() -> Long:
    return Long()


@pytest.fixture
def score_rows(within, tiny_bundle, tmp_path) -> Callable[..., Any]:
    """Return what scores rows in long layout and gives the report and the part; `bundle` and flags may be given."""
    from runner.cli import cli  # noqa: PLC0415

    def score(rows: list[Row] | pa.Table, *flags: object, bundle: Path = tiny_bundle, code: int = 0, **writing: Any):
        folder = tmp_path / f"case{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        table = rows if isinstance(rows, pa.Table) else table_of(rows)
        pq.write_table(table, folder / "in.parquet", **writing)
        freq = [] if "--freq" in flags else ["--freq", "h"]
        done = within(
            cli, "score", bundle, folder / "in.parquet", "--out", folder / "out", "--layout", "long", *freq, "--json",
            "--max-reject-rate", 1, *flags,
        )  # fmt: skip
        assert done.code == code, done.err
        part = folder / "out" / "in.parquet"
        return done.json(), pq.read_table(part) if part.exists() else None

    return score
