"""The order of a training: measure, build, fit, release."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from export.base import fit_base
from export.bundle_writer import refuse_existing
from export.checkpoints import WorkFolder, identity_of
from export.config import BundleConfig, TrainConfig
from export.model import build
from export.recipe import InputLayout, SeriesRecipe, settled
from export.release import Released, Unreleased, release
from export.series import open_series
from export.source import TrainingWindows
from export.static import static_of_series, with_static
from export.training import Trained, evaluate
from export.trials import Choice, train_as_asked
from export.windows import Statistics, measure, open_windows, told
from runner.batch import Feature, features_of
from runner.errors import InputError, UsageError, explain, listing
from runner.schema import Sizes

Say = Callable[[str], None]
"""Takes a line for the log."""


@dataclass(frozen=True, slots=True)
class Data:
    """Where the data is: paths or URIs, the columns that have other names than their roles, and what a row is."""

    train: str
    valid: str
    columns: dict[str, str] = field(default_factory=dict)
    layout: InputLayout = "windows"


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle that was let out, and how its model was trained."""

    released: Released
    trained: Trained
    choice: Choice


def train_bundle(
    data: Data, out: Path, config: TrainConfig, say: Say, callbacks: Callable[[Path], list[Any]]
) -> Exported:
    """Train a forecaster and write its certified bundle.

    Args:
        data: where training and validation data are.
        out: where the bundle goes; checkpoints and history go to `<out>.work` beside it.
        config: what to train.
        say: takes log lines.
        callbacks: given the folder of a phase of the training, makes Keras callbacks for display.

    Raises:
        UsageError, InputError: the config or the data cannot be used.
        CertificationError: the graphs differ from the Keras model; no bundle is written.
        OutputError: the bundle cannot be written.
    """
    refuse_existing(out)
    config, series = settled(config, data.layout)
    require_tensorflow()
    windows, valid = _open_series(data, config, series, say) if series else _open(data, config)
    feature = _single_target(config, windows.sizes)
    statistics = measure(windows)
    refuse_rejects({data.train: statistics, data.valid: measure(valid)}, config)
    say(describe(windows.sizes, statistics))
    warn_of_another_feature(statistics, feature, say)
    work = WorkFolder(out.with_name(f"{out.name}.work"), identity_of(config, windows, valid))
    if work.history:
        say(f"resuming after epoch {len(work.history)} of {config.epochs} ({work.folder})")
    start_tensorflow(config.seed)
    models = build(config, windows.sizes, statistics, feature, flagged=windows.flagged)
    if config.base == "linear":
        base = fit_base(models, windows, valid)
        say(f"{config.base} base: masked MSE {base.masked_mse:.5f} on VALID, ridge penalty {base.penalty:.2g}")
    trained, choice = train_as_asked(models, (windows, valid), statistics, config, feature, work, callbacks, say)
    say(f"best epoch {trained.best.epoch} of {trained.history[-1].epoch}; certifying")
    candidate = Unreleased(
        models=models,
        config=config,
        scaling=config.scaling,
        statistics=statistics,
        feature=feature,
        losses=evaluate(models, valid, config, feature),
        origin={"config": config.record(), "strategy": choice.record()},
        series=series,
    )
    return Exported(release(candidate, valid, out), trained, choice)


def _single_target(config: BundleConfig, sizes: Sizes) -> int:
    """Return the index of the target, of which a training takes one."""
    feature = None if sizes.targets > 1 else check_names(config, sizes)
    if not isinstance(feature, int):
        what, got = "a training forecasts a single target", f"target [{sizes.horizon}, {sizes.targets}]"
        remedy = "a target column [H] of one of them; convert takes a model of your own that has several"
        raise UsageError(explain(what, got=got, expected="target [H]", remedy=remedy))
    return feature


def check_names(config: BundleConfig, sizes: Sizes) -> Feature:
    """Return the index of the target among the past features, of several targets one for each.

    Raises:
        UsageError: names are of the wrong number, twice there, or do not name the targets.
    """
    for key, names, width in (
        ("feature_names", config.feature_names, sizes.past),
        ("future_names", config.future_names, sizes.future),
    ):
        if names is not None and (len(names) != width or len(set(names)) != width):
            raise UsageError(explain(f"{key} does not fit the data", got=names, expected=f"{width} different names"))
    names = config.feature_names or [f"f{index}" for index in range(sizes.past)]
    if isinstance(config.start, tuple) and (len(config.start) != sizes.targets or sizes.targets == 1):
        expected = f"a number, or a list of one for each of {sizes.targets} targets"
        raise UsageError(explain("start does not fit the targets", got=list(config.start), expected=expected))
    if sizes.targets == 1 and not isinstance(config.target_feature, tuple):
        return _place(config.target_feature, names)
    wanted = _listed(config.target_feature)
    found = tuple(_place(name, names) for name in wanted)
    if len(found) != sizes.targets or len(set(found)) != len(found):
        expected = f"{sizes.targets} different past features, in the order of the targets"
        remedy = "--set target_feature=" + ",".join(names[: sizes.targets])
        raise UsageError(
            explain("target_feature does not fit the targets", got=wanted, expected=expected, remedy=remedy)
        )
    return found


def _listed(given: int | str | tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return several targets, which the command line gives as one word with commas."""
    words = given.split(",") if isinstance(given, str) else given if isinstance(given, tuple) else [given]
    return tuple(int(word) if isinstance(word, str) and word.isdecimal() else word for word in words)


def _place(wanted: int | str, names: list[str]) -> int:
    if isinstance(wanted, int) and 0 <= wanted < len(names):
        return wanted
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    raise UsageError(
        explain("target_feature is not a past feature", got=wanted, expected=f"an index or one of {names}")
    )


def require_tensorflow() -> None:
    """Find out before any work whether what trains is installed.

    Raises:
        UsageError: it is not.
    """
    absent = [name for name in ("tensorflow", "keras", "tf2onnx", "onnxruntime") if find_spec(name) is None]
    if absent:
        remedy = "install freerun with its extras: cpu,export"
        raise UsageError(
            explain("training needs packages that are not installed", got=", ".join(absent), remedy=remedy)
        )


def _open_series(
    data: Data, config: TrainConfig, recipe: SeriesRecipe, say: Say
) -> tuple[TrainingWindows, TrainingWindows]:
    recipe = replace(recipe, static=static_of_series(data.train, config, data.columns))
    strides = (data.train, config.stride), (data.valid, config.valid_stride or recipe.horizon)
    train, valid = (open_series(text, recipe, data.columns, recipe.freq, stride) for text, stride in strides)
    for found in (train, valid):
        if found.torn:
            what = f"warning: {found.torn:,} series of {found.place} go on in another file, and count as others there"
            say(f"{what}; write all rows of a series into one file")
    return train, valid


def _open(data: Data, config: TrainConfig) -> tuple[TrainingWindows, TrainingWindows]:
    count = len(config.feature_names) if config.feature_names else None
    windows, valid = (open_windows(text, count, data.columns) for text in (data.train, data.valid))
    if windows.sizes != valid.sizes or windows.flagged != valid.flagged:
        what = "validation and training data differ in shape"
        raise InputError(explain(what, got=_shape(valid), expected=_shape(windows), remedy="cut both alike"))
    return with_static(windows, valid, config, data.columns)


def _shape(windows: TrainingWindows) -> str:
    sizes = windows.sizes
    flags = "with" if windows.flagged else "without"
    return (
        f"context {sizes.context}, horizon {sizes.horizon}, {sizes.past} past and {sizes.future} future features, "
        f"{flags} past_observed"
    )


def refuse_rejects(found: dict[str, Statistics], config: BundleConfig) -> None:
    """Refuse data of which more is bad than was agreed to: what is left would be another data set.

    Raises:
        InputError: names every data set of which that is so.
    """
    problems = []
    for text, statistics in found.items():
        bad = sum(statistics.rejects.values())
        if bad > config.max_reject_rate * (bad + statistics.windows + statistics.without_target):
            problems.append(f"{text}: {bad} rejected, {statistics.windows} good: {told(statistics.rejects)}")
    if problems:
        what = f"more is bad than max_reject_rate = {config.max_reject_rate} allows:" + listing(problems)
        remedy = "mend the data (docs/data-contract.md says what each reason means), or --set max_reject_rate=1"
        raise InputError(explain(what, remedy=remedy))


def warn_of_another_feature(found: Statistics, feature: Feature, say: Say) -> None:
    """Warn where a target does not look like the past feature that it is said to continue."""
    for index, target in zip(features_of(feature), found.targets, strict=True):
        location, scale = float(found.past_location[index]), float(found.past_scale[index])
        wide = max(scale, target.scale)
        if abs(location - target.location) > wide or wide > 10 * min(scale, target.scale):
            say(
                f"warning: past feature {index} ({location:.4g} +- {scale:.4g}) does not look like the target "
                f"({target.location:.4g} +- {target.scale:.4g}); is target_feature right?"
            )


def describe(sizes: Sizes, found: Statistics) -> str:
    """Say in a line what the windows are."""
    bad = sum(found.rejects.values())
    rejected = f", {bad:,} rejected ({told(found.rejects)})" if bad else ""
    rejected += f", {found.without_target:,} without a target" if found.without_target else ""
    several = f"{sizes.targets} targets, " if sizes.targets > 1 else ""
    words = (f"{category.name} ({len(category.values):,} words)" for category in sizes.categories)
    static = f"; static {', '.join([*sizes.numbers, *words])}" if sizes.static else ""
    return (
        f"{found.windows:,} windows{rejected}: context {sizes.context}, horizon {sizes.horizon}, {several}"
        f"{sizes.past} past and {sizes.future} future features{static}; "
        f"{found.excluded_share:.1%} of the targets excluded"
    )


def start_tensorflow(seed: int) -> None:
    """Import TensorFlow with its start-up notes kept off the terminal, and seed everything that draws."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault(
        "TF_ENABLE_ONEDNN_OPTS", "0"
    )  # one order of summation, so the same seed gives the same losses
    with _quiet_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()  # where the second half of the notes comes from
    import keras

    for talker in ("tensorflow", "tf2onnx"):  # hints about speed, small models, and training's leftovers in a graph
        logging.getLogger(talker).setLevel(logging.ERROR)
    keras.utils.set_random_seed(seed)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
