import dataclasses

import keras
import numpy as np
import pytest

from export.checkpoints import WorkFolder
from export.examples import batches, start_values
from export.model import build
from export.pipeline import start_tensorflow
from export.source import trainable
from export.training import evaluate, free_running, teacher_forced, train
from export.windows import measure
from runner.errors import UsageError


def fit(build_models, windows, valid, statistics, folder, callbacks=(), **settings):
    config, models = build_models(**settings)
    work = WorkFolder(folder, "test")
    return train(models, (windows, valid), statistics, config, 0, work, list(callbacks)), models, config


def first_block(valid):
    return trainable(next(valid.blocks()))


def test_the_training_loss_is_the_masked_mse(build_models, valid_windows):
    config, models = build_models(scaling="none")
    models.training.compile(loss="mse")
    reported = models.training.evaluate(batches(valid_windows, measure(valid_windows), config, 0), verbose=0)
    total = cells = 0
    for block in valid_windows.blocks():
        batch = trainable(block)
        error = teacher_forced(models, batch, config, 0) - batch.target
        total += (error[batch.observed] ** 2).sum()
        cells += error.size
    assert reported == pytest.approx(total / cells, rel=1e-5)


def test_the_loss_is_exact_whatever_the_batches(build_models, valid_windows, monkeypatch):
    config, models = build_models()
    whole = evaluate(models, valid_windows, config, 0)
    monkeypatch.setattr("export.training.VALIDATION_BATCH", 7)
    pieces = evaluate(models, valid_windows, config, 0)
    for one, other in zip(whole, pieces, strict=True):
        assert one.masked_mse(one.model) == pytest.approx(other.masked_mse(other.model), rel=1e-6)


def test_both_modes_agree_at_the_first_step_and_part_after_it(build_models, valid_windows):
    config, models = build_models(start="last")
    batch = first_block(valid_windows)
    forced, free = teacher_forced(models, batch, config, 0), free_running(models, batch)
    np.testing.assert_allclose(forced[:, 0], free[:, 0], atol=1e-6)
    assert np.abs(forced[:, 1:] - free[:, 1:]).max() > 1e-3


@pytest.mark.parametrize("start", [-1.0, "last"])
def test_the_encoder_emits_the_start_value_exactly(build_models, valid_windows, start):
    config, models = build_models(start=start, scaling="standard")
    batch = first_block(valid_windows)
    inputs = [batch.past, batch.past_observed]
    np.testing.assert_array_equal(models.encoder.predict_on_batch(inputs)[0], start_values(batch, config, 0))


def test_window_scaling_makes_forecasts_follow_a_shift_and_a_stretch_of_the_target(build_models, valid_windows):
    _, models = build_models(scaling="window", start="last")
    batch = first_block(valid_windows)
    moved = batch.past.copy()
    moved[:, :, 0] = moved[:, :, 0] * 3 + 50
    expected = free_running(models, batch) * 3 + 50
    found = free_running(models, dataclasses.replace(batch, past=moved * batch.past_observed[:, :, None]))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_what_the_mask_excludes_changes_nothing(build_models, train_windows, valid_windows, statistics, tmp_path):
    plain, *_ = fit(build_models, train_windows, valid_windows, statistics, tmp_path / "a", epochs=1)

    def spoil(block):
        target = np.where(block.observed, block.target, 7e8)
        return dataclasses.replace(block, target=target)

    class Spoiled(type(train_windows)):
        __slots__ = ()

        def blocks(self, groups=None):
            yield from map(spoil, super().blocks(groups))

    spoiled = Spoiled(**{f.name: getattr(train_windows, f.name) for f in dataclasses.fields(train_windows)})
    other, *_ = fit(build_models, spoiled, valid_windows, statistics, tmp_path / "b", epochs=1)
    assert plain.history == other.history


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"strategy": "scheduled-sampling", "input_noise": 0.1},
        {"strategy": "curriculum", "cell": "gru", "encoder": "bidirectional", "attention": "bahdanau"},
    ],
    ids=["teacher-forcing", "scheduled-sampling", "curriculum, another kind"],
)
def test_the_same_seed_gives_the_same_losses_killed_and_resumed_or_not(
    build_models, train_windows, valid_windows, statistics, tmp_path, settings
):
    class KilledError(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, _logs=None):
            if epoch == 2:
                raise KilledError

    data = (train_windows, valid_windows, statistics)
    straight, models, _ = fit(build_models, *data, tmp_path / "a", epochs=4, **settings)
    with pytest.raises(KilledError):
        fit(build_models, *data, tmp_path / "b", callbacks=[Kill()], epochs=4, **settings)
    resumed, others, _ = fit(build_models, *data, tmp_path / "b", epochs=4, **settings)
    assert resumed == straight
    assert len(resumed.history) == 4
    for one, other in zip(models.training.get_weights(), others.training.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_best_epoch_is_the_best_one_free_running_and_patience_ends_training(
    build_models, train_windows, valid_windows, statistics, tmp_path, monkeypatch
):
    given = iter([0.5, 0.3, 0.4, 0.35, 0.1])
    real = evaluate

    def fake(models, valid, config, feature):
        forced, free = real(models, valid, config, feature)
        wanted = next(given) / free.masked_mse(free.model)
        scaled = dataclasses.replace(free.model, squared=tuple(wanted * value for value in free.model.squared))
        return forced, dataclasses.replace(free, model=scaled)

    monkeypatch.setattr("export.training.evaluate", fake)
    trained, models, _ = fit(
        build_models, train_windows, valid_windows, statistics, tmp_path / "w", epochs=9, patience=2
    )
    assert [round(line.free_running, 6) for line in trained.history] == [0.5, 0.3, 0.4, 0.35]
    assert trained.best.epoch == 2
    best = models.training.get_weights()
    models.training.load_weights(tmp_path / "w" / "epoch-0002.weights.h5")
    for one, other in zip(best, models.training.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_work_of_another_config_is_not_resumed(tmp_path, build_models, train_windows, valid_windows, statistics):
    fit(build_models, train_windows, valid_windows, statistics, tmp_path / "w", epochs=1)
    with pytest.raises(UsageError, match="another config"):
        WorkFolder(tmp_path / "w", "other")


def test_the_saved_keras_model_is_the_best_one(build_models, train_windows, valid_windows, statistics, tmp_path):
    _, models, config = fit(build_models, train_windows, valid_windows, statistics, tmp_path / "w", scaling="window")
    loaded = keras.models.load_model(tmp_path / "w" / "model.keras")
    assert {"encoder_lstm", "decoder_lstm", "decoder_dense"} <= {layer.name for layer in loaded.layers}
    batch = first_block(valid_windows)
    again = dataclasses.replace(models, training=loaded)
    np.testing.assert_array_equal(teacher_forced(models, batch, config, 0), teacher_forced(again, batch, config, 0))


def test_two_builds_of_one_seed_start_from_the_same_weights(build_models, train_windows, statistics):
    config, models = build_models(seed=3)
    start_tensorflow(3)
    again = build(config, train_windows.sizes, statistics, 0, flagged=True)
    for one, other in zip(models.training.get_weights(), again.training.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
