"""`strategy = "auto"`, and the probes: what training a little further is worth."""

import json

import keras
import numpy as np
import pytest

from export.checkpoints import Epoch, WorkFolder
from export.config import TrainConfig
from export.probes import further_trained
from export.training import Trained, evaluate
from export.trials import CONTROL, TRIED, Choice, Outcome, choose, report, squared_errors, train_as_asked


def outcome(squared):
    loss = float(np.mean(squared)) / 12
    return Outcome(Trained((), Epoch(1, loss, loss, loss), len(squared)), [], np.asarray(squared))


def errors(level, seed=0, rows=3000):
    return level + np.random.default_rng(seed).normal(size=rows) ** 2


def chosen(start, control, **trials):
    given = {CONTROL: outcome(control), **{name.replace("_", "-"): outcome(values) for name, values in trials.items()}}
    return choose(outcome(start), given, 120, 12)


def test_what_is_proved_better_than_more_teacher_forcing_is_kept_and_the_best_of_it():
    found = chosen(
        errors(2), errors(1.9), scheduled_sampling=errors(1.5), curriculum=errors(1.2), free_running=errors(2.5)
    )
    assert found.kept == "curriculum"
    assert [(trial.strategy, trial.worth) for trial in found.trials] == [
        ("scheduled-sampling", True),
        ("curriculum", True),
        ("free-running", False),
    ]
    assert found.trials[1].interval == pytest.approx((-0.7 / 12, -0.7 / 12))


@pytest.mark.parametrize(("start", "kept"), [(3, "control"), (1.5, "start")])
def test_what_only_seems_better_is_not_kept(start, kept):
    control = errors(2)
    luck = errors(2, seed=1)
    seeming = dict.fromkeys(
        ("scheduled_sampling", "curriculum", "free_running"), luck + control.mean() - luck.mean() - 0.01
    )
    found = chosen(errors(start), control, **seeming)
    assert found.kept == kept
    assert all(trial.difference < 0 < trial.interval[1] for trial in found.trials)


def test_better_than_the_control_and_worse_than_the_start_is_not_kept():
    trials = dict.fromkeys(("scheduled_sampling", "curriculum", "free_running"), errors(1.5))
    found = chosen(errors(1), errors(2), **trials)
    assert found.kept == "start"
    assert all(trial.interval[1] < 0 and not trial.worth for trial in found.trials)


def test_without_an_interval_nothing_is_kept_and_the_report_says_why():
    trials = dict.fromkeys(("scheduled_sampling", "curriculum", "free_running"), errors(1, rows=500))
    found = chosen(errors(2, rows=500), errors(1.5, rows=500), **trials)
    assert found.kept == "control"
    assert all(trial.interval is None for trial in found.trials)
    assert any("fewer than 20 blocks" in line for line in report(found))


def test_a_strategy_that_was_asked_for_is_the_choice(build_models, train_windows, valid_windows, statistics, tmp_path):
    config, models = build_models(strategy="free-running", epochs=1)
    work = WorkFolder(tmp_path / "w", "test")
    data = (train_windows, valid_windows)
    trained, choice = train_as_asked(models, data, statistics, config, 0, work, lambda _folder: [], list)
    assert choice == Choice("free-running", "free-running")
    assert report(choice) == []
    assert trained.best.epoch == 1


@pytest.fixture
def auto(build_models, train_windows, valid_windows, statistics, tmp_path):
    """Return what trains by `auto` in one folder, with callbacks and lines for the log."""

    def run(callbacks=(), lines=None):
        config, models = build_models(strategy="auto", epochs=2, extra_epochs=1)
        work = WorkFolder(tmp_path / "w", "test")
        data, say = (train_windows, valid_windows), ([] if lines is None else lines).append
        found = train_as_asked(models, data, statistics, config, 0, work, lambda _folder: list(callbacks), say)
        return *found, models, config

    return run


def test_auto_keeps_nothing_where_nothing_can_be_proved_and_reports_all(auto, valid_windows, tmp_path):
    lines = []
    trained, choice, models, config = auto(lines=lines)
    assert choice.kept in {"start", "control"}  # 100 validation windows make no 20 blocks
    assert [trial.strategy for trial in choice.trials] == list(TRIED)
    assert all(any(line.startswith(name) for line in lines) for name in TRIED)
    assert lines[-1].startswith(f"kept: {choice.kept}")
    record = json.loads((tmp_path / "w" / "trials.json").read_text())
    assert record == json.loads(json.dumps(choice.record()))
    assert "optimistic" in record["note"]
    _, free = evaluate(models, valid_windows, config, 0)
    assert free.masked_mse(free.model) == pytest.approx(trained.best.free_running, rel=1e-6)
    assert trained.best == {"start": choice.start, "control": choice.control}[choice.kept]
    loaded = keras.models.load_model(tmp_path / "w" / "model.keras")
    for one, other in zip(loaded.get_weights(), models.training.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_auto_killed_in_a_trial_resumes_to_the_same_choice(auto, tmp_path):
    class KilledError(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        begun = 0

        def on_train_begin(self, _logs=None):
            Kill.begun += 1
            if Kill.begun == 4:
                raise KilledError

    with pytest.raises(KilledError):
        auto(callbacks=[Kill()])
    assert (tmp_path / "w" / "trial-scheduled-sampling" / "state.json").exists()
    resumed = auto()
    (tmp_path / "w").rename(tmp_path / "resumed")
    straight = auto()
    assert resumed[:2] == straight[:2]
    for one, other in zip(resumed[2].training.get_weights(), straight[2].training.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_squared_errors_add_up_to_the_loss(build_models, valid_windows):
    config, models = build_models()
    _, free = evaluate(models, valid_windows, config, 0)
    squared = squared_errors(models, valid_windows)
    assert squared.shape == (100,)
    assert squared.sum() / (100 * 12) == pytest.approx(free.masked_mse(free.model), rel=1e-9)


@pytest.mark.parametrize("strategy", ["teacher-forcing", "free-running"])
def test_probes_train_further_from_the_weights_given_and_repeat_exactly(
    build_models, train_windows, valid_windows, statistics, strategy
):
    config, models = build_models(strategy="auto", learning_rate=0.5)
    before = models.training.get_weights()
    after = []
    for _ in range(2):
        models.training.set_weights(before)
        further_trained(models, train_windows, statistics, config, 0, strategy=strategy, epochs=2, learning_rate=0.01)
        after.append(models.training.get_weights())
    assert any((one != other).any() for one, other in zip(before, after[0], strict=True))
    for one, other in zip(*after, strict=True):
        np.testing.assert_array_equal(one, other)
    models.training.set_weights(before)
    _, start = evaluate(models, valid_windows, TrainConfig(), 0)
    models.training.set_weights(after[0])
    _, end = evaluate(models, valid_windows, TrainConfig(), 0)
    assert end.masked_mse(end.model) < start.masked_mse(start.model)
