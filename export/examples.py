"""What the Keras models are fed: windows as inputs, targets and weights, streamed from the data."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from export.config import BundleConfig, Start, TrainConfig
from export.source import TrainingWindows
from export.static import some_unknown
from export.strategies import Generators, generators, noise, uses
from export.windows import Statistics
from runner.batch import F32, Feature, WindowBatch, features_of
from runner.decode import teacher_inputs
from runner.score import naive_last


def batches(
    windows: TrainingWindows, statistics: Statistics, config: TrainConfig, feature: int, first_epoch: int = 0
) -> Any:
    """Return a tf.data pipeline of a strategy's examples; each pass over it is the next epoch.

    Args:
        windows: training windows.
        statistics: of the training windows.
        config: strategy, batch size, seed and scaling; the strategy's rules run over all of its epochs.
        feature: index of the target among the past features.
        first_epoch: which epoch the first pass is, from 0.

    Returns:
        Inputs of the training model, or of the mixed one where the strategy needs that; targets and weights [B, H].
    """
    import tensorflow as tf

    epoch, steps = first_epoch - 1, steps_of(statistics, config)

    def one_epoch() -> Iterator[Any]:
        nonlocal epoch
        epoch += 1
        draws = generators(config.seed, epoch)
        for step, batch in enumerate(windows.shuffled(config.batch_size, config.seed, epoch)):
            shown = some_unknown(batch, sizes.categories, draws[2])
            yield _example(shown, statistics, config, feature, (epoch + step / steps) / config.epochs, draws)

    sizes = windows.sizes
    shapes = [(sizes.context, sizes.past), *([(sizes.context,)] if windows.flagged else [])]
    shapes += [(sizes.static_width,)] if sizes.static else []
    shapes += [(sizes.horizon, 1)]
    shapes += [(sizes.horizon,)] if feeds_itself(config) else []
    shapes += [(sizes.horizon, sizes.future)] if sizes.future else []
    inputs = tuple(tf.TensorSpec((None, *shape), tf.float32) for shape in shapes)
    target = tf.TensorSpec((None, sizes.horizon, 1), tf.float32)
    weight = tf.TensorSpec((None, sizes.horizon), tf.float32)
    signature = (inputs, target, weight)
    stream = tf.data.Dataset.from_generator(one_epoch, output_signature=signature)
    return stream.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)


def feeds_itself(config: TrainConfig) -> bool:
    """Say whether the strategy ever feeds a prediction back; else the training model does, which is quicker."""
    return config.strategy != "teacher-forcing"


def steps_of(statistics: Statistics, config: TrainConfig) -> int:
    """Return the batches of an epoch."""
    return math.ceil(statistics.windows / config.batch_size)


def loss_unit(statistics: Statistics, config: TrainConfig) -> float:
    """Return what the loss is divided by: it keeps it near 1 whatever the target's unit; one learning rate fits all."""
    return 1.0 if config.scaling == "none" else statistics.target_scale**2


def context_inputs(batch: WindowBatch) -> list[F32]:
    """Return the encoder's inputs, in its order."""
    return list(batch.context().values())


def future_inputs(batch: WindowBatch) -> list[F32]:
    """Return the known covariates [B, H, K], or nothing."""
    return [] if batch.future_known is None else [batch.future_known]


def teacher_values(batch: WindowBatch, config: BundleConfig, feature: Feature) -> F32:
    """Return what a teacher-forced decoder is fed, in raw units [B, H * M]."""
    return teacher_inputs(start_values(batch, config, feature), batch)


def start_values(batch: WindowBatch, config: BundleConfig, feature: Feature) -> F32:
    """Return the decoder's first input in raw units [B, M], as the encoder graph computes it."""
    return first_inputs(batch, config.start, features_of(feature))


def first_inputs(batch: WindowBatch, start: Start, features: tuple[int, ...]) -> F32:
    """Return a constant, or the last observed value of these features, for each window [B, M]."""
    if start != "last":
        return np.full((len(batch), len(features)), start, np.float32)
    there = np.ones(batch.past.shape[:2], bool) if batch.past_observed is None else batch.past_observed == 1
    pasts = (batch.past[:, :, index].astype(np.float64) for index in features)
    return np.stack([naive_last(past, there) for past in pasts], axis=1).astype(np.float32)


def _example(
    batch: WindowBatch,
    statistics: Statistics,
    config: TrainConfig,
    feature: int,
    progress: float,
    draws: Generators,
) -> Any:
    """Return inputs, target and weights. Mean squared error weighted 0 and 1 over all cells is the masked MSE."""
    if batch.target is None or batch.observed is None:
        raise ValueError("training needs targets")
    teacher = teacher_values(batch, config, feature)
    if config.input_noise:
        teacher = teacher + noise(config, statistics.target_scale, teacher.shape, draws[1])
    use = [uses(config, progress, teacher.shape, draws[0])] if feeds_itself(config) else []
    inputs = (*context_inputs(batch), teacher[:, :, None], *use, *future_inputs(batch))
    target = np.where(batch.observed, batch.target, 0.0).astype(np.float32)
    weight = batch.observed.astype(np.float32) / np.float32(loss_unit(statistics, config))
    return inputs, target[:, :, None], weight
