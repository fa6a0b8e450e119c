"""Sampled paths where the truth is known: a process that bends, and one that does not."""

import time
from dataclasses import replace

import numpy as np
import pytest

from runner.batch import WindowBatch
from runner.decode import teacher_inputs
from runner.gap.forecasts import Forecast, squared_errors
from runner.gap.machine import Encoded, Machine, machine_of, unroll
from runner.gap.paths import ENOUGH, FEWEST_PATHS, MOST_PATHS, MOST_STEPS, paths_for, residuals_of, sampled_mean
from runner.manifest import Manifest

C, H = 2, 12


def bend(y):
    return 1.3 * np.tanh(1.5 * y)


def windows(function, noise, count, seed=0):
    """Return independent windows of y' = function(y) + noise * e, warmed up."""
    rng = np.random.default_rng(seed)
    steps = [rng.normal(size=count)]
    for _ in range(60 + C + H):
        steps.append(function(steps[-1]) + noise * rng.normal(size=count))
    values = np.stack(steps[-C - H :], axis=1).astype(np.float32)
    return batch_of(values[:, :C, None], values[:, C:].astype(np.float64))


def batch_of(past, target, observed=None):
    count = len(past)
    observed = np.ones(target.shape, bool) if observed is None else observed
    return WindowBatch(past, None, None, target, observed, None, np.ones(count, bool), np.zeros(count, np.uint8))


def machine_that(function):
    """Return a forecaster without a state that knows the one-step function."""

    def step(previous, _future, state, _memory):
        return function(previous).astype(np.float32), state

    return Machine(lambda batch: Encoded(batch.past[:, -1, :1], {}, {}), step, (), H)


def forced(machine, batch):
    encoded = machine.encode(batch)
    return unroll(machine, encoded, None, teacher_inputs(encoded.previous, batch))


def loss(batch, forecast):
    return squared_errors(batch, forecast).mean()


def sampled(machine, batch, paths, seed=0, **options):
    return sampled_mean(
        machine, batch, residuals_of(batch, forced(machine, batch)), paths, seed, lambda: None, **options
    )


def optimum(batch, futures=200):
    """Return the mean of futures made with the true noise."""
    rng, means = np.random.default_rng(9), np.zeros(batch.target.shape)
    state = np.repeat(batch.past[:, -1], futures, axis=1)
    for h in range(H):
        means[:, h] = bend(state).mean(axis=1)
        state = bend(state) + 0.55 * rng.normal(size=state.shape)
    return Forecast("optimum", means.astype(np.float32))


def test_where_the_process_bends_the_mean_of_paths_recovers_what_feeding_a_point_back_costs():
    batch, machine = windows(bend, 0.55, 6000), machine_that(bend)
    plug_in = loss(batch, Forecast("loop", unroll(machine, machine.encode(batch), None)))
    best = loss(batch, optimum(batch))
    assert plug_in == pytest.approx(1.068, abs=0.05)  # of 180,000 windows
    assert best == pytest.approx(0.841, abs=0.03)
    assert loss(batch, sampled(machine, batch, 16)) == pytest.approx(best, abs=0.01)


def test_where_it_does_not_the_mean_of_paths_is_the_loop_within_its_noise_even_if_it_is_biased():
    batch, machine = windows(lambda y: 0.9 * y, 1.0, 1500), machine_that(lambda y: 0.9 * y + 0.3)
    loop = unroll(machine, machine.encode(batch), None)
    forecast = sampled(machine, batch, 32)
    assert np.array_equal(forecast.prediction[:, 0], loop[:, 0])
    assert not forecast.excess[:, 0].any()
    away = forecast.prediction[:, 1:].astype(float) - loop[:, 1:]
    assert abs(away.mean()) < 0.03 * away.std()
    assert np.square(away).mean() == pytest.approx(forecast.excess[:, 1:].mean(), rel=0.1)
    lone = sampled(machine, batch, 4).excess[:, 1:].mean()
    assert forecast.excess[:, 1:].mean() < lone / 32, "8 draws from 8 shares are worth more than 8 draws"
    assert loss(batch, forecast) == pytest.approx(loss(batch, Forecast("loop", loop)), rel=0.01)


def test_a_few_paths_score_as_many_do_once_their_excess_is_taken_off():
    batch, machine = windows(bend, 0.55, 3000), machine_that(bend)
    few, many = sampled(machine, batch, 4, seed=1), sampled(machine, batch, 64, seed=2)
    assert loss(batch, few) == pytest.approx(loss(batch, many), abs=0.012)
    assert loss(batch, replace(few, excess=None)) > loss(batch, many) + 0.08
    assert few.name == "sampled paths"


def test_the_forecasts_depend_on_the_seed_and_on_nothing_else():
    batch, machine = windows(bend, 0.55, 300), machine_that(bend)
    one, other = sampled(machine, batch, 8, threads=1), sampled(machine, batch, 8, threads=3)
    assert np.array_equal(one.prediction, other.prediction)
    assert np.array_equal(one.excess, other.excess)
    assert not np.array_equal(one.prediction, sampled(machine, batch, 8, seed=1).prediction)
    assert np.array_equal(one.prediction[:64], sampled_mean(
        machine, batch.take(slice(0, 64)), residuals_of(batch, forced(machine, batch)), 8, 0, lambda: None
    ).prediction)  # fmt: skip


def test_two_windows_that_are_the_same_do_not_follow_the_same_paths():
    batch, machine = windows(bend, 0.55, 300), machine_that(bend)
    same = replace(batch, past=np.zeros_like(batch.past))
    assert len(np.unique(sampled(machine, same, 8).prediction[:, -1])) > 290


def test_states_memory_and_the_known_future_belong_to_their_windows(tiny, tiny_bundle):
    manifest = Manifest.model_validate_json((tiny_bundle / "manifest.json").read_bytes())
    pair = tiny.make_pair()
    machine = machine_of(tiny.run_graph(pair.encoder), tiny.run_graph(pair.decoder_step), manifest)
    batch = tiny.golden_windows()
    silent = (np.zeros(1, np.float32),) * manifest.horizon
    forecast = sampled_mean(machine, batch, silent, 8, 0, lambda: None)
    loop = unroll(machine, machine.encode(batch), batch.future_known)
    np.testing.assert_allclose(forecast.prediction, loop, atol=1e-6)
    assert np.allclose(forecast.excess, 0, atol=1e-12)


def test_large_memories_make_small_chunks_and_a_wish_to_stop_is_heard():
    batch, sizes, calls = windows(bend, 0.55, 40), [], []

    def encode(batch):
        sizes.append(len(batch))
        return Encoded(batch.past[:, -1, :1], {}, {"keys": np.zeros((len(batch), 1 << 17), np.float32)})

    machine = replace(machine_that(bend), encode=encode)
    residuals = (np.ones(1, np.float32),) * H
    sampled_mean(machine, batch, residuals, 8, 0, lambda: calls.append(1))
    assert set(sizes) == {1, 7, 5}  # 512 KiB a window and path; the first call asks for one window
    assert len(calls) == 6

    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sampled_mean(machine, batch, residuals, 8, 0, stop, threads=2)


def test_residuals_are_those_of_the_step_centred_where_it_has_enough_of_them():
    rng = np.random.default_rng(0)
    count = ENOUGH + 50
    predictions = rng.normal(size=(count, 3)).astype(np.float32)
    observed = np.ones((count, 3), bool)
    observed[60:, 2] = False
    target = np.where(observed, predictions + rng.normal(size=(count, 3)) * [1, 10, 100] + [5, -5, 0], 0.0)
    first, second, third = residuals_of(batch_of(np.zeros((count, C, 1), np.float32), target, observed), predictions)
    error = target - predictions
    np.testing.assert_allclose(first, np.sort(error[:, 0] - error[:, 0].mean()), atol=1e-5)
    np.testing.assert_allclose(second, np.sort(error[:, 1] - error[:, 1].mean()), atol=1e-4)
    assert len(third) == 2 * count + 60
    assert third.mean() == pytest.approx(0, abs=1e-4)


def test_residuals_after_a_gap_are_no_one_step_errors_unless_the_teacher_knew():
    count = ENOUGH + 50
    target = np.tile([1.0, 0.0, 100.0], (count, 1))
    target[:, 0] += np.arange(count) % 2
    observed = np.tile([True, False, True], (count, 1))
    batch = batch_of(np.zeros((count, C, 1), np.float32), target, observed)
    zeros = np.zeros((count, 3), np.float32)
    assert [np.abs(pool).max() for pool in residuals_of(batch, zeros)] == [0.5, 0.5, 0.5]
    told = replace(batch, decoder_input=zeros)
    assert len(residuals_of(told, zeros)[1]) == 2 * count


def test_where_nothing_was_observed_nothing_is_added():
    batch = batch_of(np.zeros((5, C, 1), np.float32), np.zeros((5, 3)), np.zeros((5, 3), bool))
    assert [pool.tolist() for pool in residuals_of(batch, np.ones((5, 3), np.float32))] == [[0], [0], [0]]


def test_many_windows_get_fewer_paths_but_never_too_few():
    assert paths_for(1, 12) == paths_for(MOST_STEPS // (MOST_PATHS * 12), 12) == MOST_PATHS
    assert paths_for(MOST_STEPS // (16 * 12), 12) == 16
    assert paths_for(10**9, 12) == FEWEST_PATHS
    assert paths_for(0, 0) == MOST_PATHS


def test_a_month_of_windows_takes_a_moment():
    batch, machine = windows(bend, 0.55, 3389), machine_that(bend)
    began = time.process_time()
    sampled(machine, batch, 32)
    assert time.process_time() - began < 10
