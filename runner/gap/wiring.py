"""Name what is at fault: in how a loss was averaged, or in how the graphs are put together."""

import math
from collections.abc import Callable, Iterable

import numpy as np

from runner.decode import teacher_inputs
from runner.gap.case import Alternative, Case, case_of
from runner.gap.ground import Ground
from runner.gap.machine import Machine
from runner.gap.metric import Reported, averagings
from runner.gap.report import SuspectEntry
from runner.gap.suspects import SAMPLE, examine, undone
from runner.gap.windows import LossWindows

Others = Callable[[Case], Iterable[Alternative]]
"""What faults inside the training model's graph would forecast for a case."""


def metric_suspects(
    ground: Ground, reported: Reported | None, exact: float, regularisation: float | None
) -> list[SuspectEntry]:
    """Return the ways to average that give the reported loss; nothing where the masked MSE itself gives it.

    Args:
        ground: the windows, and the teacher-forced forecasts of them.
        reported: what training reported.
        exact: the masked MSE, L1.
        regularisation: what the model's regularisers add; None where that is not known.
    """
    if reported is None or reported.is_near(exact):
        return []
    ways = averagings(ground.windows.batch, ground.teacher_forced, ground.scale, regularisation)
    return [
        SuspectEntry(
            kind="metric",
            key=way.key,
            text=way.text,
            difference=way.loss - reported.loss if math.isfinite(way.loss - reported.loss) else None,
            matches=reported.is_near(way.loss),
        )
        for way in ways
    ]


def faults_of_the_step(ground: Ground, machine: Machine, others: Others) -> list[SuspectEntry]:
    """Simulate faults on the training model, until one makes the exported step's forecasts.

    Args:
        ground: the windows, and the exported step's teacher-forced forecasts of them.
        machine: of the training model.
        others: simulates what lies inside its graph.
    """
    batch = ground.windows.batch.take(slice(0, SAMPLE))
    teacher = teacher_inputs(machine.encode(batch).previous, batch)
    given = ground.teacher_forced[:SAMPLE]
    extra = list(others(case_of(machine, batch, given, teacher, ground.scale)))
    found = examine(machine, batch, given, teacher=teacher, scale=ground.scale, extra=extra)
    return [_wiring(entry.key, entry.said, entry.difference, matches=entry.matches) for entry in found]


def faults_undone(ground: Ground, exact: float, turned: LossWindows | None, machine: Machine) -> list[SuspectEntry]:
    """Take faults back on the bundle's own graphs, until one gives the certified loss.

    Args:
        ground: the windows.
        exact: the loss that was certified of the training model, L1.
        turned: the same windows, read with the mask the other way round; None where they cannot be.
        machine: of the bundle.
    """
    batch, start = ground.windows.batch, ground.manifest.start.value
    first = None if start is None else np.full((len(batch), 1), start, np.float32)
    found = undone(machine, batch, teacher=True, start=first, turned=turned.batch if turned else None)
    differences = [(entry, entry.masked_mse - exact) for entry in found]
    return [
        _wiring(entry.key, entry.said, difference, matches=abs(difference) <= ground.tolerance)
        for entry, difference in differences
    ]


def _wiring(key: str, said: str, difference: float, *, matches: bool) -> SuspectEntry:
    return SuspectEntry(
        kind="wiring",
        key=key,
        text=said.rstrip("."),
        difference=difference if math.isfinite(difference) else None,
        matches=matches,
    )
