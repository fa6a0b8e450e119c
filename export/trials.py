"""`strategy = "auto"`: teacher forcing, then trials of the other strategies against as much more teacher forcing."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.checkpoints import Epoch, WorkFolder
from export.config import TrainConfig
from export.model import Forecasters
from export.source import TrainingWindows, trainable
from export.training import MODEL_FILE, VALIDATION_BATCH, Trained, free_running, train
from export.windows import Statistics
from runner.batch import F64
from runner.digests import digest
from runner.intervals import add_up, block_length, block_of, paired_interval

CONTROL = "teacher-forcing"
TRIED = ("scheduled-sampling", "curriculum", "free-running")
TRIAL_RATE = 0.25
"""Share of `learning_rate` that a trial begins with; docs/decisions/0018-strategies.md has what others did."""
RECORD_FILE = "trials.json"
NOTE = "chosen on the validation windows: the loss on them is optimistic, so judge by windows that had no part in it"
_NO_INTERVAL = "the validation windows make fewer than 20 blocks, too few to prove anything"


@dataclass(frozen=True, slots=True)
class Trial:
    """One strategy's further epochs, judged free-running on the validation windows.

    Attributes:
        best: its best epoch.
        difference: its masked MSE less the control's.
        interval: where that difference lies, by a paired bootstrap of blocks (95 %); None where there are too few.
        worth: the interval lies below 0, and the loss is below that of the start.
    """

    strategy: str
    best: Epoch
    difference: float
    interval: tuple[float, float] | None
    worth: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked, what was tried, and what was kept.

    Attributes:
        asked: `strategy` of the config.
        kept: the strategy whose weights the bundle has; with auto also "start" (none of the further epochs) or
            "control" (more teacher forcing).
        start: the best epoch before the trials; None where nothing was tried.
        control: the control's best epoch.
        trials: all of them, kept or not.
    """

    asked: str
    kept: str
    start: Epoch | None = None
    control: Epoch | None = None
    trials: tuple[Trial, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        found: dict[str, Any] = {"asked": self.asked, "kept": self.kept}
        if self.start and self.control:
            found |= {"start": _losses(self.start), "control": _losses(self.control)}
            found |= {"trials": [asdict(trial) | {"best": _losses(trial.best)} for trial in self.trials], "note": NOTE}
        return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """Weights as they were at a phase's best epoch, and their squared errors by validation window [N]."""

    trained: Trained
    weights: list[Any]
    squared: F64

    @property
    def best(self) -> Epoch:
        return self.trained.best


def train_as_asked(
    models: Forecasters,
    data: tuple[TrainingWindows, TrainingWindows],
    statistics: Statistics,
    config: TrainConfig,
    feature: int,
    work: WorkFolder,
    callbacks: Callable[[Path], list[Any]],
    say: Callable[[str], None],
) -> tuple[Trained, Choice]:
    """Train by the config's strategy, or by each of them in turn.

    Args:
        models: freshly built; on return they hold the weights that were kept.
        data: training and validation windows.
        statistics: of the training windows.
        config: the strategy, and all else.
        feature: index of the target among the past features.
        work: where checkpoints go; each trial has a folder of its own in it, and resumes by itself.
        callbacks: given the folder of a phase, makes Keras callbacks for display.
        say: takes log lines.

    Returns:
        The history that led to the weights that were kept, and the record of the choice.
    """

    def phase(folder: WorkFolder, strategy: str, **changes: Any) -> Outcome:
        course = config.model_copy(update={"strategy": strategy, **changes})
        trained = train(models, data, statistics, course, feature, folder, callbacks(folder.folder))
        return Outcome(trained, models.training.get_weights(), squared_errors(models, data[1]))

    if config.strategy != "auto":
        trained = train(models, data, statistics, config, feature, work, callbacks(work.folder))
        return trained, Choice(config.strategy, config.strategy)
    start = phase(work, CONTROL)
    further = {"learning_rate": TRIAL_RATE * config.learning_rate, "epochs": config.extra_epochs}
    outcomes = {}
    for strategy in (CONTROL, *TRIED):
        say(f"{config.extra_epochs} epochs of {strategy} from epoch {start.best.epoch}, {_loss(start.best)}")
        models.training.set_weights(start.weights)
        outcomes[strategy] = phase(_folder(work, strategy), strategy, **further, patience=config.extra_epochs)
    choice = choose(start, outcomes, block_windows(data[1]), data[1].sizes.horizon)
    for line in report(choice):
        say(line)
    kept = {"start": start, "control": outcomes[CONTROL], **outcomes}[choice.kept]
    models.training.set_weights(kept.weights)
    models.training.save(work.folder / MODEL_FILE)
    work.files.write(RECORD_FILE, json.dumps(choice.record(), indent=2).encode())
    return kept.trained, choice


def block_windows(valid: TrainingWindows) -> int:
    """Return how many consecutive windows a block holds at least: the fewer, the further apart they lie."""
    return math.ceil(block_length(valid.sizes.context, valid.sizes.horizon) / valid.stride)


def choose(start: Outcome, outcomes: dict[str, Outcome], length: int, horizon: int) -> Choice:
    """Compare every trial with the control, and keep the best of those that are proved better.

    Args:
        start: the phase before the trials.
        outcomes: control and trials by strategy, over the same windows.
        length: windows that a block holds at least.
        horizon: H.
    """
    control = outcomes[CONTROL]
    blocks = block_of(len(start.squared), length)
    cells = add_up(np.full(len(blocks), float(horizon)), blocks)
    trials = []
    for strategy in TRIED:
        other = outcomes[strategy]
        found = paired_interval(add_up(other.squared, blocks), add_up(control.squared, blocks), cells)
        worth = found is not None and found[1] < 0 and other.best.free_running < start.best.free_running
        difference = other.best.free_running - control.best.free_running
        trials.append(Trial(strategy, other.best, difference, found, worth))
    worthy = [trial for trial in trials if trial.worth]
    plain = "start" if start.best.free_running <= control.best.free_running else "control"
    kept = min(worthy, key=lambda trial: trial.best.free_running).strategy if worthy else plain
    return Choice("auto", kept, start.best, control.best, tuple(trials))


def report(choice: Choice) -> list[str]:
    """Say what came of each trial, and what was kept."""
    if choice.start is None or choice.control is None:
        return []
    lines = [f"start: {_loss(choice.start)}", f"control, more teacher forcing: {_loss(choice.control)}"]
    for trial in choice.trials:
        where = "no interval" if trial.interval is None else "95 % interval {:+.3g} to {:+.3g}".format(*trial.interval)
        proved = "better" if trial.worth else "not proved better"
        lines.append(f"{trial.strategy}: {_loss(trial.best)}, {trial.difference:+.3g} ({where}): {proved}")
    if any(trial.interval is None for trial in choice.trials):
        lines.append(_NO_INTERVAL)
    return [*lines, f"kept: {choice.kept}; {NOTE}"]


def squared_errors(models: Forecasters, valid: TrainingWindows) -> F64:
    """Return the free-running squared error of each good validation window, summed over what counts [N]."""
    sums = []
    for block in valid.blocks():
        kept = trainable(block)
        for first in range(0, len(kept), VALIDATION_BATCH):
            batch = kept.take(slice(first, first + VALIDATION_BATCH))
            if batch.target is None or batch.observed is None:
                raise ValueError("validation needs targets")
            error = np.where(batch.observed, free_running(models, batch) - batch.target, 0.0)
            sums.append((error * error).sum(axis=1))
    return np.concatenate(sums)


def _folder(work: WorkFolder, strategy: str) -> WorkFolder:
    return WorkFolder(work.folder / f"trial-{strategy}", digest({"training": work.identity, "trial": strategy}))


def _losses(epoch: Epoch) -> dict[str, Any]:
    return {"epoch": epoch.epoch, "teacher_forced": epoch.teacher_forced, "free_running": epoch.free_running}


def _loss(epoch: Epoch) -> str:
    return f"free-running masked MSE {epoch.free_running:.5g}"
