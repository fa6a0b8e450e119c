"""The walk between the losses: what adds up, and what chooses for whom."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.batch import WindowBatch
from runner.gap.forecasts import Forecast
from runner.gap.tell import Measured
from runner.gap.walk import CONTROL, FREE_RUNNING, FURTHER, SAMPLED, TEACHER_FORCED, blocks_of, errors_of, walk
from runner.gap.windows import LossWindows
from runner.schema import Sizes

SIZES = Sizes(context=3, horizon=4, past=1, future=0)
NAMES = (TEACHER_FORCED, FREE_RUNNING, SAMPLED, CONTROL, FURTHER, "ridge", "last value")


def some_windows(blocks, per_block=14, series=False, masked=0.2, seed=0):
    count = blocks * per_block
    rng = np.random.default_rng(seed)
    batch = WindowBatch(
        past=rng.normal(size=(count, 3, 1)).astype(np.float32),
        past_observed=None,
        future_known=None,
        target=rng.normal(size=(count, 4)),
        observed=rng.random((count, 4)) >= masked,
        decoder_input=None,
        has_target=np.ones(count, bool),
        reasons=np.zeros(count, np.uint8),
    )
    return LossWindows(batch, np.arange(count), np.arange(count) // per_block, series, None, count, 0, 1)


def some_errors(windows, names=NAMES, seed=1):
    rng = np.random.default_rng(seed)
    blocks = blocks_of(windows, SIZES)
    shape = windows.batch.target.shape
    noisy = {name: windows.batch.target + rng.normal(0, rng.uniform(0.2, 2), shape) for name in names}
    errors = {
        name: errors_of(windows.batch, Forecast(name, found.astype(np.float32)), blocks)
        for name, found in noisy.items()
    }
    return errors, blocks


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    blocks=st.integers(1, 30),
    left_out=st.sets(st.sampled_from(NAMES[2:])),
    reported=st.none() | st.floats(0, 10),
    trained=st.floats(0, 10),
)
def test_the_parts_add_up_to_the_gap(seed, blocks, left_out, reported, trained):
    windows = some_windows(blocks, seed=seed)
    errors, grouped = some_errors(windows, [name for name in NAMES if name not in left_out], seed)
    found = walk(errors, grouped)
    measured = Measured(reported, trained, found.losses["T"], found.losses["F"], errors, grouped, found)
    gap = measured.free - (trained if reported is None else reported)
    assert math.fsum(value or 0.0 for value in measured.parts().values()) == pytest.approx(gap, abs=1e-12)


def test_what_was_not_tried_is_null_and_stays_in_the_model():
    windows = some_windows(25)
    errors, grouped = some_errors(windows)
    without = {name: found for name, found in errors.items() if name not in {CONTROL, FURTHER}}
    parts, less = walk(errors, grouped).parts, walk(without, grouped).parts
    assert less["undertrained"] is None
    assert less["exposure_bias"] is None
    assert less["plug_in"] == parts["plug_in"]
    better = walk({name: errors[name] for name in (*without, CONTROL)}, grouped).parts
    assert better["undertrained"] is not None
    assert better["exposure_bias"] is None


def test_where_nothing_else_is_better_the_whole_difference_is_the_horizon():
    windows = some_windows(25)
    target = windows.batch.target
    blocks = blocks_of(windows, SIZES)
    forecasts = {TEACHER_FORCED: target + 0.1, FREE_RUNNING: target + 1.0, "ridge": target + 3.0}
    errors = {
        name: errors_of(windows.batch, Forecast(name, found.astype(np.float32)), blocks)
        for name, found in forecasts.items()
    }
    found = walk(errors, blocks)
    share = windows.batch.observed.mean()
    assert found.parts["horizon"] == pytest.approx((1.0 - 0.01) * share, rel=1e-5)
    assert [found.parts[name] for name in ("model", "one_step")] == [0.0, 0.0]
    low, high = found.intervals["horizon"]
    assert low <= found.parts["horizon"] <= high


def test_a_forecast_is_chosen_on_other_blocks_than_it_is_measured_on():
    windows = some_windows(5, per_block=40, masked=0.0)
    blocks = blocks_of(windows, SIZES)
    lucky = np.where(blocks.fold[windows.block][:, None] == 2, 0.0, 5.0) + windows.batch.target
    steady = windows.batch.target + 1.0
    errors = {
        name: errors_of(windows.batch, Forecast(name, found.astype(np.float32)), blocks)
        for name, found in {TEACHER_FORCED: steady, FREE_RUNNING: steady, "lucky": lucky}.items()
    }
    stage = walk(errors, blocks).stages["B"]
    assert {name for row in stage.chosen for name in row} == {FREE_RUNNING}, (
        "perfect in fold 2 only, seen by fold 2 only"
    )


def test_windows_that_share_a_step_with_a_fold_do_not_choose_for_it():
    windows = some_windows(10, per_block=40)
    blocks = blocks_of(windows, SIZES)
    for fold, rows in enumerate(blocks.elsewhere):
        here = windows.position[blocks.fold[windows.block] == fold]
        distance = np.abs(windows.position[rows][:, None] - here[None]).min()
        assert distance > SIZES.context + SIZES.horizon
        assert rows.sum() >= len(windows) - len(here) - 2 * (SIZES.context + SIZES.horizon)


def test_whole_series_share_nothing_so_all_others_choose():
    windows = some_windows(10, series=True)
    blocks = blocks_of(windows, SIZES)
    for fold, rows in enumerate(blocks.elsewhere):
        assert np.array_equal(rows, blocks.fold[windows.block] != fold)


@pytest.mark.parametrize(("blocks", "there"), [(19, False), (20, True)])
def test_below_twenty_blocks_there_is_no_interval(blocks, there):
    errors, grouped = some_errors(some_windows(blocks))
    assert bool(walk(errors, grouped).intervals) is there


def test_the_steps_of_each_part_have_the_part_as_their_sum():
    errors, grouped = some_errors(some_windows(22))
    found = walk(errors, grouped)
    for part, values in found.by_step.items():
        assert values.sum() == pytest.approx(found.parts[part], abs=1e-12)


def test_windows_without_a_forecast_are_left_out_of_everything():
    windows = some_windows(6, per_block=4)
    rows = np.ones(24, bool)
    rows[4:9] = False
    left = windows.only(rows)
    assert (len(left), left.rejected) == (19, 5)
    assert left.block.tolist() == [0, 0, 0, 0, 1, 1, 1] + [2] * 4 + [3] * 4 + [4] * 4, "the second block is gone"
    assert np.array_equal(left.batch.target, windows.batch.target[rows])
    assert left.position.tolist() == np.flatnonzero(rows).tolist()


def test_a_forecast_that_is_no_number_is_the_worst_of_all_and_spoils_nothing():
    windows = some_windows(22)
    errors, grouped = some_errors(windows)
    broken = windows.batch.target.astype(np.float32)
    broken[5, 1] = np.nan
    errors["further"] = errors_of(windows.batch, Forecast("further", broken), grouped)
    found = walk(errors, grouped)
    assert all(np.isfinite(value) for value in found.losses.values())
    assert all(row[1] != "further" for row in found.stages["B"].chosen[1:]), "folds that see it avoid it"
