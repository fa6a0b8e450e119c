"""The order of an explanation: read, forecast in both modes, look at the wiring, compare, walk, tell."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from runner.batch import F32
from runner.bundle import audit_bundle, open_bundle
from runner.device import cpu_count
from runner.errors import InputError, UsageError, explain
from runner.gap.case import Alternative, Case
from runner.gap.forecasts import Forecast
from runner.gap.ground import Ground, first_step_difference, machine_on, stand
from runner.gap.machine import Machine
from runner.gap.metric import Reported
from runner.gap.panel import FEWEST_WINDOWS, naive_panel, trained_panel
from runner.gap.paths import paths_for, residuals_of, sampled_mean
from runner.gap.report import GapReport, SuspectEntry
from runner.gap.tell import Measured, report_of
from runner.gap.verdict import verdict
from runner.gap.walk import FREE_RUNNING, OPTIMAL, TEACHER_FORCED, blocks_of, errors_of, walk
from runner.gap.windows import LossWindows, read_windows
from runner.gap.wiring import faults_of_the_step, faults_undone, metric_suspects
from runner.manifest import Manifest
from runner.schema import sizes_of
from runner.stop import Stop

SEED = 0
LOOSEST = 1e-3
"""Deviations of the target that a forecast may differ by from the training model's before it is another forecast."""
Say = Callable[[str], None]
"""Takes a line about what is being done."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be explained.

    Attributes:
        bundle: the bundle's folder.
        valid: path or URI of the windows that every loss is taken over.
        train: of those that the panel may learn from; None leaves out what has to be trained.
        reported: the loss that training reported; None = the training model's exact one.
        columns: role -> column name, only where they differ.
    """

    bundle: Path
    valid: str
    train: str | None = None
    reported: Reported | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


class TrainingModel(Protocol):
    """What is known where the Keras model is at hand too."""

    @property
    def name(self) -> str:
        """Return what to call it."""

    def teacher_forced(self, windows: LossWindows) -> F32:
        """Return the training model's own teacher-forced forecast [N, H]."""

    def regularisation(self) -> float:
        """Return what its regularisers add to Keras' loss."""

    def machine(self) -> Machine:
        """Return its loop, taken apart."""

    def others(self, case: Case) -> Iterable[Alternative]:
        """Yield what would be forecast with the faults that lie inside its graph."""

    def further(self, windows: LossWindows) -> tuple[Forecast, ...]:
        """Train it further both ways, and return the free-running forecasts: the control's, and the other one's."""


OpenModel = Callable[[Manifest], TrainingModel]


def explain_gap(question: Question, stop: Stop, say: Say, open_model: OpenModel | None = None) -> GapReport:
    """Explain the gap between the loss that training reported and the free-running one.

    Args:
        question: bundle, data, and the reported loss.
        stop: ends the work.
        say: takes lines for the log.
        open_model: opens the Keras model that the bundle was made from.

    Raises:
        BundleError: the bundle cannot be used.
        InputError: the data does not fit it, or no target counts.
        UsageError: a column cannot be what it was said to be, or the bundle has several targets.
    """
    audited = audit_bundle(open_bundle(question.bundle), "fp32")
    _refuse_several_targets(audited.manifest)
    windows = _read(question.valid, audited.manifest, question, stop)
    say(f"{len(windows):,} windows of {windows.total:,} rows; forecasting in both modes")
    model = None if open_model is None else open_model(audited.manifest)  # refused before the work, if it has to be
    ground = stand(audited, windows, stop)
    trained = None if model is None else model.teacher_forced(ground.windows)
    losses = _losses(ground, trained)
    suspects = metric_suspects(ground, question.reported, losses[0], model.regularisation() if model else None)
    wired = _wired(ground, trained, losses)
    if not wired:
        say("teacher-forced, the exported step is not the training model; simulating faults")
        suspects += _faults(ground, question, losses[0], model, stop)
    forecasts = [Forecast(TEACHER_FORCED, ground.teacher_forced), Forecast(FREE_RUNNING, ground.free_running)]
    if wired:
        forecasts += _compared(question, ground, model, stop, say)
    measured = _measured(ground, forecasts, question.reported, losses, wired=wired)
    data = (question.valid, question.train, None if model is None else model.name)
    return _told(
        report_of(ground, measured, first_step_difference(ground), data), suspects, _notes(ground, question, measured)
    )


def _refuse_several_targets(manifest: Manifest) -> None:
    if manifest.others:
        what = "explain-gap explains the forecasts of a single target"
        got = ", ".join(target.name for target in manifest.targets)
        remedy = "per_target in the report of freerun score, in both modes, has the losses of each"
        raise UsageError(explain(what, got=got, expected="a bundle with one target", remedy=remedy))


def _read(text: str, manifest: Manifest, question: Question, stop: Stop, *, inverted: bool = False) -> LossWindows:
    flagged, sizes = manifest.past_observed, sizes_of(manifest)
    windows = read_windows(text, sizes, question.columns, stop, flagged=flagged, inverted=inverted)
    if windows.batch.observed is None or not windows.batch.observed.any():
        raise InputError(explain(f"no target in {text} counts", remedy="is the mask the wrong way round? 1 = excluded"))
    return windows


def _losses(ground: Ground, trained: F32 | None) -> tuple[float, float, float]:
    """Return L1, T and F. What is not known of the training model is taken to be as the exported step does it."""
    forced = ground.loss(ground.teacher_forced)
    exact = ground.loss(trained) if trained is not None else forced if ground.certified is None else ground.certified
    return exact, forced, ground.loss(ground.free_running)


def _wired(ground: Ground, trained: F32 | None, losses: tuple[float, float, float]) -> bool:
    """Tell whether the exported step does what the training model does: the same loss, and forecasts where known."""
    if trained is not None and np.abs(ground.teacher_forced - trained).max() > LOOSEST * ground.scale:
        return False
    return abs(losses[1] - losses[0]) <= ground.tolerance


def _faults(
    ground: Ground, question: Question, exact: float, model: TrainingModel | None, stop: Stop
) -> list[SuspectEntry]:
    if model is not None:
        return faults_of_the_step(ground, model.machine(), model.others)
    try:
        turned = _read(question.valid, ground.manifest, question, stop, inverted=True)
    except InputError:  # what the mask excludes may be anything
        turned = None
    return faults_undone(ground, exact, turned, machine_on(ground.audited, stop))


def _compared(question: Question, ground: Ground, model: TrainingModel | None, stop: Stop, say: Say) -> list[Forecast]:
    """Return all other forecasts of the same windows."""
    batch, manifest = ground.windows.batch, ground.manifest
    paths = paths_for(len(batch), manifest.horizon)
    say(f"sampling {paths} paths a window")
    residuals = residuals_of(batch, ground.teacher_forced)
    found = [sampled_mean(machine_on(ground.audited, stop), batch, residuals, paths, SEED, stop.check, cpu_count())]
    if model is not None:
        found += model.further(ground.windows)
    found += naive_panel(batch, manifest.target.feature, manifest.season_length)
    if question.train is not None:
        say("fitting direct forecasts")
        train = _read(question.train, manifest, question, stop)
        found += trained_panel(train.batch, batch, manifest.target.feature, SEED)
    if ground.windows.optimal is not None:
        found.append(Forecast(OPTIMAL, ground.windows.optimal))
    return found


def _measured(
    ground: Ground,
    forecasts: list[Forecast],
    reported: Reported | None,
    losses: tuple[float, float, float],
    *,
    wired: bool,
) -> Measured:
    blocks = blocks_of(ground.windows, sizes_of(ground.manifest))
    errors = {forecast.name: errors_of(ground.windows.batch, forecast, blocks) for forecast in forecasts}
    found = walk(errors, blocks) if wired else None
    return Measured(None if reported is None else reported.loss, *losses, errors, blocks, found)


def _notes(ground: Ground, question: Question, measured: Measured) -> list[str]:
    windows, notes = ground.windows, []
    if ground.certified is not None:
        notes.append("these windows also chose the epoch: every loss of the network on them is optimistic")
    if windows.taken_every > 1:
        notes.append(
            f"of {windows.total:,} rows, about one in {windows.taken_every} was taken, in whole runs of neighbours"
        )
    if windows.rejected:
        notes.append(f"{windows.rejected:,} rows with bad cells, or forecasts that are not finite, were left out")
    if question.train is None:
        notes.append(
            "without --train, there is no ridge regression, no small network (mlp) and no climatology to compare with"
        )
    elif measured.walk is not None and "ridge" not in measured.errors:
        notes.append(f"fewer than {FEWEST_WINDOWS} windows in {question.train} count: no ridge and no mlp were fitted")
    return notes


def _told(report: GapReport, suspects: list[SuspectEntry], notes: list[str]) -> GapReport:
    if not report.intervals and report.recoverable is not None:
        notes.append(f"{report.windows.blocks} blocks are too few for intervals, 20 are needed: any part may be chance")
    ordered = sorted(suspects, key=lambda entry: not entry.matches)
    told = report.model_copy(update={"suspects": tuple(ordered), "notes": tuple(notes)})
    return told.model_copy(update={"verdict": verdict(told)})
