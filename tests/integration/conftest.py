"""ETTh1 as seven hourly series: the whole table in numpy, and rows of it in long layout."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

DATA = os.environ.get("FREERUN_TEST_DATA")
ETTH1 = (Path(DATA) if DATA else Path(__file__).parents[2].parent / "shared" / "data") / "ETTh1.csv"
DAY = 24


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
