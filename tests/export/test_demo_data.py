import itertools

import numpy as np
import pyarrow.parquet as pq
import pytest

from export.demo_data import INNOVATION_VARIANCE, PHI, SPOILED, draw, write_demo
from export.windows import open_windows


@pytest.fixture(scope="module")
def windows():
    return draw(40_000, np.random.default_rng(7))


def masked_mse(windows, forecast):
    error = np.where(windows.mask, 0.0, forecast.astype(np.float64) - windows.target)
    return float((error**2).sum() / error.size)


def test_the_optimal_teacher_forced_loss_is_the_promised_one(windows):
    assert masked_mse(windows, windows.optimal_teacher_forced) == pytest.approx(0.045, rel=0.02)


def test_the_optimal_free_running_loss_is_what_twelve_innovations_add_up_to(windows):
    variances = INNOVATION_VARIANCE * (1 - PHI ** (2 * np.arange(1, 13))) / (1 - PHI**2)
    assert masked_mse(windows, windows.optimal) == pytest.approx(0.85 * variances.mean(), rel=0.03)
    assert masked_mse(windows, windows.optimal) == pytest.approx(0.16, abs=0.006)


def test_no_shift_or_shrinkage_of_the_optimal_forecast_does_better(windows):
    best = masked_mse(windows, windows.optimal)
    assert all(masked_mse(windows, windows.optimal * factor) > best for factor in (0.97, 1.03))
    assert all(masked_mse(windows, windows.optimal + shift) > best for shift in (-0.02, 0.02))


def test_masked_targets_are_spoiled_and_teacher_inputs_are_not(windows):
    assert (windows.target[windows.mask] == SPOILED).all()
    assert windows.mask.mean() == pytest.approx(0.15, abs=0.005)
    assert (windows.decoder_input[:, 0] == -1).all()
    unmasked = ~windows.mask[:, :-1]
    np.testing.assert_array_equal(windows.decoder_input[:, 1:][unmasked], windows.target[:, :-1][unmasked])
    assert np.abs(windows.decoder_input).max() < 10


def test_missing_context_steps_are_nan_and_flagged(windows):
    assert (~windows.past_observed).mean() == pytest.approx(0.02, abs=0.002)
    assert np.isnan(windows.past[~windows.past_observed]).all()
    assert np.isfinite(windows.past[windows.past_observed]).all()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_demo(tmp_path / folder, 40, 20, seed)
    read = {folder: (tmp_path / folder / "train/part-0.parquet").read_bytes() for folder in "abc"}
    assert read["a"] == read["b"] != read["c"]


def test_rows_are_spread_over_files_and_row_groups_and_none_is_a_reject(demo):
    opened = open_windows(str(demo / "train"))
    assert len(opened.layouts) == 4
    assert len(opened.groups) > len(opened.layouts)
    assert sum(len(block) for block in opened.blocks()) == 300
    assert all(len(block.good_rows()) == len(block) for block in opened.blocks())
    ids = [
        pq.read_table(demo / "train" / path, columns=["window_id"])["window_id"].to_pylist() for path in opened.layouts
    ]
    assert list(itertools.chain(*ids)) == list(range(300))
