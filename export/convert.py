"""Take a trained model that a team already has: take it apart, hold it against itself, release its bundle."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle_writer import refuse_existing
from export.certify import first_windows, tolerance_for
from export.config import BundleConfig
from export.examples import start_values
from export.inference_inputs import is_inference_model, sizes_of_inference
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
from export.scaler import read_scaler
from export.source import TrainingWindows
from export.taken import Kind, Taken, take_inference, take_training
from export.training import evaluate, free_running
from export.windows import Statistics, measure, open_windows
from export.written import refuse_unwritten_parts
from runner.batch import Feature
from runner.errors import CertificationError, explain
from runner.gap.case import shifted_in

SEED = 0
WINDOWS = 64
"""Of the validation data, that the parts are held against the whole on."""


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
        kind: of the model that it was made of.
        residual: how far the step by step forecast is from what that model makes of it (see `Taken`), in deviations of
            the target.
    """

    released: Released
    kind: Kind
    residual: float


def convert_model(
    source: Source, out: Path, config: BundleConfig, say: Callable[[str], None], *, trust: bool
) -> Converted:
    """Write the certified bundle of a training model, or of an unrolled inference model.

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
    model = open_model(source.model, trust=trust)
    valid = _windows(model, source)
    feature, statistics = check_names(config, valid.sizes), measure(valid)
    refuse_rejects({source.valid: statistics}, config)
    say(describe(valid.sizes, statistics))
    warn_of_another_feature(statistics, feature, say)
    scaler = None if source.scaler is None else read_scaler(source.scaler, valid.sizes, config.start, feature)
    take = take_inference if is_inference_model(model) else take_training
    taken = take(model, valid.sizes, config, feature, scaler)
    models, config = taken.models, taken.config
    residual = refuse_other_steps(taken, valid, statistics, feature)
    say(f"{source.model}: states {', '.join(models.states)}; memory {', '.join(models.memory) or 'none'}; certifying")
    told = {
        "kind": "convert",
        "model": taken.kind,
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
    try:
        return Converted(release(candidate, valid, out), taken.kind, residual)
    except CertificationError as error:
        refuse_unwritten_parts(models, error)
        raise


def refuse_other_steps(taken: Taken, valid: TrainingWindows, statistics: Statistics, feature: Feature) -> float:
    """Forecast real windows step by step, and compare with what the model of the file makes of them.

    Returns:
        The largest difference, in deviations of each target.

    Raises:
        CertificationError: it is too large.
    """
    batch = first_windows(valid, WINDOWS)
    forecast = free_running(taken.models, batch)
    fed = shifted_in(start_values(batch, taken.config, feature), forecast)
    scales = np.tile([target.scale for target in statistics.targets], valid.sizes.horizon)
    difference = (np.abs(taken.again(batch, fed) - forecast) / scales).max(axis=0)
    allowed = tolerance_for(statistics)
    if not (difference <= allowed).all():
        first = int(np.argmax(~(difference <= allowed))) // len(statistics.targets) + 1
        what = f"run step by step, the decoder forecasts otherwise than the {taken.kind} model, from step {first} on"
        got, expected = f"a difference of {difference.max():.3g} deviations of the target", f"at most {allowed:.3g}"
        remedy = "is the start value (--set start=...) that of the model? Else report it with the model"
        raise CertificationError(explain(what, got=got, expected=expected, remedy=remedy))
    return float(difference.max())


def _windows(model: Any, source: Source) -> TrainingWindows:
    find = sizes_of_inference if is_inference_model(model) else sizes_for
    sizes, flagged = find(model, source.valid, source.columns)
    return replace(open_windows(source.valid, sizes.past, source.columns, sizes), flagged=flagged)
