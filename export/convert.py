"""Take a trained model that a team already has: take it apart, hold it against itself, release its bundle."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from export.anatomy import dissect
from export.bundle_writer import refuse_existing
from export.calls import operations_of
from export.certify import OPERATOR_OF_CELL, first_windows, tolerance_for
from export.config import BundleConfig
from export.examples import start_values
from export.model import Forecasters
from export.model_file import open_model, refuse_untrusted
from export.model_inputs import sizes_for
from export.pipeline import (
    check_names,
    describe,
    refuse_rejects,
    require_tensorflow,
    start_tensorflow,
    warn_of_another_feature,
)
from export.release import Released, Unreleased, release
from export.scaler import in_raw_units, read_scaler
from export.training import at_once, evaluate, free_running
from export.windows import Statistics, TrainingWindows, measure, open_windows
from runner.batch import Feature
from runner.errors import CertificationError, explain, listing
from runner.gap.case import shifted_in

SEED = 0
WINDOWS = 64
"""Of the validation data, that the parts are held against the whole on."""
ACTIVATIONS = ("tanh", "relu", "sigmoid")
"""Of an LSTM that becomes the ONNX operator."""

NOT_WRITTEN = ("gelu", "leaky_relu", "LeakyReLU")
"""Activations whose operator is TensorFlow's own, or has an attribute that the runner's audit does not know."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be converted.

    Attributes:
        model: a `.keras` file.
        valid: path or URI of windows to measure and certify on.
        columns: role -> column name, only where they differ.
        scaler: a JSON file that says how the data was scaled outside the model; None = it was not.
    """

    model: Path
    valid: str
    columns: dict[str, str] = field(default_factory=dict)
    scaler: Path | None = None


@dataclass(frozen=True, slots=True)
class Converted:
    """A bundle that was let out.

    Attributes:
        residual: by how much the model's forecast changes when it is fed back, in deviations of the target.
    """

    released: Released
    residual: float


def convert_model(
    source: Source, out: Path, config: BundleConfig, say: Callable[[str], None], *, trust: bool
) -> Converted:
    """Write the certified bundle of a training model.

    Args:
        source: the model and windows.
        out: where the bundle goes.
        config: names, and the start value in the units that the model is fed.
        say: takes log lines.
        trust: the user knows where the model comes from.

    Raises:
        UsageError: nobody said that the model is trusted, or the config does not fit it.
        InputError: the file or the data cannot be used.
        CertificationError: the model cannot be run step by step, or its graphs differ from it; no bundle is written.
        OutputError: the bundle cannot be written.
    """
    refuse_existing(out)
    refuse_untrusted(source.model, trust=trust)
    require_tensorflow()
    start_tensorflow(SEED)
    training = open_model(source.model, trust=trust)
    valid = _windows(training, source)
    feature, statistics = check_names(config, valid.sizes), measure(valid)
    refuse_rejects({source.valid: statistics}, config)
    say(describe(valid.sizes, statistics))
    warn_of_another_feature(statistics, feature, say)
    scaler = None if source.scaler is None else read_scaler(source.scaler, valid.sizes, config.start, feature)
    if scaler is not None:
        training = in_raw_units(training, scaler, valid.sizes)
        config = config.model_copy(update={"start": scaler.raw_start(config.start)})
    models = dissect(training, config.start, feature, valid.sizes)
    refuse_unwritten(models.training)
    residual = refuse_other_steps(models, valid, statistics, config, feature)
    say(f"{source.model}: states {', '.join(models.states)}; memory {', '.join(models.memory) or 'none'}; certifying")
    told = {
        "kind": "convert",
        "sha256": hashlib.sha256(source.model.read_bytes()).hexdigest(),
        "residual": residual,
        "scaler": None if scaler is None else scaler.model_dump(),
    }
    candidate = Unreleased(
        models=models,
        config=config,
        scaling="none" if scaler is None else "standard",
        statistics=statistics,
        feature=feature,
        losses=evaluate(models, valid, config, feature),
        origin={"config": config.model_dump(), "source": told},
    )
    return Converted(release(candidate, valid, out), residual)


def refuse_unwritten(training: Any) -> None:
    """Refuse layers that become loops in ONNX, which no bundle may hold, or no ONNX at all.

    Raises:
        CertificationError: names each of them.
    """
    found = [(operation, _in_the_way(operation)) for operation in operations_of(training)]
    problems = [f"layer {layer.name} ({type(layer).__name__}): {why}" for layer, why in found if why]
    if problems:
        expected = "LSTM layers with a sigmoid as recurrent_activation, and no masks"
        what = "the model has layers that cannot be written as ONNX without loops" + listing(problems)
        raise CertificationError(explain(what, expected=expected, remedy="train it with such layers"))


def _in_the_way(operation: Any) -> str | None:
    layer = getattr(operation, "forward_layer", operation)
    cell = getattr(layer, "cell", None)
    activation = getattr(getattr(operation, "activation", None), "__name__", type(operation).__name__)
    if activation in NOT_WRITTEN:
        return f"no bundle may hold the operator of {activation}"
    if type(operation).__name__ == "Masking" or getattr(operation, "mask_zero", False):
        return "it masks steps; give the steps that are there as past_observed"
    if cell is None:
        return None
    kind = OPERATOR_OF_CELL.get(type(cell).__name__)
    if kind is None:
        return f"a recurrence of {type(cell).__name__}"
    of_the_gates = getattr(getattr(cell, "recurrent_activation", None), "__name__", "sigmoid")
    if cell.activation.__name__ not in (ACTIVATIONS if kind == "LSTM" else ("tanh",)) or of_the_gates != "sigmoid":
        return f"its activations are {cell.activation.__name__} and {of_the_gates}"
    return None


def refuse_other_steps(
    models: Forecasters, valid: TrainingWindows, statistics: Statistics, config: BundleConfig, feature: Feature
) -> float:
    """Feed the free-running forecast of real windows to the training model: it must come out unchanged.

    Returns:
        The largest change, in deviations of each target.

    Raises:
        CertificationError: it is changed.
    """
    batch = first_windows(valid, WINDOWS)
    forecast = free_running(models, batch)
    again = at_once(models.training, batch, shifted_in(start_values(batch, config, feature), forecast))
    scales = [target.scale for target in statistics.targets]
    change = float((np.abs(again - forecast) / np.tile(scales, valid.sizes.horizon)).max())
    allowed = tolerance_for(statistics)
    if not change <= allowed:
        what = "step by step the decoder forecasts otherwise than the training model"
        got, expected = f"a difference of {change:.3g} deviations of the target", f"at most {allowed:.3g}"
        raise CertificationError(explain(what, got=got, expected=expected))
    return change


def _windows(training: Any, source: Source) -> TrainingWindows:
    sizes, flagged = sizes_for(training, source.valid, source.columns)
    return replace(open_windows(source.valid, sizes.past, source.columns, sizes), flagged=flagged)
