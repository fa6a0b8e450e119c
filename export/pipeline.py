"""The order of an export: measure, build, fit, convert, audit, certify, write."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.bundle_writer import draft_manifest, provisional, refuse_existing, write_bundle
from export.certify import (
    GOLDEN_WINDOWS,
    Candidate,
    Certificate,
    audit_pair,
    certify,
    first_windows,
    golden_predictions,
)
from export.config import TrainConfig
from export.graphs import convert
from export.model import build
from export.training import Trained, WorkFolder, evaluate, identity_of, train
from export.windows import Statistics, TrainingWindows, measure, open_windows
from runner.bundle import audit_bundle, open_bundle
from runner.errors import InputError, UsageError, explain
from runner.manifest import Manifest
from runner.schema import Sizes

Say = Callable[[str], None]
"""Takes a line for the log."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle that was let out."""

    manifest: Manifest
    certificate: Certificate
    trained: Trained


def train_bundle(
    train_text: str, valid_text: str, out: Path, config: TrainConfig, say: Say, callbacks: Callable[[int], list[Any]]
) -> Exported:
    """Train a forecaster and write its certified bundle.

    Args:
        train_text: the training data, in the windows layout.
        valid_text: the validation data, likewise.
        out: where the bundle goes; checkpoints and history go to `<out>.work` beside it.
        config: what to train.
        say: takes log lines.
        callbacks: given the steps of an epoch, returns Keras callbacks for display.

    Raises:
        UsageError, InputError: the config or the data cannot be used.
        CertificationError: the graphs differ from the Keras model; no bundle is written.
        OutputError: the bundle cannot be written.
    """
    refuse_existing(out)
    windows, valid = _open(train_text, valid_text, config)
    feature = check_names(config, windows.sizes)
    statistics = measure(windows)
    say(_describe(windows.sizes, statistics))
    work = WorkFolder(out.with_name(f"{out.name}.work"), identity_of(config, windows, valid))
    if work.history:
        say(f"resuming after epoch {len(work.history)} of {config.epochs} ({work.folder})")
    start_tensorflow(config.seed)
    models = build(config, windows.sizes, statistics, feature, flagged=windows.flagged)
    steps = -(-statistics.windows // config.batch_size)
    trained = train(models, (windows, valid), statistics, config, feature, work, callbacks(steps))
    say(f"best epoch {trained.best.epoch} of {len(trained.history)}; certifying")
    graphs = convert(models)
    audit = audit_pair(models, graphs)
    draft = draft_manifest(config, windows.sizes, statistics, feature, models, graphs, flagged=windows.flagged)
    candidate = Candidate(models, graphs, provisional(draft), config)
    certificate = certify(candidate, valid, audit, evaluate(models, valid, config, feature))
    golden = first_windows(valid, GOLDEN_WINDOWS)
    manifest = write_bundle(out, candidate, draft, certificate, (golden, golden_predictions(candidate, golden)))
    audit_bundle(open_bundle(out))  # the runner must take what export wrote
    return Exported(manifest, certificate, trained)


def check_names(config: TrainConfig, sizes: Sizes) -> int:
    """Return the index of the target among the past features.

    Raises:
        UsageError: names are of the wrong number, twice there, or do not name the target.
    """
    for key, names, width in (
        ("feature_names", config.feature_names, sizes.past),
        ("future_names", config.future_names, sizes.future),
    ):
        if names is not None and (len(names) != width or len(set(names)) != width):
            raise UsageError(explain(f"{key} does not fit the data", got=names, expected=f"{width} different names"))
    names = config.feature_names or [f"f{index}" for index in range(sizes.past)]
    wanted = config.target_feature
    if isinstance(wanted, int) and 0 <= wanted < sizes.past:
        return wanted
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    raise UsageError(
        explain("target_feature is not a past feature", got=wanted, expected=f"an index or one of {names}")
    )


def _open(train_text: str, valid_text: str, config: TrainConfig) -> tuple[TrainingWindows, TrainingWindows]:
    count = len(config.feature_names) if config.feature_names else None
    windows, valid = open_windows(train_text, count), open_windows(valid_text, count)
    if windows.sizes != valid.sizes or windows.flagged != valid.flagged:
        got = f"{valid.sizes}, past_observed {valid.flagged}"
        expected = f"{windows.sizes}, past_observed {windows.flagged}"
        raise InputError(explain("validation and training data differ in shape", got=got, expected=expected))
    return windows, valid


def _describe(sizes: Sizes, found: Statistics) -> str:
    rejected = f", {found.rejected:,} rejected" if found.rejected else ""
    return (
        f"{found.windows:,} windows{rejected}: context {sizes.context}, horizon {sizes.horizon}, {sizes.past} past and "
        f"{sizes.future} future features; {found.excluded_share:.1%} of the targets excluded"
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
