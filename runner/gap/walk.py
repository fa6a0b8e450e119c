"""The walk from the loss that training reported to the free-running one, in steps that add up to the gap exactly.

Every loss is a masked MSE over the same cells. Where a step of the walk takes the better of several forecasts, the
choice is made, for each step of the horizon, on other blocks of windows than it is measured on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runner.batch import F64, Bool, Index, WindowBatch
from runner.gap.forecasts import Forecast, squared_errors
from runner.gap.windows import LossWindows
from runner.intervals import FEWEST_BLOCKS, add_up, interval, resampled
from runner.schema import Sizes

TEACHER_FORCED, FREE_RUNNING, SAMPLED = "teacher-forced", "free-running", "sampled paths"
CONTROL, FURTHER = "further teacher-forced", "further free-running"
OPTIMAL = "optimal"
"""Names of the forecasts that have a place of their own in the walk; any other takes part in the panel."""
FOLDS = 5
PARTS = (
    "metric", "wiring", "horizon", "plug_in", "undertrained", "exposure_bias", "model", "one_step", "unattributed",
)  # fmt: skip
Parts = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Blocks:
    """How windows are grouped to be resampled, and which of them may choose a forecast for which others.

    Attributes:
        block: number of each window's block [N].
        weights: windows * H of each block [blocks].
        fold: which fold each block belongs to [blocks].
        elsewhere: True = this window may choose for that fold: it is in another, and shares no step with it [folds, N].
    """

    block: Index
    weights: F64
    fold: Index
    elsewhere: Bool

    @property
    def crossed(self) -> bool:
        """Tell whether choices are made on other windows than they are measured on."""
        return len(self.elsewhere) > 1

    @property
    def enough(self) -> bool:
        """Tell whether there are enough blocks for an interval."""
        return len(self.weights) >= FEWEST_BLOCKS


@dataclass(frozen=True, slots=True)
class Errors:
    """Squared errors of one forecast, added up by block [blocks, H], and over the windows that choose [folds, H]."""

    by_block: F64
    elsewhere: F64


@dataclass(frozen=True, slots=True)
class Stage:
    """A loss of the walk: the best of some forecasts at each step.

    Attributes:
        by_block: squared errors of what was chosen [blocks, H].
        chosen: the name chosen for each fold and step [folds][H].
    """

    by_block: F64
    chosen: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Walk:
    """The losses and the parts between them.

    Attributes:
        stages: the losses by their letter: T, F, and the running minima E, K, R, B, O.
        losses: their means.
        parts: by name, None where nothing was tried; without metric and wiring, which need no windows.
        by_step: the same parts at each step, divided so that they add up to the parts.
        intervals: of gap, recoverable and each part that has one; empty with too few blocks.
    """

    stages: Mapping[str, Stage]
    losses: Mapping[str, float]
    parts: Parts
    by_step: Mapping[str, F64]
    intervals: Mapping[str, tuple[float, float]]


def blocks_of(windows: LossWindows, sizes: Sizes) -> Blocks:
    """Group windows into blocks and folds; windows next to a fold, which share steps with it, do not choose for it."""
    count = int(windows.block.max()) + 1
    folds = min(FOLDS, count)
    fold = (np.arange(count) * folds // count).astype(np.intp)
    width = 0 if windows.whole_series else sizes.context + sizes.horizon
    elsewhere = np.ones((folds, len(windows)), bool)
    for number in range(folds if folds > 1 else 0):
        here = fold[windows.block] == number
        elsewhere[number] = ~here
        if width:
            first, last = windows.position[here].min(), windows.position[here].max()
            elsewhere[number] &= (windows.position < first - width) | (windows.position > last + width)
    weights = np.bincount(windows.block, minlength=count).astype(np.float64) * sizes.horizon
    return Blocks(windows.block, weights, fold, elsewhere)


def errors_of(batch: WindowBatch, forecast: Forecast, blocks: Blocks) -> Errors:
    """Add up a forecast's squared errors."""
    squared = squared_errors(batch, forecast)
    return Errors(add_up(squared, blocks.block), np.stack([squared[rows].sum(axis=0) for rows in blocks.elsewhere]))


def best_of(names: Sequence[str], errors: Mapping[str, Errors], blocks: Blocks) -> Stage:
    """Take the best of some forecasts at each step; of equals the first."""
    chosen = np.stack([errors[name].elsewhere for name in names]).argmin(axis=0)
    found = np.stack([errors[name].by_block for name in names])
    picked = np.take_along_axis(found, chosen[blocks.fold][None], axis=0)[0]
    return Stage(picked, tuple(tuple(names[index] for index in row) for row in chosen))


def walk(errors: Mapping[str, Errors], blocks: Blocks) -> Walk:
    """Walk from the teacher-forced loss of the exported step to its free-running one.

    Args:
        errors: by forecast; `TEACHER_FORCED` and `FREE_RUNNING` are among them, the others as far as they were tried.
        blocks: of the windows.

    Returns:
        Losses, parts and intervals.
    """
    stages = _stages(errors, blocks)
    total = blocks.weights.sum()
    ends = _differences({name: name in errors for name in (SAMPLED, CONTROL, FURTHER)})
    by_step: dict[str, F64] = {}
    for part, pair in ends.items():
        if pair:
            upper, lower = (stages[letter].by_block for letter in pair)
            by_step[part] = (upper - lower).sum(axis=0) / total
    parts: Parts = {part: float(by_step[part].sum()) if part in by_step else None for part in ends}
    losses = {letter: float(stage.by_block.sum() / total) for letter, stage in stages.items()}
    return Walk(stages, losses, parts, by_step, _intervals(stages, ends, blocks))


def _stages(errors: Mapping[str, Errors], blocks: Blocks) -> dict[str, Stage]:
    names = [FREE_RUNNING]
    stages = {"T": best_of([TEACHER_FORCED], errors, blocks), "F": best_of(names, errors, blocks)}
    for letter, name in (("E", SAMPLED), ("K", CONTROL), ("R", FURTHER)):
        names += [name] if name in errors else []
        stages[letter] = best_of(names, errors, blocks)
    names += [name for name in errors if name not in {*names, TEACHER_FORCED}]
    stages["B"] = best_of(names, errors, blocks)
    stages["O"] = best_of([*names, TEACHER_FORCED], errors, blocks)
    return stages


def _differences(tried: Mapping[str, bool]) -> dict[str, tuple[str, str] | None]:
    """Return between which losses each part lies: upper less lower; None where nothing was tried."""
    return {
        "horizon": ("B", "O"),
        "plug_in": ("F", "E") if tried[SAMPLED] else None,
        "undertrained": ("E", "K") if tried[CONTROL] else None,
        "exposure_bias": ("K", "R") if tried[FURTHER] else None,
        "model": ("R", "B"),
        "one_step": ("O", "T"),
    }


def _intervals(
    stages: Mapping[str, Stage], ends: Mapping[str, tuple[str, str] | None], blocks: Blocks
) -> dict[str, tuple[float, float]]:
    if not blocks.enough:
        return {}
    letters = list(stages)
    drawn = resampled(np.stack([stages[letter].by_block.sum(axis=1) for letter in letters]), blocks.weights)
    means = dict(zip(letters, drawn, strict=True))
    pairs = {"gap": ("F", "T"), "recoverable": ("F", "B"), **{part: pair for part, pair in ends.items() if pair}}
    return {name: interval(means[upper] - means[lower]) for name, (upper, lower) in pairs.items()}
