"""A backtest on real series: windows cut by the runner and by numpy, and what is evaluated afterwards."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.cli import cli

C, H = 6, 4
TEST = 16 * 30 * 24
HOURS = 4 * 30 * 24
"""The usual test split, all windows of stride 1."""


def score(within, bundle, data, out, *flags):
    done = within(cli, "score", bundle, data, "--out", out, "--json", *flags)
    assert done.code == 0, done.err
    return done.json()["total"], pq.read_table(out / data.name)


@pytest.fixture(params=[0.0, 0.02], ids=["whole", "with holes"])
def backtest(request, within, tiny, tiny_bundle, etth1, tmp_path):
    """Return the series, both reports, and both parts of the same windows: cut by the runner, and cut by numpy."""
    holes = np.random.default_rng(5).random(etth1.y.shape) < request.param
    holes[-1] = False
    series = replace(etth1, y=np.where(holes, np.float32(np.nan), etth1.y))
    last = TEST + HOURS - 1
    rows = series.rows(0, last + 1, last + 1)
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), tmp_path / "series.parquet", row_group_size=10_000)
    origins = np.arange(TEST - 1, last - H + 1)
    columns = {name: tiny.nested(values) for name, values in series.windows(origins, C, H).items()}
    pq.write_table(pa.table(columns), tmp_path / "windows.parquet")
    flags = "--layout", "long", "--freq", "h", "--window", "rolling", "--from", series.times[TEST - 1]
    mine = score(within, tiny_bundle, tmp_path / "series.parquet", tmp_path / "mine", *flags)
    theirs = score(within, tiny_bundle, tmp_path / "windows.parquet", tmp_path / "theirs")
    return series, mine, theirs, tmp_path


def test_etth1_melted_is_forecast_bit_for_bit_as_its_windows_and_scores_the_same_digits(backtest):
    series, (mine, part), (theirs, expected), _ = backtest
    windows = len(series.names) * (HOURS - H + 1)
    assert mine["rows"] == theirs["rows"] == {"read": windows, "scored": windows, "rejected": 0}
    forecasts = part["prediction"].to_numpy().reshape(windows, H)
    assert np.array_equal(forecasts, expected["prediction"].combine_chunks().flatten().to_numpy().reshape(windows, H))
    for key in ("masked_mse", "observed_mse", "per_step", "naive"):
        assert mine[key] == theirs[key]  # no digit differs
    assert mine["masked_mse"] > 0


def test_etth1_evaluated_against_its_own_rows_scores_what_the_run_said(backtest, within):
    series, (run, _), _, folder = backtest
    asked = folder / "mine", "--actuals", folder / "series.parquet", "--on", "unique_id,ds", "--json"
    done = within(cli, "evaluate", *asked)
    assert done.code == 0, done.err
    found = done.json()
    assert found["cells"]["forecast"] == run["rows"]["scored"] * H
    assert (found["cells"]["pending"], found["cells"]["twice"], found["cells"]["rejected"]) == (0, 0, 0)
    whole = not np.isnan(series.y).any()
    assert (found["cells"]["excluded"] == 0) == whole
    kinds = ["last", *(["seasonal"] if whole else [])]  # it looks further back than a context, where that has a hole
    pairs = [(found, run), *((found["naive"][kind], run["naive"][kind]) for kind in kinds)]
    for mine, theirs in pairs:
        assert mine["masked_mse"] == pytest.approx(theirs["masked_mse"], rel=1e-9)
        assert mine["observed_mse"] == pytest.approx(theirs["observed_mse"], rel=1e-9)
        for step, other in zip(mine["per_step"], theirs["per_step"], strict=True):
            assert step == pytest.approx(other, rel=1e-9, abs=1e-12)
