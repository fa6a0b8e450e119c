"""Name the wiring fault that made a forecast: the one whose simulated loop gives the very same numbers.

A fault is not guessed from the size of an error. Every loop that is commonly built by mistake is run, and held against
the forecasts that are to be explained.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from runner.batch import F32, WindowBatch
from runner.decode import teacher_inputs
from runner.gap.case import Alternative, Case, case_of
from runner.gap.forecasts import Forecast, squared_errors
from runner.gap.input_faults import moved, never_fed_back, shifted_future, shifted_inputs, teacher_forced
from runner.gap.machine import Hooks, Machine, unroll
from runner.gap.start_faults import wrong_starts
from runner.gap.state_faults import states_not_carried, swapped, swapping_hooks, wrong_states

SAMPLE = 256
"""Windows that are looked at; the simulated loops are some sixty."""
FAULTS = (
    wrong_states,
    states_not_carried,
    wrong_starts,
    never_fed_back,
    teacher_forced,
    shifted_inputs,
    shifted_future,
    moved,
)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A fault, and how well it explains some forecasts.

    Attributes:
        key: its name for scripts.
        said: what was done wrong, and what to do about it.
        difference: the largest one between the forecasts it makes and those to be explained, in target deviations.
        matches: it makes them, and a right loop does not.
    """

    key: str
    said: str
    difference: float
    matches: bool


def examine(
    machine: Machine,
    batch: WindowBatch,
    given: F32,
    *,
    teacher: F32 | None,
    scale: float,
    extra: Sequence[Alternative] = (),
) -> tuple[Suspect, ...]:
    """Simulate every fault, and compare.

    Args:
        machine: what should have made the forecasts.
        batch: windows without rejects, of which the first `SAMPLE` are looked at [N, ...].
        given: the forecasts to be explained, in raw units [N, H].
        teacher: what the decoder was to be fed, in raw units [N, H]; None = its own predictions.
        scale: deviation of the target.
        extra: what other faults would forecast for the same windows [N, H].

    Returns:
        One entry for each fault, the matching one first, then the nearest.
    """
    few = slice(0, SAMPLE)
    case = case_of(machine, batch.take(few), given[few], None if teacher is None else teacher[few], scale)
    wrong = difference_of(case, case.run()) > case.allowed
    found = [
        Suspect(told.key, told.said, difference, wrong and difference <= case.allowed)
        for told in chain(*(fault(case) for fault in FAULTS), (_cut(told, few) for told in extra))
        for difference in (difference_of(case, told.prediction),)
    ]
    return ranked(found)


def difference_of(case: Case, prediction: F32) -> float:
    """Return the largest difference to the forecasts of a case, in target deviations; infinite if none is claimed."""
    difference = np.abs(prediction.astype(np.float64) - case.given)
    claimed = ~np.isnan(prediction)
    return float(difference[claimed].max()) / case.scale if claimed.any() else float("inf")


def ranked(found: Iterable[Suspect]) -> tuple[Suspect, ...]:
    """Return the best variant of each fault; among those that match, the one that was told first."""
    ranked = sorted(found, key=lambda suspect: (not suspect.matches, 0.0 if suspect.matches else suspect.difference))
    best: dict[str, Suspect] = {}
    for suspect in ranked:
        best.setdefault(suspect.key, suspect)
    return tuple(best.values())


def _cut(told: Alternative, rows: slice) -> Alternative:
    return replace(told, prediction=told.prediction[rows])


@dataclass(frozen=True, slots=True)
class Undone:
    """Forecasts of a machine with one fault taken back.

    Attributes:
        key: of the fault.
        said: what is wrong if the loss is right now, and what to do about it.
        batch: windows whose cells the loss is made on [N, ...].
        prediction: in raw units [N, H].
    """

    key: str
    said: str
    batch: WindowBatch
    prediction: F32

    @property
    def masked_mse(self) -> float:
        return float(squared_errors(self.batch, Forecast(self.key, self.prediction)).mean())


def undone(
    machine: Machine, batch: WindowBatch, *, teacher: bool, start: F32 | None = None, turned: WindowBatch | None = None
) -> tuple[Undone, ...]:
    """Take back the faults that take themselves back: whoever exchanges two things twice has them where they belong.

    Args:
        machine: a bundle's, which may be wired wrongly itself.
        batch: windows without rejects, with a target [N, ...].
        teacher: feed the teacher's input; otherwise run freely.
        start: the start value that the bundle should have by its manifest [N, 1]; None = it is not known.
        turned: the same windows, read with the mask the other way round.

    Returns:
        The forecasts with each fault taken back. The fault is there if the loss becomes the one that was certified.
    """
    encoded = machine.encode(batch)

    def run(hooks: Hooks, first: F32 | None = None, windows: WindowBatch = batch) -> F32:
        begun = encoded if first is None else replace(encoded, previous=first)
        inputs = teacher_inputs(begun.previous, windows) if teacher else None
        return unroll(machine, begun, windows.future_known, inputs, hooks)

    found = []
    if any(len(layer) == 2 for layer in machine.layers):
        each = Hooks(carry=lambda state, _: swapped(machine, state))
        said = "Hidden and cell state are exchanged {}; export the bundle again with the states in their order."
        once, always = swapping_hooks(machine, once=True), swapping_hooks(machine, once=False)
        found.append(Undone("states_swapped", said.format("between encoder and decoder"), batch, run(once)))
        at_each = said.format("at each step")
        found += [Undone("states_swapped_each_step", at_each, batch, run(hooks)) for hooks in (each, always)]
    if start is not None and np.abs(start - encoded.previous).max() > 0:
        said = "The encoder emits another start value than its manifest names; export the bundle again."
        found.append(Undone("start_value", said, batch, run(Hooks(), start)))
    if turned is not None:
        said = "The mask is read the wrong way round: name its column 'observed' if 1 means that a step counts."
        found.append(Undone("mask_inverted", said, turned, run(Hooks(), windows=turned)))
    return tuple(found)
