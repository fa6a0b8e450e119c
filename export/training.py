"""Teacher-forced training with both losses after each epoch; the best epoch is the best one free-running."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.config import TrainConfig
from export.model import Forecasters
from export.windows import Statistics, TrainingWindows, trainable
from runner.batch import F32, WindowBatch
from runner.decode import teacher_inputs
from runner.digests import digest
from runner.errors import UsageError, explain
from runner.score import naive_last, score_block
from runner.storage import OutputFolder
from runner.totals import Score

STATE_FILE = "state.json"
HISTORY_FILE = "history.csv"
MODEL_FILE = "model.keras"
VALIDATION_BATCH = 1024
FINAL_LEARNING_RATE = 0.01
"""Share of the learning rate that is left at the last step of the cosine decay."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the history; losses are `masked_mse` in raw units.

    Attributes:
        train: the running loss while the weights still moved.
        teacher_forced, free_running: on the validation windows, after the epoch.
    """

    epoch: int
    train: float
    teacher_forced: float
    free_running: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What training leaves behind: the models hold the best epoch's weights."""

    history: tuple[Epoch, ...]
    best: Epoch
    validation_windows: int


class WorkFolder:
    """The folder beside the bundle that makes training resumable: weights by epoch, and a small state file.

    The state file names the weights it belongs to and is replaced as a whole, so a kill at any moment leaves a
    consistent pair. Best epoch and patience are computed from the history, never stored.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity
        self.files = OutputFolder(folder)
        self.files.prepare()
        self.files.reclaim()
        self.history = self._load()

    def weights(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04d}.weights.h5"

    def save(self, model: Any, line: Epoch) -> None:
        """Keep the weights of this epoch and of the best one, and forget all others."""
        model.save_weights(self.weights(line.epoch), overwrite=True)
        self.history = (*self.history, line)
        state = {"identity": self.identity, "history": [asdict(epoch) for epoch in self.history]}
        self.files.write(STATE_FILE, json.dumps(state, indent=2).encode())
        self.files.write(HISTORY_FILE, _csv(self.history).encode())
        keep = {self.weights(line.epoch), self.weights(best_epoch(self.history).epoch)}
        for path in self.folder.glob("epoch-*.weights.h5"):
            if path not in keep:
                path.unlink()

    def _load(self) -> tuple[Epoch, ...]:
        content = self.files.read(STATE_FILE)
        if content is None:
            return ()
        state = json.loads(content)
        if state["identity"] != self.identity:
            remedy = f"remove {self.folder}, or give another --out"
            raise UsageError(explain(f"{self.folder} holds a training of another config or other data", remedy=remedy))
        return tuple(Epoch(**line) for line in state["history"])


def identity_of(config: TrainConfig, train: TrainingWindows, valid: TrainingWindows) -> str:
    """Return what a training may be resumed for: the same files, and all of the config that training looks at."""
    trained = config.model_dump(exclude={"precision"})
    return digest({"config": trained, "train": train.signature, "valid": valid.signature})


def best_epoch(history: tuple[Epoch, ...]) -> Epoch:
    """Return the epoch with the lowest free-running loss, the earliest of equals."""
    return min(history, key=lambda line: (line.free_running, line.epoch))


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
        models: freshly built; on return they hold the best epoch's weights.
        data: training and validation windows.
        statistics: of the training windows.
        config: epochs, batch size, learning rate, patience, seed.
        feature: index of the target among the past features.
        work: where checkpoints and history go.
        callbacks: Keras callbacks for display.

    Returns:
        The history and its best epoch; the same for the same seed, killed and resumed or not.
    """
    import keras

    windows, valid = data
    steps = math.ceil(statistics.windows / config.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * steps, FINAL_LEARNING_RATE)
    unit = 1.0 if config.scaling == "none" else statistics.target_scale**2
    models.training.compile(
        optimizer=keras.optimizers.Adam(schedule, clipnorm=1.0), loss=keras.losses.MeanSquaredError()
    )
    models.training.optimizer.build(models.training.trainable_variables)
    done = len(work.history)
    if done:
        models.training.load_weights(work.weights(done))
    judge = _judge(models, valid, config, feature, work, unit)
    if not _exhausted(work.history, config):
        models.training.fit(
            _batches(windows, config, feature, unit, steps=steps, first_epoch=done),
            shuffle=False,
            initial_epoch=done,
            epochs=config.epochs,
            verbose=0,
            callbacks=[judge, *callbacks],
        )
    best = best_epoch(work.history)
    models.training.load_weights(work.weights(best.epoch))
    models.training.save(work.folder / MODEL_FILE)
    return Trained(work.history, best, sum(len(trainable(block)) for block in valid.blocks()))


def evaluate(models: Forecasters, valid: TrainingWindows, config: TrainConfig, feature: int) -> tuple[Score, Score]:
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


def teacher_forced(models: Forecasters, batch: WindowBatch, config: TrainConfig, feature: int) -> F32:
    """Run the training model once over a batch; return predictions [B, H]."""
    inputs = [*_context(batch), _teacher(batch, config, feature), *_future(batch)]
    return np.asarray(models.training.predict_on_batch(inputs))[:, :, 0]


def free_running(models: Forecasters, batch: WindowBatch) -> F32:
    """Run encoder and step in a loop over a batch, each prediction the next input; return predictions [B, H]."""
    previous, *rest = models.encoder.predict_on_batch(_context(batch))
    states, memory = rest[: len(models.states)], rest[len(models.states) :]
    horizon = models.training.outputs[0].shape[1]
    predictions = np.empty((len(batch), horizon), np.float32)
    previous = previous[:, :, None]
    for h in range(horizon):
        future = [known[:, h : h + 1] for known in _future(batch)]
        previous, *states = models.step.predict_on_batch([previous, *future, *states, *memory])
        predictions[:, h] = previous[:, 0, 0]
    return predictions


def start_values(batch: WindowBatch, config: TrainConfig, feature: int) -> F32:
    """Return the decoder's first input in raw units [B, 1], as the encoder graph computes it."""
    if config.start != "last":
        return np.full((len(batch), 1), config.start, np.float32)
    past = batch.past[:, :, feature].astype(np.float64)
    there = np.ones(past.shape, bool) if batch.past_observed is None else batch.past_observed == 1
    return naive_last(past, there)[:, None].astype(np.float32)


def _batches(
    windows: TrainingWindows, config: TrainConfig, feature: int, unit: float, *, steps: int, first_epoch: int
) -> Any:
    """Return a tf.data pipeline; each pass over it is the next epoch's shuffle."""
    import tensorflow as tf

    epoch = first_epoch - 1

    def one_epoch() -> Iterator[Any]:
        nonlocal epoch
        epoch += 1
        for batch in windows.shuffled(config.batch_size, config.seed, epoch):
            yield _example(batch, config, feature, unit)

    sizes = windows.sizes
    shapes = [(sizes.context, sizes.past), *([(sizes.context,)] if windows.flagged else []), (sizes.horizon, 1)]
    shapes += [(sizes.horizon, sizes.future)] if sizes.future else []
    inputs = tuple(tf.TensorSpec((None, *shape), tf.float32) for shape in shapes)
    target = tf.TensorSpec((None, sizes.horizon, 1), tf.float32)
    weight = tf.TensorSpec((None, sizes.horizon), tf.float32)
    signature = (inputs, target, weight)
    stream = tf.data.Dataset.from_generator(one_epoch, output_signature=signature)
    return stream.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)


def _example(batch: WindowBatch, config: TrainConfig, feature: int, unit: float) -> Any:
    """Return inputs, target and weights. Mean squared error weighted 0 and 1 over all cells is the masked MSE.

    `unit` only keeps the loss near 1 whatever the target's unit, so that one learning rate fits all.
    """
    if batch.target is None or batch.observed is None:
        raise ValueError("training needs targets")
    inputs = (*_context(batch), _teacher(batch, config, feature), *_future(batch))
    target = np.where(batch.observed, batch.target, 0.0).astype(np.float32)
    return inputs, target[:, :, None], batch.observed.astype(np.float32) / np.float32(unit)


def _context(batch: WindowBatch) -> list[F32]:
    return [batch.past, *([] if batch.past_observed is None else [batch.past_observed])]


def _future(batch: WindowBatch) -> list[F32]:
    return [] if batch.future_known is None else [batch.future_known]


def _teacher(batch: WindowBatch, config: TrainConfig, feature: int) -> F32:
    return teacher_inputs(start_values(batch, config, feature), batch)[:, :, None]


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
            forced, free = evaluate(models, valid, config, feature)
            losses = [forced.masked_mse(forced.model), free.masked_mse(free.model)]
            if losses[0] is None or losses[1] is None or not math.isfinite(losses[1]):
                raise UsageError(explain("training diverged", got=losses, remedy="lower learning_rate, or set scaling"))
            logs = {} if logs is None else logs
            logs |= {"teacher_forced": losses[0], "free_running": losses[1]}
            work.save(self.model, Epoch(epoch + 1, logs.get("loss", math.nan) * unit, losses[0], losses[1]))
            self.model.stop_training = _exhausted(work.history, config)

    return Judge()


def _csv(history: tuple[Epoch, ...]) -> str:
    lines = [f"{line.epoch},{line.train!r},{line.teacher_forced!r},{line.free_running!r}" for line in history]
    return "\n".join(["epoch,train,teacher_forced,free_running", *lines]) + "\n"
