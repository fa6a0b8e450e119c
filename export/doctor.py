"""Audit an inference that somebody already has: the training model, and the predictions it is said to have made.

A free-running forecast that is fed, shifted by one step, to the training model as decoder input must come out of it
unchanged. Where it does not, the loop that made it is not the model's, whatever its loss is.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from export.anatomy import forecasters_of
from export.audited import Audited, Question, read_audited, start_values
from export.dissected import Dissected, sort_calls
from export.keras_machine import machine_of_keras
from export.layer_faults import dropout_suspect, stateful_alternative
from export.model_file import open_model, refuse_untrusted
from export.scaling_faults import scaling_faults
from runner.batch import F32, F64, Bool, WindowBatch
from runner.errors import CertificationError
from runner.gap.case import Case, case_of, tolerance
from runner.gap.forecasts import Forecast, squared_errors
from runner.gap.machine import Encoded, Machine, unroll
from runner.gap.suspects import SAMPLE, Suspect, examine, ranked

PASSING = 64
"""Windows of the sample that come out right, where there are some: what explains the others must explain them too."""
ROUNDING = 1e-2
"""Differences below so many deviations are what another precision or device makes, hardly a loop."""
MANY_EXCLUDED = 0.5
MOST_STEPS = 2_000_000
"""Windows times steps that the training model is run over, where it cannot be run step by step."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found.

    Attributes:
        windows: audited ones; left_out: rows without a prediction.
        failing: windows whose predictions are not the model's.
        scale: deviation of the targets that count; of several targets a list with one for each.
        allowed: largest difference of equal forecasts, in these deviations.
        residual: the largest difference by step, in these deviations; infinite where the model gives no number [H].
        first_failing_step: from 1 on; None = the predictions are the model's.
        suspects: simulated faults, the matching ones first.
        loss_given, loss_right: masked MSE of the predictions, and of the model's own loop, on the same cells.
    """

    model: str
    windows: int
    left_out: int
    failing: int
    scale: float | tuple[float, ...]
    allowed: float
    residual: tuple[float, ...]
    first_failing_step: int | None
    suspects: tuple[Suspect, ...]
    loss_given: float
    loss_right: float | None
    notes: tuple[str, ...]

    @property
    def fault(self) -> Suspect | None:
        return next((suspect for suspect in self.suspects if suspect.matches), None)


def diagnose(question: Question, *, trust: bool) -> Diagnosis:
    """Compare predictions with the model that is said to have made them, and name what was done wrong.

    Raises:
        UsageError: nobody said that the model is trusted.
        InputError: model or data cannot be read, or do not fit each other.
        CertificationError: the model is no sequence-to-sequence forecaster that takes decoder inputs.
    """
    refuse_untrusted(question.model, trust=trust)
    training = open_model(question.model, trust=trust)
    audited = read_audited(training, question)
    scales, residual = audited.scales, _residual(audited)
    levels = (np.abs(audited.given[:, index :: len(scales)]).max() for index in range(len(scales)))
    allowed = max(tolerance(float(level), scale) for level, scale in zip(levels, scales, strict=True))
    wrong = ~(residual <= allowed)
    opened, notes = _taken_apart(training, audited, question)
    right = _right(audited, opened[1] if opened else None)
    suspects: tuple[Suspect, ...] = ()
    if wrong.any() and opened and len(scales) == 1:
        suspects = _suspects(audited, *opened, wrong, scales[0])
    return Diagnosis(
        model=str(question.model),
        windows=len(audited.given),
        left_out=audited.left_out,
        failing=int(wrong.any(axis=1).sum()),
        scale=scales[0] if len(scales) == 1 else scales,
        allowed=allowed,
        residual=tuple(residual.max(axis=0).tolist()),
        first_failing_step=int(np.argmax(wrong.any(axis=0))) + 1 if wrong.any() else None,
        suspects=suspects,
        loss_given=_loss(audited.batch, audited.given),
        loss_right=None if right is None else _loss(audited.batch, right),
        notes=(*notes, *_notes(audited, residual, wrong)),
    )


def _residual(audited: Audited) -> F64:
    """Return by how much predictions change when they are fed back, in deviations, the most of all targets [N, H]."""
    scales = np.array(audited.scales)
    found = np.abs(audited.residual()).reshape(len(audited.given), -1, len(scales)) / scales
    return np.asarray(np.nan_to_num(found.max(axis=2), nan=np.inf, posinf=np.inf))


def _taken_apart(
    training: Any, audited: Audited, question: Question
) -> tuple[tuple[Dissected, Machine] | None, list[str]]:
    """Return the model as encoder and step, or a note that says why it cannot be."""
    try:
        parts = sort_calls(training, audited.sizes)
        machine = machine_of_keras(forecasters_of(parts, 0.0, (0,) * audited.sizes.targets))
    except CertificationError as error:
        return None, [f"no fault could be simulated: {' '.join(str(error).split())}"]

    def encode(batch: WindowBatch) -> Encoded:
        return replace(machine.encode(batch), previous=start_values(batch, question, audited.sizes.targets))

    return (parts, replace(machine, encode=encode)), []


def _suspects(audited: Audited, parts: Dissected, machine: Machine, wrong: Bool, scale: float) -> tuple[Suspect, ...]:
    """Simulate the faults on windows that fail, and on some that do not."""
    fails = wrong.any(axis=1)
    passing = np.flatnonzero(~fails)[:PASSING]
    rows = np.sort(np.concatenate([np.flatnonzero(fails)[: SAMPLE - len(passing)], passing]))
    batch, given = audited.batch.take(rows), audited.given[rows]
    case = case_of(machine, batch, given, None, scale)
    extra = list(scaling_faults(parts, case))
    first = int(np.argmax(fails))
    if audited.complete and wrong[first, 0] and first > 0:
        stateful = stateful_alternative(parts, case, audited.batch, rows, first)
        extra += [] if stateful is None else [stateful]
    found = examine(machine, batch, given, teacher=None, scale=scale, extra=extra)
    return found if found[0].matches else _with_dropout(found, audited, case)


def _with_dropout(found: tuple[Suspect, ...], audited: Audited, case: Case) -> tuple[Suspect, ...]:
    dropout = dropout_suspect(audited.whole, case)
    return found if dropout is None else ranked([*found, dropout])


def _right(audited: Audited, machine: Machine | None) -> F32 | None:
    """Return what the model forecasts free-running [N, H]; None where that would take too long."""
    if machine is not None:
        return unroll(machine, machine.encode(audited.batch), audited.batch.future_known)
    horizon, targets = audited.sizes.horizon, audited.sizes.targets
    if len(audited.given) * horizon * horizon > MOST_STEPS:
        return None
    fed = np.tile(audited.start, horizon)
    for h in range(1, horizon):
        before, now = (slice(step * targets, (step + 1) * targets) for step in (h - 1, h))
        fed[:, now] = audited.at_once(fed)[:, before]
    return audited.at_once(fed)


def _loss(batch: WindowBatch, prediction: F32) -> float:
    """Return the masked MSE in raw units."""
    return float(squared_errors(batch, Forecast("", prediction)).mean())


def _notes(audited: Audited, residual: F64, wrong: Bool) -> list[str]:
    notes = []
    if audited.left_out or audited.rejected:
        notes.append(f"left out: {audited.left_out} rows without predictions, {audited.rejected} with bad cells")
    if audited.taken_every > 1:
        notes.append(f"of the data, one window in {audited.taken_every} was looked at")
    observed, flags = audited.batch.observed, audited.batch.past_observed
    excluded = 0.0 if observed is None else 1 - float(observed.mean())
    if excluded > MANY_EXCLUDED:
        notes.append(
            f"{excluded:.0%} of the steps are excluded from the loss; if the mask is the wrong way round, name its "
            "column 'observed' (1 = counts) with --column, or the losses are of the wrong cells"
        )
    fails = wrong.any(axis=1)
    if fails.any() and audited.sizes.targets > 1:
        notes.append("no fault was simulated: that is done for models of a single target")
    if fails.any() and residual.max() < ROUNDING:
        notes.append("differences this small are made by another precision or device (float16, TF32, int8) too")
    if fails.any() and flags is not None and not (fails & (flags == 1).all(axis=1)).any():
        notes.append("only windows with missing steps in their context fail: were these filled differently?")
    return notes
