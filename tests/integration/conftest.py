"""ETTh1 as seven hourly series, and the folders of a team that forecasts them every night."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.cli import cli

DATA = os.environ.get("FREERUN_TEST_DATA")
ETTH1 = (Path(DATA) if DATA else Path(__file__).parents[2].parent / "shared" / "data") / "ETTh1.csv"
DAY, H = 24, 4
FIRST = 500 * DAY
"""The first hour that the first night forecasts."""
KEPT = 14 * DAY
"""Hours before it that a snapshot holds."""
CERTIFIED = {"old": 4.0, "new": 0.5}


@dataclass(frozen=True, slots=True)
class Hourly:
    """Standardised series, and two columns beside them for the hand-made bundle.

    Attributes:
        names: of the series [S].
        times: hours without a zone [T].
        y: the series [T, S].
        x: what each series was a day before [T, S].
        k: a covariate that follows from the hour, so it is known ahead [T].
    """

    names: tuple[str, ...]
    times: np.ndarray
    y: np.ndarray
    x: np.ndarray
    k: np.ndarray

    def rows(self, begin: int, known: int, end: int) -> pd.DataFrame:
        """Return the hours from `begin` up to `end`, series after series; from `known` on there is no target yet."""
        hours, count = np.arange(begin, end), len(self.names)
        y = np.where(hours[:, None] < known, self.y[begin:end], np.float32(np.nan))
        return pd.DataFrame(
            {
                "unique_id": np.repeat(self.names, len(hours)),
                "ds": np.tile(self.times[hours], count),
                "y": y.T.ravel(),
                "x": self.x[begin:end].T.ravel(),
                "k": np.tile(self.k[hours], count),
            }
        )

    def windows(self, origins: np.ndarray, context: int, horizon: int) -> dict[str, np.ndarray]:
        """Cut windows after these hours, series after series, as the windows layout has them [S * N, ...]."""
        back, ahead = origins[:, None] + np.arange(1 - context, 1), origins[:, None] + np.arange(1, horizon + 1)
        past = np.stack([self.y[back], self.x[back]], axis=-1)  # [N, C, S, F]
        future = np.broadcast_to(self.k[ahead][:, :, None], (len(origins), horizon, len(self.names)))
        return {
            "past": _by_series(past, 2),
            "past_observed": (~np.isnan(_by_series(self.y[back], 2))).astype(np.uint8),
            "future_known": _by_series(future, 2)[:, :, None],
            "target": _by_series(self.y[ahead], 2),
        }


def _by_series(values: np.ndarray, axis: int) -> np.ndarray:
    """Return windows of all series below one another [S * N, ...], from those side by side along an axis."""
    moved = np.moveaxis(values, axis, 0)
    return moved.reshape(-1, *moved.shape[2:])


@pytest.fixture(scope="session")
def etth1() -> Hourly:
    if not ETTH1.exists():
        pytest.skip("ETTh1.csv is not here; set FREERUN_TEST_DATA to its folder")
    table = pd.read_csv(ETTH1, parse_dates=["date"])
    values = table.drop(columns="date")
    train = values[: 12 * 30 * DAY]
    y = ((values - train.mean()) / train.std(ddof=0)).to_numpy(np.float32)
    x = np.concatenate([np.zeros((DAY, y.shape[1]), np.float32), y[:-DAY]])
    k = np.sin(2 * np.pi * table["date"].dt.hour.to_numpy() / DAY).astype(np.float32)
    return Hourly(tuple(values.columns), table["date"].to_numpy("datetime64[us]"), y, x, k)


@dataclass(slots=True)
class Month:
    """A team's folders, and what it knows.

    Attributes:
        series: the truth.
        within: runs a command.
        certified: the loss of each bundle.
        bundle: the name of the one in use.
        issued: the bytes and the time of each part on the night it was made.
    """

    root: Path
    series: Hourly
    within: Callable[..., Any]
    certified: dict[str, float]
    bundle: str = "old"
    issued: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    flags: tuple[str, ...] = ("--layout", "long", "--freq", "h", "--rescore", "none")

    @property
    def out(self) -> Path:
        return self.root / "out"

    def freerun(self, *words: object) -> Any:
        return self.within(cli, *words)

    def origin(self, night: int) -> int:
        return FIRST + night * DAY - 1

    def known(self, night: int) -> int:
        """Return how many hours are measured on a night: of what was forecast two nights ago the first half."""
        return self.origin(night) + 1 - 46

    def partition(self, night: int) -> str:
        return f"date={np.datetime_as_string(self.series.times[self.origin(night) + 1], 'D')}"

    def snapshot(self, night: int) -> None:
        known = self.origin(night) + 1
        rows = self.series.rows(known - KEPT, known, known + H)
        (folder := self.root / "in" / self.partition(night)).mkdir(parents=True)
        pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), folder / "series.parquet")

    def spoil(self, night: int, name: str) -> None:
        """Let a step of a series stand twice in a night's snapshot."""
        path = self.root / "in" / self.partition(night) / "series.parquet"
        rows = pq.read_table(path, partitioning=None)
        place = rows["unique_id"].to_pylist().index(name) + 5
        pq.write_table(pa.concat_tables([rows[: place + 1], rows[place:]]), path)

    def command(self, night: int, *flags: object) -> list[object]:
        source = "score", self.root / self.bundle, self.root / "in", "--out", self.out
        return [*source, "--only", self.partition(night), *self.flags, *flags]

    def score(self, night: int, *flags: object, code: int = 0) -> dict[str, Any]:
        done = self.freerun(*self.command(night, *flags), "--json")
        assert done.code == code, done.err
        return done.json()

    def success(self, night: int) -> Path:
        return self.out / self.partition(night) / "_SUCCESS"

    def parts(self) -> dict[str, tuple[bytes, int]]:
        paths = sorted(self.out.rglob("*.parquet"))
        return {str(path.relative_to(self.out)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}

    def files(self, night: int) -> dict[str, tuple[bytes, int]]:
        """Return the bytes and the times of all that a night left, but for its report."""
        paths = [path for path in (self.out / self.partition(night)).iterdir() if path.name != "_report.json"]
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}

    def measure(self, night: int) -> pd.DataFrame:
        """Write what is known of the series on a night, some hours of it excluded; return it."""
        known = self.known(night)
        rows = self.series.rows(FIRST - KEPT - DAY, known, known)[["unique_id", "ds", "y"]]
        rows["mask"] = (np.random.default_rng(7).random((7, FIRST)) < 0.05)[:, : len(rows) // 7].astype(int).ravel()
        pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), self.root / "actuals.parquet")
        return rows

    def evaluate(self, *flags: object, code: int = 0) -> dict[str, Any]:
        asked = "evaluate", self.out, "--actuals", self.root / "actuals.parquet", "--on", "unique_id,ds", "--json"
        done = self.freerun(*asked, *flags)
        assert done.code == code, done.err
        return done.json()

    def joined(self, measured: pd.DataFrame) -> pd.DataFrame:
        """Return the forecasts as issued beside what came true and the naive forecast, by pandas alone."""
        tables = [pq.ParquetFile(self.out / name).read().to_pandas() for name in self.parts()]
        issued = pd.concat(tables).astype({"bundle_id": str}).merge(measured, "left", on=["unique_id", "ds"])
        counting = measured[measured["mask"] == 0].sort_values("ds").rename(columns={"ds": "origin", "y": "last"})
        issued = pd.merge_asof(
            issued.sort_values("origin", kind="stable"), counting.drop(columns="mask"), on="origin", by="unique_id"
        )
        return issued.assign(known=issued["y"].notna() & (issued["mask"] == 0))


@pytest.fixture
def month(etth1, tiny, within, tmp_path) -> Month:
    for seed, (name, loss) in enumerate(CERTIFIED.items()):
        losses = {"masked_mse": loss, "observed_mse": loss}
        certified = {"windows": 3, "teacher_forced": losses, "free_running": losses}
        tiny.make_bundle(tmp_path / name, seed=seed, certified=certified)
    return Month(tmp_path, etth1, within, CERTIFIED)
