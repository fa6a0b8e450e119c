"""Training by one strategy, with both losses after each epoch; the best epoch is the best one free-running."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.checkpoints import Epoch, WorkFolder, best_epoch
from export.config import BundleConfig, TrainConfig
from export.examples import batches, context_inputs, feeds_itself, future_inputs, loss_unit, steps_of, teacher_values
from export.mixed import mixed_model
from export.model import Forecasters
from export.source import TrainingWindows, trainable
from export.windows import Statistics
from runner.batch import F32, Feature, WindowBatch
from runner.errors import UsageError, explain
from runner.score import score_block
from runner.totals import Score

MODEL_FILE = "model.keras"
VALIDATION_BATCH = 1024
FINAL_LEARNING_RATE = 0.01
"""Share of the learning rate that is left at the last step of the cosine decay."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What training leaves behind: the models hold the best epoch's weights."""

    history: tuple[Epoch, ...]
    best: Epoch
    validation_windows: int


def train(
    models: Forecasters,
    data: tuple[TrainingWindows, TrainingWindows],
    statistics: Statistics,
    config: TrainConfig,
    feature: int,
    work: WorkFolder,
    callbacks: list[Any],
) -> Trained:
    """Fit the models, or go on where a killed training stopped.

    Args:
        models: with the weights to start from; on return they hold the best epoch's weights.
        data: training and validation windows.
        statistics: of the training windows.
        config: strategy, epochs, batch size, learning rate, patience, seed.
        feature: index of the target among the past features.
        work: where checkpoints and history go.
        callbacks: Keras callbacks for display.

    Returns:
        The history and its best epoch; the same for the same seed, killed and resumed or not.
    """
    windows, valid = data
    model = compiled(models, statistics, config)
    if config.base != "none" and not work.history:
        work.save(model, _judged(models, valid, config, feature, 0, math.nan))  # the base alone is a candidate too
    done = work.history[-1].epoch if work.history else 0
    if work.history:
        model.load_weights(work.weights(done))
    judge = _judge(models, valid, config, feature, work, loss_unit(statistics, config))
    if not _exhausted(work.history, config):
        model.fit(
            batches(windows, statistics, config, feature, first_epoch=done),
            shuffle=False,
            initial_epoch=done,
            epochs=config.epochs,
            verbose=0,
            callbacks=[judge, *callbacks],
        )
    best = best_epoch(work.history)
    model.load_weights(work.weights(best.epoch))
    models.training.save(work.folder / MODEL_FILE)
    return Trained(work.history, best, sum(len(trainable(block)) for block in valid.blocks()))


def compiled(models: Forecasters, statistics: Statistics, config: TrainConfig) -> Any:
    """Return the model that the strategy trains, with a fresh optimizer whose rate decays over the config's epochs."""
    import keras

    model = mixed_model(models) if feeds_itself(config) else models.training
    steps = config.epochs * steps_of(statistics, config)
    schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps, FINAL_LEARNING_RATE)
    model.compile(optimizer=keras.optimizers.Adam(schedule, clipnorm=1.0), loss=keras.losses.MeanSquaredError())
    model.optimizer.build(model.trainable_variables)
    return model


def evaluate(
    models: Forecasters, valid: TrainingWindows, config: BundleConfig, feature: Feature
) -> tuple[Score, Score]:
    """Score the Keras models on the validation windows, teacher-forced and free-running.

    Returns:
        Both scores as exact sums over all windows, never a mean of batch means.
    """
    totals: list[Score | None] = [None, None]
    for block in valid.blocks():
        kept = trainable(block)
        for start in range(0, len(kept), VALIDATION_BATCH):
            batch = kept.take(slice(start, start + VALIDATION_BATCH))
            found = (teacher_forced(models, batch, config, feature), free_running(models, batch))
            for mode, prediction in enumerate(found):
                score = score_block(batch, prediction, feature, None)
                before = totals[mode]
                totals[mode] = score if before is None or score is None else before + score
    forced, free = totals
    if forced is None or free is None:
        raise UsageError("the validation data has no good window with a target")
    return forced, free


def teacher_forced(models: Forecasters, batch: WindowBatch, config: BundleConfig, feature: Feature) -> F32:
    """Run the training model once over a batch; return predictions [B, H * M]."""
    return at_once(models.training, batch, teacher_values(batch, config, feature))


def at_once(training: Any, batch: WindowBatch, fed: F32) -> F32:
    """Run a training model on decoder inputs [B, H * M]; return predictions [B, H * M]."""
    shaped = fed.reshape(len(batch), *training.outputs[0].shape[1:])
    found = training.predict_on_batch([*context_inputs(batch), shaped, *future_inputs(batch)])
    return np.asarray(found).reshape(fed.shape)


def free_running(models: Forecasters, batch: WindowBatch) -> F32:
    """Run encoder and step in a loop over a batch, each prediction the next input; return predictions [B, H * M]."""
    previous, *rest = models.encoder.predict_on_batch(context_inputs(batch))
    states, memory = rest[: len(models.states)], rest[len(models.states) :]
    _, horizon, width = models.training.outputs[0].shape
    predictions = np.empty((len(batch), horizon, width), np.float32)
    previous = previous[:, None]
    for h in range(horizon):
        future = [known[:, h : h + 1] for known in future_inputs(batch)]
        previous, *states = models.step.predict_on_batch([previous, *future, *states, *memory])
        predictions[:, h] = previous[:, 0]
    return predictions.reshape(len(batch), -1)


def _exhausted(history: tuple[Epoch, ...], config: TrainConfig) -> bool:
    if not history:
        return False
    return history[-1].epoch >= config.epochs or history[-1].epoch - best_epoch(history).epoch >= config.patience


def _judge(
    models: Forecasters, valid: TrainingWindows, config: TrainConfig, feature: int, work: WorkFolder, unit: float
) -> Any:
    """Return the Keras callback that validates, checkpoints and stops early at the end of each epoch."""
    import keras

    class Judge(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            logs = {} if logs is None else logs
            line = _judged(models, valid, config, feature, epoch + 1, logs.get("loss", math.nan) * unit)
            logs |= {"teacher_forced": line.teacher_forced, "free_running": line.free_running}
            work.save(self.model, line)
            self.model.stop_training = _exhausted(work.history, config)

    return Judge()


def _judged(
    models: Forecasters, valid: TrainingWindows, config: TrainConfig, feature: int, epoch: int, loss: float
) -> Epoch:
    forced, free = evaluate(models, valid, config, feature)
    losses = [forced.masked_mse(forced.model), free.masked_mse(free.model)]
    if losses[0] is None or losses[1] is None or not math.isfinite(losses[1]):
        raise UsageError(explain("training diverged", got=losses, remedy="lower learning_rate, or set scaling"))
    return Epoch(epoch, loss, losses[0], losses[1])
