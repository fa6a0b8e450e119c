"""The score against one line of numpy, and against everything that must not leak into it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.batch import WindowBatch, reason_code
from runner.schema import Layout, Sizes
from runner.score import naive_last, naive_seasonal, score_block
from runner.validate import validate

ROWS, C, H = 7, 6, 4
JUNK = [np.nan, np.inf, -np.inf, 1e300]


def windows(seed=0, rows=ROWS, whole=False):
    """Draw windows; with `whole`, all numbers are small integers, so that sums are exact."""
    rng = np.random.default_rng(seed)
    draw = (lambda *shape: rng.integers(-9, 10, shape)) if whole else (lambda *shape: rng.normal(size=shape))
    there = rng.random((rows, C)) < 0.7
    there[:, 0] = True
    batch = WindowBatch(
        past=draw(rows, C, 2).astype(np.float32),
        past_observed=there.astype(np.float32),
        future_known=None,
        target=draw(rows, H).astype(np.float64),
        observed=rng.random((rows, H)) < 0.6,
        decoder_input=None,
        has_target=np.ones(rows, bool),
        reasons=np.zeros(rows, np.uint8),
    )
    return batch, draw(rows, H).astype(np.float32)


def test_the_sums_are_those_of_one_line_of_numpy():
    batch, prediction = windows()
    score = score_block(batch, prediction, 0, 2)
    error = np.where(batch.observed, prediction.astype(np.float64) - batch.target, 0)
    assert score.windows == ROWS
    assert score.observed == tuple(batch.observed.sum(axis=0))
    np.testing.assert_allclose(score.model.squared, (error**2).sum(axis=0), rtol=1e-14)
    np.testing.assert_allclose(score.model.absolute, abs(error).sum(axis=0), rtol=1e-14)
    np.testing.assert_allclose(score.model.signed, error.sum(axis=0), rtol=1e-14)
    assert score.masked_mse(score.model) == pytest.approx((error**2).sum() / (ROWS * H), rel=1e-14)
    assert score.observed_mse(score.model) == pytest.approx((error**2).sum() / batch.observed.sum(), rel=1e-14)


def test_the_sums_are_made_in_float64():
    batch, prediction = windows()
    batch = replace(batch, target=np.full((ROWS, H), 0.1), observed=np.ones((ROWS, H), bool))
    score = score_block(batch, np.full_like(prediction, 16777216), 0, None)
    assert score.model.signed == (pytest.approx(7 * (16777216 - 0.1), rel=1e-15),) * H


@pytest.mark.parametrize("junk", JUNK)
def test_nothing_leaks_from_under_the_mask(junk):
    batch, prediction = windows()
    clean = score_block(batch, prediction, 0, 2)
    spoiled = replace(batch, target=np.where(batch.observed, batch.target, junk))
    with np.errstate(all="ignore"):
        dirty = np.where(batch.observed, prediction, np.float32(junk)).astype(np.float32)
        assert score_block(spoiled, dirty, 0, 2) == clean


@pytest.mark.parametrize("junk", JUNK)
def test_nothing_leaks_from_the_missing_steps_of_the_context_or_from_another_feature(junk):
    batch, prediction = windows()
    with np.errstate(all="ignore"):
        past = np.where(batch.past_observed[:, :, None] == 1, batch.past, junk).astype(np.float32)
        past[:, :, 1] = junk
    assert score_block(replace(batch, past=past), prediction, 0, 2) == score_block(batch, prediction, 0, 2)


def test_the_naive_forecasts_are_made_of_the_feature_that_is_the_target():
    batch, prediction = windows()
    swapped = replace(batch, past=batch.past[:, :, ::-1])
    assert score_block(batch, prediction, 1, 2) == score_block(swapped, prediction, 0, 2)
    assert score_block(batch, prediction, 1, 2) != score_block(batch, prediction, 0, 2)


def test_windows_of_which_nothing_was_observed_count_and_have_no_score():
    batch, prediction = windows()
    score = score_block(replace(batch, observed=np.zeros((ROWS, H), bool)), prediction, 0, 2)
    assert score.windows == ROWS
    assert score.masked_mse(score.model) is None
    assert score.observed_mse(score.last) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"target": None, "observed": None, "has_target": np.zeros(ROWS, bool)},
        {"has_target": np.zeros(ROWS, bool)},
        {"reasons": np.full(ROWS, reason_code("past_missing"), np.uint8)},
    ],
    ids=["no target column", "no row has a target", "only rejects"],
)
def test_where_no_row_counts_there_is_no_score(changes):
    batch, prediction = windows()
    assert score_block(replace(batch, **changes), prediction, 0, 2) is None


def test_rejects_and_rows_without_a_target_are_in_neither_sum_nor_denominator():
    batch, prediction = windows()
    out = np.array([False, True, False, True, True, False, False])
    reasons = np.where([False, True, False, False, True, False, False], reason_code("past_shape"), 0).astype(np.uint8)
    has_target = np.array([True, True, True, False, False, True, True])
    dirty = np.where(out[:, None], np.float32(np.nan), prediction)
    mixed = replace(batch, reasons=reasons, has_target=has_target, target=np.where(out[:, None], np.nan, batch.target))
    assert score_block(mixed, dirty, 0, 2) == score_block(batch.take(~out), prediction[~out], 0, 2)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 12), max_size=3))
def test_scores_of_pieces_add_up_to_the_score_of_the_whole(seed, cuts):
    batch, prediction = windows(seed, rows=12, whole=True)
    bounds = [0, *sorted(cuts), 12]
    pieces = [slice(a, b) for a, b in pairwise(bounds)]
    scores = [score_block(batch.take(piece), prediction[piece], 0, 3) for piece in pieces]
    first, *rest = [score for score in scores if score]
    assert sum(rest, start=first) == score_block(batch, prediction, 0, 3)


def test_the_bias_of_a_forecast_that_is_too_high_is_positive():
    batch, _ = windows()
    observed = np.ones((ROWS, H), bool)
    score = score_block(replace(batch, observed=observed), (batch.target + 2).astype(np.float32), 0, None)
    assert [step["bias"] for step in score.by_step(score.model)] == pytest.approx([2] * H, abs=1e-6)
    assert score.seasonal is None


def test_the_last_value_is_the_last_that_was_observed():
    past = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    there = np.array([[True, True, True], [True, True, False], [True, False, False]])
    assert naive_last(past, there).tolist() == [3, 5, 7]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 8), st.integers(1, 9), st.lists(st.booleans(), min_size=C - 1, max_size=C - 1))
def test_the_seasonal_forecast_is_the_latest_value_of_the_same_phase(horizon, season, flags):
    there, past = [True, *flags], list(range(10, 10 + C))
    last = max(index for index in range(C) if there[index])
    expected = []
    for step in range(C, C + horizon):
        same_phase = [index for index in range(C) if there[index] and (step - index) % season == 0]
        expected.append(past[max(same_phase, default=last)])
    found = naive_seasonal(np.array([past], float), np.array([there]), horizon, season)
    assert found.tolist() == [expected]


def test_windows_with_other_gaps_do_not_share_their_seasonal_values():
    past, there = np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]]), np.array([[1, 1, 1, 1], [1, 1, 0, 1]], bool)
    assert naive_seasonal(past, there, 3, 2).tolist() == [[3, 4, 3], [5, 8, 5]]


def test_a_bundle_without_flags_sees_every_step_of_the_context():
    batch, prediction = windows()
    everything = replace(batch, past_observed=np.ones((ROWS, C), np.float32))
    without = replace(batch, past_observed=None)
    assert score_block(without, prediction, 0, 2) == score_block(everything, prediction, 0, 2)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_whatever_validation_lets_through_has_finite_sums():
    columns = {"past": [[1.0, 2.0]], "target": [[1e200, -1e308]]}
    batch = pa.RecordBatch.from_pydict({name: pa.array(rows, pa.list_(pa.float64())) for name, rows in columns.items()})
    layout = Layout({name: name for name in columns}, (), ())
    found = validate(batch, layout, Sizes(2, 2, 1, 0), flags_past=False, teacher=False)
    score = score_block(found, np.zeros((1, 2), np.float32), 0, None)
    assert score is None or np.isfinite([*score.model.squared, *score.last.squared]).all()


@pytest.mark.parametrize("season", [None, 3])
def test_several_targets_are_scored_each_beside_its_own_past(season):
    batch, prediction = windows(whole=True)
    other, more = windows(seed=1, whole=True)

    def both(first, second):
        return np.stack([first, second], axis=2).reshape(ROWS, 2 * H)

    target, observed = both(batch.target, other.target), both(batch.observed, other.observed)
    joined = replace(batch, target=target, observed=observed)
    found = score_block(joined, both(prediction, more), (1, 0), season)
    assert found.of_target(0, 2) == score_block(batch, prediction, 1, season)
    assert found.of_target(1, 2) == score_block(
        replace(other, past=batch.past, past_observed=batch.past_observed), more, 0, season
    )
    error = np.where(observed, both(prediction, more) - target, 0).reshape(ROWS, H, 2)
    counts = observed.reshape(ROWS, H, 2)
    assert found.masked_mse(found.model) == pytest.approx((error**2).mean(), rel=1e-14)
    steps = found.by_step(found.model, 2)
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    for name, values in {
        "observed": counts.sum(axis=(0, 2)),
        "masked_mse": (error**2).mean(axis=(0, 2)),
        "observed_mse": (error**2).sum(axis=(0, 2)) / counts.sum(axis=(0, 2)),
        "mae": abs(error).sum(axis=(0, 2)) / counts.sum(axis=(0, 2)),
        "bias": error.sum(axis=(0, 2)) / counts.sum(axis=(0, 2)),
    }.items():
        assert [step[name] for step in steps] == pytest.approx(values.tolist(), rel=1e-14)
