import math
import tomllib
from dataclasses import fields

import numpy as np
import pyarrow.parquet as pq
import pytest

from export.cli import PROCESSES as NAMES
from export.config import TrainConfig
from export.demo_data import PROCESSES, write_demo
from export.pipeline import check_names
from export.processes import SPOILED
from export.processes_linear import INNOVATION_VARIANCE, NOISE_VARIANCE, PHI, season
from export.processes_nonlinear import NOISE, bistable_step, expected_after, integrate
from export.windows import open_windows

HORIZON = np.arange(1, 13)
FLOORS = {  # of the observed MSE by horizon step: teacher-forced, free-running
    "ar1": (
        INNOVATION_VARIANCE * np.ones(12),
        INNOVATION_VARIANCE * (1 - PHI ** (2 * HORIZON)) / (1 - PHI**2),
    ),
    "random-walk": (np.ones(12), HORIZON),
    "sine": (np.full(12, NOISE_VARIANCE), np.full(12, NOISE_VARIANCE)),
    "mackey-glass": (np.zeros(12), np.zeros(12)),
}
MASKED = ["ar1", "random-walk", "sine"]
every = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def drawn():
    return {name: process.draw(40_000, np.random.default_rng(7)) for name, process in PROCESSES.items()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    for name, process in PROCESSES.items():
        write_demo(folder / name, 50, 20, 3, process)
    return folder


def column(folder, name):
    found = pq.read_table(folder / "part-0.parquet", columns=[name])[name].combine_chunks()
    return found.to_numpy_ndarray() if hasattr(found, "to_numpy_ndarray") else np.array(found.to_pylist())


def excluded(windows):
    return np.zeros(windows.target.shape, bool) if windows.mask is None else windows.mask


def squared(windows, forecast):
    return np.where(excluded(windows), 0.0, forecast.astype(np.float64) - windows.target) ** 2


def observed_mse(windows, forecast):
    return squared(windows, forecast).sum(axis=0) / (~excluded(windows)).sum(axis=0)


def test_the_command_line_offers_every_process():
    assert set(NAMES) == set(PROCESSES)
    assert all(process.name == name for name, process in PROCESSES.items())


@every
def test_the_same_seed_gives_the_same_windows_and_another_seed_does_not(name):
    first, again, other = (PROCESSES[name].draw(3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for field in fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert not np.array_equal(first.target, other.target)


@every
def test_the_reader_takes_every_row_and_the_config_fits_the_columns(name, written):
    config = TrainConfig.model_validate(tomllib.loads((written / name / "train.toml").read_text()))
    for split, count in (("train", 50), ("valid", 20)):
        opened = open_windows(str(written / name / split))
        assert sum(len(block.good_rows()) for block in opened.blocks()) == count
        assert check_names(config, opened.sizes) == 0
        assert opened.sizes.horizon == 12


@every
def test_the_first_teacher_input_is_the_start_value_of_the_config(name, drawn):
    windows, start = drawn[name], PROCESSES[name].settings["start"]
    np.testing.assert_array_equal(windows.decoder_input[:, 0], windows.past[:, -1, 0] if start == "last" else start)


@every
def test_teacher_inputs_are_the_true_previous_values_masked_or_not(name, drawn):
    windows = drawn[name]
    there = ~excluded(windows)[:, :-1]
    np.testing.assert_array_equal(windows.decoder_input[:, 1:][there], windows.target[:, :-1][there])
    assert np.abs(windows.decoder_input).max() < SPOILED / 2


@pytest.mark.parametrize("name", MASKED)
def test_masked_targets_are_spoiled(name, drawn):
    windows = drawn[name]
    assert (windows.target[windows.mask] == SPOILED).all()
    assert windows.mask.mean() == pytest.approx(0.15, abs=0.005)


@every
def test_one_step_ahead_both_optima_are_the_same(name, drawn):
    windows = drawn[name]
    np.testing.assert_allclose(windows.optimal[:, 0], windows.optimal_teacher_forced[:, 0], atol=2e-5)


@pytest.mark.parametrize("name", FLOORS)
def test_the_optimal_losses_are_those_of_the_formulas_at_every_step(name, drawn):
    windows, (forced, free) = drawn[name], FLOORS[name]
    assert observed_mse(windows, windows.optimal_teacher_forced) == pytest.approx(forced, rel=0.04)
    assert observed_mse(windows, windows.optimal) == pytest.approx(free, rel=0.04)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mackey-glass"])
@pytest.mark.parametrize("forecast", ["optimal", "optimal_teacher_forced"])
def test_no_shift_or_stretch_of_an_optimal_forecast_does_better(name, forecast, drawn):
    windows, optimal = drawn[name], getattr(drawn[name], forecast)
    best = squared(windows, optimal).mean()
    center = windows.past[:, -1:, 0] if name == "random-walk" else 0.0
    moved = optimal + 0.05 * np.nanstd(windows.past[:, :, 0] - center) * np.array([[[-1]], [[1]]])
    stretched = (center + (optimal - center) * factor for factor in (0.95, 1.05))
    assert all(squared(windows, other).mean() > best for other in moved)
    assert all(squared(windows, other).mean() >= best for other in stretched)


def test_the_losses_of_ar1_are_those_of_the_question(drawn):
    windows = drawn["ar1"]
    assert squared(windows, windows.optimal_teacher_forced).mean() == pytest.approx(0.045, rel=0.02)
    assert squared(windows, windows.optimal).mean() == pytest.approx(0.16, abs=0.006)


def test_missing_context_steps_of_ar1_are_nan_and_flagged(drawn):
    windows = drawn["ar1"]
    assert (~windows.past_observed).mean() == pytest.approx(0.02, abs=0.002)
    assert np.isnan(windows.past[~windows.past_observed]).all()
    assert np.isfinite(windows.past[windows.past_observed]).all()


def test_the_optimum_of_ar1_follows_from_the_columns_on_disk(written):
    folder = written / "ar1/train"
    origin = column(folder, "origin").astype("datetime64[s]").astype(np.int64) / 3600
    deviation = column(folder, "past")[:, :, 0] - season(origin[:, None] + np.arange(-47, 1))
    expected = season(origin[:, None] + HORIZON)
    for row, there in enumerate(column(folder, "past_observed")):
        last = np.flatnonzero(there)[-1]
        expected[row] += deviation[row, last] * PHI ** (47 - last + HORIZON)
    np.testing.assert_allclose(column(folder, "optimal"), expected, atol=1e-5)


def test_the_optimum_of_a_random_walk_is_its_last_value_and_of_a_sine_what_the_clock_says(written):
    walk = written / "random-walk/train"
    assert (column(walk, "optimal") == column(walk, "past")[:, -1:, 0]).all()
    np.testing.assert_array_equal(column(walk, "optimal_teacher_forced"), column(walk, "decoder_input"))
    sine = written / "sine/train"
    np.testing.assert_array_equal(column(sine, "optimal"), column(sine, "future_known")[:, :, 0])
    np.testing.assert_array_equal(column(sine, "optimal_teacher_forced"), column(sine, "optimal"))


def test_walks_have_no_level_in_common(drawn):
    assert drawn["random-walk"].past[:, 0, 0].std() > 5 * math.sqrt(24)


def test_the_optimum_of_the_bistable_map_is_what_many_paths_come_to_on_average():
    starts, paths = np.array([-2.5, -1.0, -0.3, 0.0, 0.1, 0.6, 1.5]), 100_000
    expected = expected_after(starts)
    rng = np.random.default_rng(11)
    value = np.repeat(starts[:, None], paths, axis=1)
    for step in range(12):
        value = bistable_step(value) + NOISE * rng.normal(size=value.shape)
        error = value.mean(axis=1) - expected[:, step]
        assert (np.abs(error) < 4.5 * value.std(axis=1) / math.sqrt(paths)).all()


def test_the_true_function_of_the_bistable_map_fed_back_is_a_quarter_worse_than_the_optimum(drawn):
    windows = drawn["bistable"]
    plug_in, value = [], windows.decoder_input[:, 0].astype(np.float64)
    for _ in range(12):
        value = bistable_step(value)
        plug_in.append(value)
    best, fed_back = (squared(windows, other).mean() for other in (windows.optimal, np.stack(plug_in, axis=1)))
    assert observed_mse(windows, windows.optimal_teacher_forced).mean() == pytest.approx(NOISE**2, rel=0.01)
    assert best == pytest.approx(0.84, rel=0.03)
    assert fed_back == pytest.approx(1.06, rel=0.03)
    assert fed_back / best == pytest.approx(1.27, abs=0.02)


def test_the_mackey_glass_equation_is_integrated_as_finely_stepped_euler_does():
    start, fine, steps = np.array([0.4, 0.9, 1.2]), 500, 60
    found = integrate(np.repeat(start[None], 18, axis=0), steps)
    x = [start] * (17 * fine + 1)
    for _ in range(steps * fine):
        late = x[-1 - 17 * fine]
        x.append(x[-1] + (0.2 * late / (1 + late**10) - 0.1 * x[-1]) / fine)
    np.testing.assert_allclose(found, x[18 * fine :: fine], atol=2e-3)


def test_mackey_glass_windows_lie_on_the_attractor(drawn):
    path = np.concatenate([drawn["mackey-glass"].past[:, :, 0], drawn["mackey-glass"].target], axis=1)
    assert path.min() > 0.2
    assert path.max() < 1.4
    np.testing.assert_allclose(path.mean(axis=0), 0.93, atol=0.02)
    np.testing.assert_allclose(path.std(axis=0), 0.226, atol=0.01)
