"""A training model and somebody's predictions, read and made comparable."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from export.config import Start
from export.examples import first_inputs
from export.keras_machine import Compiled, compiled, context_of
from export.model_inputs import named, sizes_for
from runner.batch import F32, F64, Feature, WindowBatch, features_of
from runner.errors import InputError, explain
from runner.gap.case import shifted_in
from runner.gap.windows import read_windows
from runner.schema import Sizes
from runner.stop import Stop

MOST_BYTES = 1 << 26
"""Windows that are looked at, in memory: some 50,000 of the demo's."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be audited.

    Attributes:
        model: a `.keras` file.
        data: path or URI of Parquet windows.
        predictions: the column with the forecasts in raw units [H], of several targets [H, M].
        columns: role -> column name, only where they differ.
        start: the decoder's first input; overridden by the first value of `decoder_input` where the data has it.
        feature: index of the target among the past features, of several targets one for each.
    """

    model: Path
    data: str
    predictions: str
    columns: Mapping[str, str] = field(default_factory=dict)
    start: Start = -1.0
    feature: Feature = 0


@dataclass(frozen=True, slots=True)
class Audited:
    """Model and data, ready to be compared.

    Attributes:
        sizes: C, H, F, K and M.
        run: the training model as a function of past, past_observed?, decoder_input and future_known?.
        whole: the training model, with these inputs.
        batch: windows with a target and predictions [N, ...].
        given: the predictions, in raw units [N, H * M].
        start: the first decoder inputs, in raw units [N, M].
        left_out: good rows without a prediction.
        rejected: rows with bad cells.
        taken_every: k, where only every k-th block of windows was read.
    """

    sizes: Sizes
    run: Compiled
    whole: Any
    batch: WindowBatch
    given: F32
    start: F32
    left_out: int
    rejected: int
    taken_every: int

    @property
    def complete(self) -> bool:
        """Tell whether no row is missing, so that a row's number is its place in the data."""
        return self.taken_every == 1 and not self.rejected and not self.left_out

    def at_once(self, fed: F32) -> F32:
        """Run the training model on decoder inputs [N, H * M]; return predictions [N, H * M]."""
        known = [] if self.batch.future_known is None else [self.batch.future_known]
        shaped = fed.reshape(len(fed), self.sizes.horizon, self.sizes.targets)
        return self.run([*context_of(self.batch), shaped, *known])[0].reshape(fed.shape)

    def residual(self) -> F64:
        """Return what the training model makes of the predictions, fed back, less the predictions [N, H * M]."""
        return np.asarray(self.at_once(shifted_in(self.start, self.given)).astype(np.float64) - self.given)

    @property
    def scales(self) -> tuple[float, ...]:
        """Return each target's deviation where it counts; that of its predictions, where it does not deviate [M]."""
        return tuple(self._scale(slice(index, None, self.sizes.targets)) for index in range(self.sizes.targets))

    def _scale(self, own: slice) -> float:
        target, observed = self.batch.target, self.batch.observed
        counted = np.zeros(0) if target is None or observed is None else target[:, own][observed[:, own]]
        deviations = [float(values.std()) for values in (counted, self.given[:, own].astype(np.float64)) if values.size]
        return next((deviation for deviation in deviations if deviation > 0), 1.0)


def read_audited(training: Any, question: Question) -> Audited:
    """Read the windows that have predictions.

    Args:
        training: the Keras model.
        question: what is to be audited.

    Raises:
        InputError: the data cannot be read, does not fit the model, or has no predictions.
        CertificationError: the model is no sequence-to-sequence forecaster that takes decoder inputs.
    """
    sizes, flagged = sizes_for(training, question.data, question.columns)
    features = features_of(question.feature)
    if not all(0 <= feature < sizes.past for feature in features):
        what, expected = "the target is no past feature", f"0 to {sizes.past - 1}"
        raise InputError(explain(what, got=question.feature, expected=expected))
    if question.start == "last" and len(features) != sizes.targets:
        what, expected = "start = last needs the past feature of each target", f"{sizes.targets} of them"
        raise InputError(explain(what, got=question.feature, expected=expected, remedy="--target-feature 0,1"))
    columns = {**question.columns, "prediction": question.predictions}
    read = read_windows(question.data, sizes, columns, Stop(), flagged=flagged, most_bytes=MOST_BYTES)
    given = read.prediction if read.prediction is not None else np.full((len(read), 1), np.nan, np.float32)
    kept = np.flatnonzero(np.isfinite(given).all(axis=1))
    if not len(kept):
        what = f"column '{question.predictions}' of {question.data} holds no predictions"
        raise InputError(explain(what, got=f"{len(read)} rows without", expected=f"{sizes.horizon} numbers a row"))
    batch, whole = read.batch.take(kept), named(training, sizes)
    return Audited(
        sizes=sizes,
        run=compiled(whole),
        whole=whole,
        batch=batch,
        given=given[kept],
        start=start_values(batch, question, sizes.targets),
        left_out=len(read) - len(kept),
        rejected=read.rejected,
        taken_every=read.taken_every,
    )


def start_values(batch: WindowBatch, question: Question, targets: int) -> F32:
    """Return the first decoder inputs [B, M]: those of the data where it has some, else what was asked for."""
    if batch.decoder_input is not None:
        return np.ascontiguousarray(batch.decoder_input[:, :targets])
    features = features_of(question.feature) if question.start == "last" else (0,) * targets
    return first_inputs(batch, question.start, features)
