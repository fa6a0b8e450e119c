"""A team's model as encoder and step: of its training model, or of its unrolled inference model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from export.anatomy import dissect
from export.config import BundleConfig, Start
from export.examples import context_inputs, future_inputs
from export.inference import UnrolledLoop, read_loop
from export.model import Forecasters
from export.scaler import Scaler, around, forecasters_in_raw_units, in_raw_units, refuse_two_scalings
from export.single_step import forecasters_of_loop
from export.training import at_once
from export.written import refuse_unwritten
from runner.batch import F32, Feature, WindowBatch, features_of
from runner.errors import CertificationError, UsageError, explain
from runner.schema import Sizes

Kind = Literal["training", "inference"]


@dataclass(frozen=True, slots=True)
class Taken:
    """A model that was taken apart, in raw units.

    Attributes:
        kind: of the model in the file.
        models: around its layers.
        config: with the decoder's first input.
        again: what the model of the file itself makes of windows, and of the step by step forecast of them as decoder's
            input [B, H * M]: a training model is fed that, an inference model forecasts for itself. It must come out.
    """

    kind: Kind
    models: Forecasters
    config: BundleConfig
    again: Callable[[WindowBatch, F32], F32]


def take_training(model: Any, sizes: Sizes, config: BundleConfig, feature: Feature, scaler: Scaler | None) -> Taken:
    """Take a training model apart.

    Args:
        model: a Functional Keras model with encoder's and decoder's inputs.
        sizes: C, H, F, K and M.
        config: with the start value in the units that the model is fed.
        feature: index of the target among the past features; of several targets one for each.
        scaler: how the data was scaled outside the model.

    Raises:
        CertificationError: it cannot be run step by step, or not be written.
    """
    raw = model if scaler is None else in_raw_units(model, scaler, sizes)
    config = in_raw_start(config, scaler)
    models = dissect(raw, config.start, feature, sizes)
    refuse_unwritten(models.training)
    return Taken("training", models, config, partial(at_once, models.training))


def take_inference(model: Any, sizes: Sizes, config: BundleConfig, feature: Feature, scaler: Scaler | None) -> Taken:
    """Take an unrolled inference model apart; its own first input is the start value.

    Args:
        model: a Functional Keras model, past, past_observed?, future_known? -> predictions.
        sizes: C, H, F and K.
        config: a start value in it must be the model's own.
        feature: index of the target among the past features.
        scaler: how the data was scaled outside the model.

    Raises:
        CertificationError: no single step can be taken out of it, or not be written.
        UsageError: the model begins with something else than the config says.
    """
    import keras

    refuse_unwritten(model)
    loop, (index,) = read_loop(model, sizes), features_of(feature)  # of one target: `sizes_of_inference` sees to it
    config = config.model_copy(update={"start": start_of(loop, config, index)})
    models, whole = forecasters_of_loop(loop, config.start, index), keras.Model([*loop.inputs.values()], loop.output)
    if scaler is not None:
        refuse_two_scalings(scaler, config.start, feature)
        models, whole = forecasters_in_raw_units(models, scaler), around(whole, scaler)

    def again(batch: WindowBatch, _fed: F32) -> F32:
        found = whole.predict_on_batch([*context_inputs(batch), *future_inputs(batch)])
        return np.asarray(found).reshape(len(batch), -1)

    return Taken("inference", models, in_raw_start(config, scaler), again)


def in_raw_start(config: BundleConfig, scaler: Scaler | None) -> BundleConfig:
    """Return the config with its start value in raw units."""
    return config if scaler is None else config.model_copy(update={"start": scaler.raw_start(config.start)})


def start_of(loop: UnrolledLoop, config: BundleConfig, feature: int) -> Start:
    """Return the start value that the model has; the config's, where the model's cannot be read.

    Raises:
        CertificationError: it cannot be read, and the config has none either; or it is another feature's last value.
        UsageError: the config has another.
    """
    asked = config.start if "start" in config.model_fields_set else None
    found = loop.start()
    if found is None and asked is None:
        what, expected = "the first input of the decoder is not known", "a constant, or the last target of the context"
        remedy = "--set start=..., if it is one of these for your data"
        raise CertificationError(
            explain(what, got=f"what {loop.first_maker()} gives", expected=expected, remedy=remedy)
        )
    if found is None:
        return config.start
    value, of = found
    if of is not None and of != feature:
        what, remedy = "the decoder begins with the last value of another feature", f"--set target_feature={of}"
        raise CertificationError(explain(what, got=of, expected=f"target_feature, {feature}", remedy=remedy))
    if asked not in {None, value}:
        what = "the inference model begins with another start value"
        raise UsageError(
            explain(what, got=value, expected=f"start = {asked}", remedy=f"--set start={value}, or nothing")
        )
    return value
