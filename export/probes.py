"""Train a finished network a little further, to find out what it would have gained: for diagnosis alone."""

from export.config import Strategy, TrainConfig
from export.examples import batches
from export.model import Forecasters
from export.source import TrainingWindows
from export.training import compiled
from export.windows import Statistics


def further_trained(
    models: Forecasters,
    train: TrainingWindows,
    statistics: Statistics,
    config: TrainConfig,
    feature: int,
    *,
    strategy: Strategy,
    epochs: int,
    learning_rate: float,
) -> None:
    """Train for some more epochs at a rate that decays along a cosine to near 0, and keep the last weights.

    Nothing is chosen on validation windows, so losses on them stay honest; and nothing is written. Whoever calls takes
    the weights before (`models.training.get_weights()`) and puts them back after. Teacher forcing is the control of any
    other strategy: the same windows in the same order, the same rate.

    Args:
        models: any that keep to the contract of `Forecasters`; their weights change.
        train: training windows.
        statistics: of them.
        config: batch size, seed, scaling, start value; its strategy, epochs and rate are not looked at.
        feature: index of the target among the past features.
        strategy: any but auto.
        epochs: how many more.
        learning_rate: at the first step.
    """
    course = config.model_copy(update={"strategy": strategy, "epochs": epochs, "learning_rate": learning_rate})
    model = compiled(models, statistics, course)
    model.fit(batches(train, statistics, course, feature), shuffle=False, epochs=epochs, verbose=0)
