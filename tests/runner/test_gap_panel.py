"""Forecasts to compare with: what they are made of, what must not reach them, and how near they come to the best."""

import time
from dataclasses import replace

import numpy as np
import pytest

from runner.batch import WindowBatch
from runner.gap import ridge
from runner.gap.inputs import Inputs, as_forecast, filled, scaling_of, step_means, thinned
from runner.gap.mlp import train_network
from runner.gap.panel import FEWEST_WINDOWS, naive_panel, trained_panel
from runner.gap.ridge import choose, inputs_for, split
from runner.score import naive_seasonal

C, H = 12, 6
JUNK = 1e9


def cut(values, context=C, horizon=H):
    """Return every window of a series, complete."""
    count = len(values) - context - horizon + 1
    steps = values[np.arange(count)[:, None] + np.arange(context + horizon)]
    return windows_of(steps[:, :context, None], steps[:, context:])


def windows_of(past, target, **changes):
    count = len(past)
    batch = WindowBatch(
        past.astype(np.float32), None, None, target.astype(np.float64), np.ones(target.shape, bool), None,
        np.ones(count, bool), np.zeros(count, np.uint8),
    )  # fmt: skip
    return replace(batch, **changes)


def series(function, noise, count, seed=0):
    values, errors = np.zeros(count), noise * np.random.default_rng(seed).normal(size=count)
    for t in range(1, count):
        values[t] = function(values[t - 1]) + errors[t]
    return values


def autoregressive(count, seed=0):
    return series(lambda y: 0.8 * y, 1.0, count, seed)


def parts(values, train):
    return cut(values[:train]), cut(values[train:])


def spoiled(batch, share=0.2, seed=0):
    """Return the windows with some targets excluded, and something terrible under the mask."""
    observed = np.random.default_rng(seed).random(batch.target.shape) > share
    return replace(batch, observed=observed, target=np.where(observed, batch.target, JUNK))


def gappy(batch, share=0.2, seed=0):
    """Return the windows with some steps of the context missing."""
    there = np.random.default_rng(seed).random(batch.past.shape[:2]) > share
    there[:, 0] |= ~there.any(axis=1)
    past = np.where(there[:, :, None], batch.past, 0).astype(np.float32)
    return replace(batch, past=past, past_observed=there.astype(np.float32))


def mse(batch, prediction):
    return float(((prediction - batch.target)[batch.observed] ** 2).mean())


def fitted(train, valid, seed=0):
    return {forecast.name: forecast.prediction for forecast in trained_panel(train, valid, 0, seed)}


def test_the_naive_forecasts_are_the_last_value_and_the_last_season():
    valid = gappy(cut(autoregressive(60)))
    last, seasonal = naive_panel(valid, 0, 4)
    assert (last.name, seasonal.name) == ("last value", "seasonal naive")
    past, there = valid.past[:, :, 0].astype(float), valid.past_observed == 1
    assert np.array_equal(last.prediction, np.repeat(filled(valid)[:, -1:, 0], H, axis=1).astype(np.float32))
    assert np.array_equal(seasonal.prediction, naive_seasonal(past, there, H, 4).astype(np.float32))
    assert [forecast.name for forecast in naive_panel(valid, 0, None)] == ["last value"]


def test_the_naive_forecasts_are_made_of_the_target_s_own_past():
    valid = cut(autoregressive(60))
    other = replace(valid, past=np.concatenate([valid.past * 0 + 7, valid.past], axis=2))
    for expected, found in zip(naive_panel(valid, 0, 3), naive_panel(other, 1, 3), strict=True):
        assert np.array_equal(expected.prediction, found.prediction)


def test_names_and_shapes():
    train, valid = parts(autoregressive(400), 300)
    forecasts = fitted(gappy(spoiled(train)), gappy(valid))
    assert list(forecasts) == ["climatology", "ridge", "mlp"]
    for prediction in forecasts.values():
        assert prediction.shape == valid.target.shape
        assert prediction.dtype == np.float32


def test_climatology_is_the_mean_of_what_counts_by_step():
    target = np.array([[1.0, 5, 0], [3, JUNK, 0], [5, 7, 0]])
    observed = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0]], bool)
    assert step_means(target, observed).tolist() == [3, 6, pytest.approx(21 / 5)]
    few = windows_of(np.zeros((3, C, 1)), target, observed=observed)
    (climatology,) = trained_panel(few, few.take(slice(0, 2)), 0, 0)
    np.testing.assert_allclose(climatology.prediction, [[3, 6, 4.2]] * 2, rtol=1e-6)


def test_nothing_is_fitted_to_a_few_windows_and_nothing_at_all_to_none_that_count():
    train, valid = parts(autoregressive(400), 300)
    few = train.take(slice(0, FEWEST_WINDOWS - 1))
    assert list(fitted(few, valid)) == ["climatology"]
    assert list(fitted(train.take(slice(0, FEWEST_WINDOWS)), valid)) == ["climatology", "ridge", "mlp"]
    assert fitted(replace(train, observed=np.zeros_like(train.observed)), valid) == {}


def test_the_targets_of_the_windows_to_forecast_are_not_looked_at():
    train, valid = parts(autoregressive(400), 300)
    blind = replace(valid, target=np.full_like(valid.target, np.nan), observed=np.zeros_like(valid.observed))
    seen, unseen = fitted(train, valid), fitted(train, blind)
    assert all(np.array_equal(seen[name], unseen[name]) for name in seen)
    for forecast, same in zip(naive_panel(valid, 0, 4), naive_panel(blind, 0, 4), strict=True):
        assert np.array_equal(forecast.prediction, same.prediction)


def test_the_same_seed_gives_the_same_forecasts_and_only_the_network_draws():
    bent = series(lambda y: 1.3 * np.tanh(1.5 * y), 0.5, 1500)
    train, valid = parts(bent, 1300)
    first, again, other = fitted(train, valid), fitted(train, valid), fitted(train, valid, seed=1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert [name for name in first if not np.array_equal(first[name], other[name])] == ["mlp"]


def test_nothing_leaks_from_under_the_mask():
    train, valid = parts(autoregressive(600), 500)
    dirty = spoiled(train)
    clean = replace(dirty, target=np.where(dirty.observed, dirty.target, 0.0))
    seen, unseen = fitted(clean, valid), fitted(dirty, valid)
    assert all(np.array_equal(seen[name], unseen[name]) for name in seen)


@pytest.mark.parametrize("change", [lambda batch: batch, spoiled, gappy], ids=["whole", "excluded", "missing"])
def test_on_a_linear_process_the_fitted_forecasts_come_near_the_best(change):
    train, valid = parts(autoregressive(6000), 4000)
    best = mse(valid, valid.past[:, -1] * 0.8 ** np.arange(1, H + 1))
    allowed = 1.10 if change is gappy else 1.03
    forecasts = fitted(change(train), change(valid))
    for name in ("ridge", "mlp"):
        assert mse(valid, forecasts[name]) < allowed * best
    assert mse(valid, forecasts["climatology"]) > 1.2 * best


def test_where_the_process_bends_the_network_finds_what_the_regression_cannot():
    rng = np.random.default_rng(0)
    past = rng.normal(size=(5000, C, 1))
    target = np.repeat(past[:, -1] * past[:, -2], H, axis=1) + 0.1 * rng.normal(size=(5000, H))
    train, valid = windows_of(past[:4000], target[:4000]), windows_of(past[4000:], target[4000:])
    forecasts = fitted(train, valid)
    assert mse(valid, forecasts["ridge"]) > 0.9
    assert mse(valid, forecasts["mlp"]) < 0.1


def test_the_known_future_and_the_other_features_are_used():
    rng = np.random.default_rng(0)
    past, future = rng.normal(size=(600, C, 2)), rng.normal(size=(600, H, 1)).astype(np.float32)
    target = past[:, -3, 1:] + 2 * future[:, :, 0]
    whole = windows_of(past, target, future_known=future)
    train, valid = whole.take(slice(0, 500)), whole.take(slice(500, None))
    assert mse(valid, fitted(train, valid)["ridge"]) < 1e-3


def test_that_a_step_is_missing_is_told():
    rng = np.random.default_rng(0)
    train = gappy(windows_of(rng.normal(size=(900, C, 1)), np.zeros((900, H))))
    train = replace(train, target=np.repeat(train.past_observed[:, 3:4], H, axis=1).astype(float))
    train, valid = train.take(slice(0, 700)), train.take(slice(700, None))
    assert mse(valid, fitted(train, valid)["ridge"]) < 1e-3
    assert inputs_for(train, 0) == Inputs(0, flags=True)
    assert inputs_for(replace(train, past_observed=np.ones_like(train.past_observed)), 0) == Inputs(0, flags=False)


def test_missing_steps_are_filled_with_what_came_before_or_else_with_the_first_that_is_there():
    past = np.array([[[0.0, 0], [1, 10], [0, 0], [2, 20]], [[3, 30], [0, 0], [0, 0], [0, 0]]])
    there = np.array([[0, 1, 0, 1], [1, 0, 0, 0]], np.float32)
    found = filled(windows_of(past, np.zeros((2, H)), past_observed=there))
    assert found[0].tolist() == [[1, 10], [1, 10], [1, 10], [2, 20]]
    assert found[1].tolist() == [[3, 30]] * 4


def test_a_series_that_wanders_is_forecast_from_its_last_value_whatever_its_level():
    walk = np.cumsum(autoregressive(4000, seed=3)) + 1e4
    train, valid = parts(walk, 3000)
    assert choose(train, 0, lambda: None).refitted.scaling.inputs.relative
    forecasts = fitted(train, valid)
    naive = mse(valid, naive_panel(valid, 0, None)[0].prediction)
    assert mse(valid, forecasts["ridge"]) < 0.75 * naive
    assert mse(valid, forecasts["mlp"]) < 0.75 * naive
    assert mse(valid, forecasts["climatology"]) > 10 * naive
    lifted = [replace(part, past=part.past + 4096, target=part.target + 4096) for part in (train, valid)]
    np.testing.assert_allclose(fitted(*lifted)["ridge"] - 4096, forecasts["ridge"], atol=0.05)


def test_forecasts_are_in_raw_units():
    train, valid = parts(autoregressive(900), 700)
    larger = [replace(part, past=part.past * 1024, target=part.target * 1024) for part in (train, valid)]
    small, large = fitted(train, valid), fitted(*larger)
    for name, prediction in small.items():
        np.testing.assert_allclose(large[name], prediction * 1024, rtol=1e-3, atol=1)


def test_the_regression_is_that_of_the_textbook_for_each_step_by_itself():
    train = spoiled(cut(autoregressive(300)), share=0.5)
    train = replace(
        train, observed=np.where(np.arange(H) == 2, train.observed.mean(axis=1, keepdims=True) > 0.3, train.observed)
    )
    linear = ridge._add_up(Inputs(0, flags=False), train, lambda: None).solve(0.0)
    for h in range(H):
        rows = train.observed[:, h]
        x = np.concatenate([np.ones((len(train), 1)), train.past[:, :, 0]], axis=1)
        weights = np.linalg.lstsq(x[rows], train.target[rows, h])[0]
        np.testing.assert_allclose(linear(train)[:, h], x @ weights, atol=1e-6)


def test_a_penalty_shrinks_towards_the_mean_and_not_towards_nothing():
    train = cut(autoregressive(300) + 50)
    sums = ridge._add_up(Inputs(0, flags=False), train, lambda: None)
    np.testing.assert_allclose(sums.solve(1e9)(train), np.tile(train.target.mean(axis=0), (len(train), 1)), rtol=1e-6)


def test_steps_that_agree_share_their_products_and_a_step_that_never_counts_gets_a_mean():
    train = cut(autoregressive(300))
    assert len(ridge._add_up(Inputs(0, flags=False), train, lambda: None).gram) == 1
    never = replace(train, observed=np.tile(np.arange(H) != 4, (len(train), 1)))
    sums = ridge._add_up(Inputs(0, flags=False), never, lambda: None)
    assert len(sums.gram) == 2
    mean = train.target[:, np.arange(H) != 4].mean()
    np.testing.assert_allclose(sums.solve(1e-6)(train)[:, 4], mean, atol=1e-6)
    assert list(fitted(never, train)) == ["climatology", "ridge", "mlp"]


def test_too_many_inputs_leave_the_target_s_own_past_and_then_its_last_part(monkeypatch):
    train, valid = parts(autoregressive(1200), 900)
    wide = [replace(part, past=np.repeat(part.past, 3, axis=2)) for part in (train, valid)]
    monkeypatch.setattr(ridge, "MOST_INPUTS", 2 * C)
    assert inputs_for(train, 0) == Inputs(0, flags=False)
    assert inputs_for(wide[0], 1) == Inputs(1, flags=False, steps=C)
    monkeypatch.setattr(ridge, "MOST_INPUTS", 5)
    assert inputs_for(wide[0], 1) == Inputs(1, flags=False, steps=5)
    assert Inputs(1, flags=False, steps=5).rows(wide[0]).tolist() == wide[0].past[:, -5:, 1].tolist()
    best = mse(valid, valid.past[:, -1] * 0.8 ** np.arange(1, H + 1))
    assert mse(valid, fitted(*wide)["ridge"]) < 1.05 * best
    monkeypatch.setattr(ridge, "MOST_PRODUCTS", 9 * H)  # each step has windows of its own excluded
    assert inputs_for(spoiled(wide[0]), 1).steps == 3


def test_too_much_work_leaves_windows_out(monkeypatch):
    train, valid = parts(autoregressive(2400), 2000)
    assert len(thinned(train, 100)) <= 100
    assert len(thinned(train, 10**6)) == len(train)
    best = mse(valid, valid.past[:, -1] * 0.8 ** np.arange(1, H + 1))
    monkeypatch.setattr(ridge, "MOST_WORK", 500 * (C + 1) ** 2)
    assert mse(valid, fitted(spoiled(train), valid)["ridge"]) < 1.1 * best


def test_what_is_held_out_does_not_overlap_with_what_is_fitted():
    train = cut(np.arange(1000.0))
    found = split(train)
    assert len(found.held) == len(train) // 5
    assert found.fit.target.max() < found.held.past.min()
    assert found.held.target.max() == 999
    few = split(train.take(slice(0, 50)))
    assert (len(few.fit), len(few.held)) == (30, 10)


def test_inputs_that_never_vary_count_for_nothing():
    train, valid = parts(autoregressive(400), 300)
    level = [replace(part, past=np.concatenate([part.past, part.past * 0 + 1e6], axis=2)) for part in (train, valid)]
    assert (scaling_of(Inputs(0, flags=False), level[0]).factor == 0).sum() == C
    level[1] = replace(level[1], past=level[1].past + np.float32([0, 1000]))  # nobody knows what that would do
    np.testing.assert_allclose(fitted(*level)["ridge"], fitted(train, valid)["ridge"], atol=1e-4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "values", [np.full(300, 5.0), np.full(300, 3e38) * (-1.0) ** np.arange(300)], ids=["flat", "huge"]
)
def test_whatever_validation_lets_through_has_finite_forecasts(values):
    train, valid = parts(values, 200)
    for prediction in fitted(train, valid).values():
        assert np.isfinite(prediction).all()
    if values[0] == values[1]:
        assert all(np.allclose(prediction, 5) for prediction in fitted(train, valid).values())


def test_a_forecast_beyond_float32_is_the_largest_there_is():
    largest = float(np.finfo(np.float32).max)
    assert as_forecast(np.array([1e300, -1e300, 1.0])).tolist() == [largest, -largest, 1]


def test_training_that_finds_nothing_leaves_the_regression_as_it_is():
    rng = np.random.default_rng(0)
    noise = windows_of(rng.normal(size=(300, C, 1)), rng.normal(size=(300, H)))
    chosen, held = choose(noise, 0, lambda: None), split(noise)
    network = train_network(chosen.fitted, held.fit, held.held, 0, lambda: None)
    assert mse(held.held, network.forecast(held.held)) <= mse(held.held, chosen.fitted.forecast(held.held))
    assert mse(noise, network.forecast(noise)) == pytest.approx(mse(noise, chosen.fitted.forecast(noise)), rel=0.05)


def test_a_wish_to_stop_is_heard():
    train, valid = parts(autoregressive(400), 300)
    calls = []

    def stop(after):
        calls.append(1)
        if len(calls) > after:
            raise InterruptedError

    for after in (0, 10, 18):
        calls.clear()
        with pytest.raises(InterruptedError):
            trained_panel(train, valid, 0, 0, lambda after=after: stop(after))


def test_ten_thousand_windows_take_a_moment():
    train, valid = parts(autoregressive(10500), 10000)
    began = time.process_time()
    fitted(spoiled(train), valid)
    assert time.process_time() - began < 20
