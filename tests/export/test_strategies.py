"""The rules of the strategies, and the model that they train."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from export.config import TrainConfig
from export.examples import batches, context_inputs, future_inputs, start_values, teacher_values
from export.mixed import mixed_model
from export.source import trainable
from export.strategies import generators, stretch, teacher_share, uses
from export.training import free_running, teacher_forced

ROWS, HORIZON = 400, 12


def use_of(strategy, progress, epoch=0, **settings):
    config = TrainConfig(strategy=strategy, **settings)
    return uses(config, progress, (ROWS, HORIZON), generators(0, epoch)[0])


def test_the_first_step_is_the_start_value_by_every_rule():
    for strategy in ("teacher-forcing", "scheduled-sampling", "free-running", "curriculum"):
        assert (use_of(strategy, 0.9)[:, 0] == 1).all()


def test_teacher_forcing_always_and_free_running_never_takes_the_teachers_input():
    for progress in (0.0, 0.5, 1.0):
        assert use_of("teacher-forcing", progress).all()
        assert not use_of("free-running", progress)[:, 1:].any()


@pytest.mark.parametrize(("decay", "early"), [("inverse-sigmoid", 0.95), ("linear", 0.75)])
def test_scheduled_sampling_draws_each_step_by_itself_with_ever_fewer_teachers(decay, early):
    shares = [use_of("scheduled-sampling", p, sampling_decay=decay)[:, 1:].mean() for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert shares == pytest.approx([1, early, 0.5, 1 - early, 0], abs=0.02)
    half = use_of("scheduled-sampling", 0.5, sampling_decay=decay)[:, 1:]
    assert np.abs(np.corrcoef(half.T) - np.eye(HORIZON - 1)).max() < 0.2
    assert teacher_share(decay, 0.0) > 0.99
    assert teacher_share(decay, 1.0) < 0.01


def test_the_curriculum_frees_ever_longer_stretches_up_to_the_whole_horizon():
    lengths = [stretch(progress, HORIZON) for progress in np.linspace(0, 1, 101)]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (1, HORIZON)
    assert lengths[80] == HORIZON
    assert set(lengths) == set(range(1, HORIZON + 1))
    for progress in (0.0, 0.3, 0.5, 1.0):
        use = use_of("curriculum", progress)
        assert (np.flatnonzero(use[0]) % stretch(progress, HORIZON) == 0).all()
        assert (use == use[0]).all()
    assert use_of("curriculum", 0.0).all()
    assert not use_of("curriculum", 1.0)[:, 1:].any()


def test_lots_depend_on_seed_and_epoch_alone():
    drawn = use_of("scheduled-sampling", 0.5)
    np.testing.assert_array_equal(drawn, use_of("scheduled-sampling", 0.5))
    assert (drawn != use_of("scheduled-sampling", 0.5, epoch=1)).any()


@pytest.fixture(params=[{}, {"units": [4, 3], "scaling": "window", "start": "last"}], ids=["plain", "stacked, window"])
def models(request, build_models):
    return build_models(**request.param)


@pytest.fixture(scope="module")
def batch(valid_windows):
    return trainable(next(valid_windows.blocks()))


def mixed_inputs(batch, config, use):
    teacher = teacher_values(batch, config, 0)
    return [*context_inputs(batch), teacher[:, :, None], np.full(teacher.shape, use, np.float32), *future_inputs(batch)]


def test_a_step_made_of_cells_is_the_step(models, batch):
    config, forecasters = models
    _, *states = forecasters.encoder.predict_on_batch(context_inputs(batch))
    inputs = [start_values(batch, config, 0)[:, :, None], *(known[:, :1] for known in future_inputs(batch)), *states]
    pairs = zip(forecasters.step.predict_on_batch(inputs), forecasters.cell_step.predict_on_batch(inputs), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("cells", [True, False])
def test_the_mixed_model_is_the_training_model_or_the_free_running_loop(models, batch, statistics, cells):
    config, forecasters = models
    if not cells:
        forecasters = dataclasses.replace(forecasters, cell_step=None)
    mixed = mixed_model(forecasters)
    for use, expected in (
        (1, teacher_forced(forecasters, batch, config, 0)),
        (0, free_running(forecasters, batch)),
    ):
        found = mixed.predict_on_batch(mixed_inputs(batch, config, use))[:, :, 0]
        assert np.abs(found - expected).max() < 1e-5 * statistics.target_scale
    assert np.abs(free_running(forecasters, batch) - teacher_forced(forecasters, batch, config, 0)).max() > 1e-3


def test_each_step_is_fed_as_the_matrix_says(build_models, batch):
    config, forecasters = build_models()
    mixed = mixed_model(forecasters)
    inputs = mixed_inputs(batch, config, 0)
    inputs[3][:, 5] = 1
    given = inputs[2].copy()
    before = mixed.predict_on_batch(inputs)
    inputs[2][:, [0, 1, 4, 6, 11]] += 9  # where nobody looks
    np.testing.assert_array_equal(mixed.predict_on_batch(inputs), before)
    inputs[2] = given
    inputs[2][:, 5] += 9
    after = mixed.predict_on_batch(inputs)
    np.testing.assert_array_equal(after[:, :5], before[:, :5])
    assert np.abs(after[:, 5] - before[:, 5]).min() > 1e-3


@pytest.mark.parametrize(("use", "reached"), [(0, True), (1, False)])
def test_gradients_go_through_the_predictions_that_are_fed_back(build_models, batch, use, reached):
    config, forecasters = build_models(scaling="none")
    mixed = mixed_model(forecasters)
    inputs = [tf.constant(values) for values in mixed_inputs(batch, config, use)]
    with tf.GradientTape() as tape:
        last = tf.reduce_sum(mixed(inputs)[:, -1])
    bias = tape.gradient(last, forecasters.training.get_layer("decoder_dense").bias)
    # The bias moves the last prediction by 1 a window; more only where earlier predictions come back.
    assert (abs(float(bias[0]) - len(batch)) > 1e-3) == reached


def test_noise_changes_the_teachers_inputs_of_training_and_nothing_else(build_models, train_windows, statistics, batch):
    def examples(**settings):
        config, _ = build_models(**settings)
        return next(iter(batches(train_windows, statistics, config, 0)))

    (plain, *rest), (noisy, *others) = examples(), examples(input_noise=0.5)
    for index, (one, other) in enumerate(zip(plain, noisy, strict=True)):
        difference = other.numpy() - one.numpy()
        if index == 2:
            assert (difference[:, 0] == 0).all()
            assert difference[:, 1:].std() == pytest.approx(0.5 * statistics.target_scale, rel=0.15)
        else:
            assert not difference.any()
    for one, other in zip(rest, others, strict=True):
        np.testing.assert_array_equal(one, other)
    config, _ = build_models(input_noise=0.5)
    np.testing.assert_array_equal(teacher_values(batch, config, 0), teacher_values(batch, TrainConfig(), 0))
