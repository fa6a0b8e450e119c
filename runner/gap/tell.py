"""Put what was found into the report: losses, parts, shares, steps, the panel."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from runner.gap.ground import Ground
from runner.gap.report import FirstStep, GapReport, GapStep, GapWindows, Panellist, Parts, StepParts
from runner.gap.walk import FREE_RUNNING, PARTS, TEACHER_FORCED, Blocks, Errors, Walk
from runner.intervals import paired_interval


@dataclass(frozen=True, slots=True)
class Measured:
    """All losses, and the walk between them where the wiring allowed one.

    Attributes:
        reported: L0, as it was given; None where L1 stands in for it.
        trained: L1, the training graph's exact loss.
        forced: T, the exported step's teacher-forced loss.
        free: F, its free-running loss.
        errors: by forecast.
        blocks: of the windows.
        walk: None where the wiring is at fault, so that nothing behind it means anything.
    """

    reported: float | None
    trained: float
    forced: float
    free: float
    errors: Mapping[str, Errors]
    blocks: Blocks
    walk: Walk | None

    @property
    def start(self) -> float:
        """Return the loss that the walk begins with."""
        return self.trained if self.reported is None else self.reported

    def parts(self) -> dict[str, float | None]:
        """Return what lies between the first and the last loss; the numbers add up to `free - start`."""
        found: dict[str, float | None] = dict.fromkeys(PARTS)
        found |= {"metric": self.trained - self.start, "wiring": self.forced - self.trained}
        if self.walk is None:
            return found | {"unattributed": self.free - self.forced}
        return found | dict(self.walk.parts)


def report_of(
    ground: Ground, measured: Measured, first_step: float, data: tuple[str, str | None, str | None]
) -> GapReport:
    """Return the report without suspects, notes and verdict.

    Args:
        ground: bundle, windows and both forecasts.
        measured: the losses.
        first_step: largest difference of the two modes at step 1.
        data: where the validation windows, the training windows and the Keras model were.
    """
    parts, walk = measured.parts(), measured.walk
    valid, train, model = data
    finite = math.isfinite(measured.start)
    return GapReport(
        bundle_id=ground.manifest.bundle_id,
        valid=valid,
        train=train,
        model=model,
        windows=_windows(ground, measured.blocks),
        first_step=FirstStep(equal=first_step == 0, largest_difference=first_step),
        reported=measured.reported is not None,
        teacher_forced=measured.start if finite else None,
        free_running=measured.free,
        gap=measured.free - measured.start if finite else None,
        parts=Parts(**_finite(parts)),
        shares=Parts(**_finite({name: _share(value, measured.free) for name, value in parts.items()})),
        recoverable=walk.losses["F"] - walk.losses["B"] if walk else None,
        intervals=_intervals(measured),
        losses=_finite(_losses(measured)),
        per_step=_steps(ground, measured),
        panel=_panel(measured),
        suspects=(),
        notes=(),
        verdict="",
    )


def _windows(ground: Ground, blocks: Blocks) -> GapWindows:
    windows = ground.windows
    return GapWindows(
        used=len(windows),
        total=windows.total,
        rejected=windows.rejected,
        taken_every=windows.taken_every,
        blocks=len(blocks.weights),
        blocks_are="series" if windows.whole_series else "neighbours",
        chose_the_epoch=ground.certified is not None,
    )


def _losses(measured: Measured) -> dict[str, float | None]:
    """Return every loss by its letter; E, K, R, B and O are running minima, and missing where there was no walk."""
    found: dict[str, float | None] = {"L0": measured.start, "L1": measured.trained}
    found |= {"T": measured.forced, "F": measured.free}
    names = {"E": "E'", "K": "K'", "R": "R'", "B": "B'", "O": "O"}
    return found | {name: measured.walk.losses[letter] for letter, name in names.items() if measured.walk}


def _intervals(measured: Measured) -> dict[str, tuple[float, float]]:
    """Return the walk's; the gap's is shifted by what lies before it, which is the same in every draw."""
    found = dict(measured.walk.intervals) if measured.walk else {}
    before = measured.forced - measured.start
    if "gap" in found and math.isfinite(before):
        found["gap"] = (found["gap"][0] + before, found["gap"][1] + before)
    return found


def _steps(ground: Ground, measured: Measured) -> tuple[GapStep, ...]:
    observed = ground.windows.batch.observed
    counts = [0] * ground.manifest.horizon if observed is None else observed.sum(axis=0).tolist()
    windows, walk = float(len(ground.windows)), measured.walk
    forced, free = (measured.errors[name].by_block.sum(axis=0) / windows for name in (TEACHER_FORCED, FREE_RUNNING))
    best = walk.stages["B"] if walk else None
    return tuple(
        GapStep(
            step=step + 1,
            observed=counts[step],
            teacher_forced=float(forced[step]),
            free_running=float(free[step]),
            best=float(best.by_block[:, step].sum() / windows) if best else None,
            best_forecast=Counter(row[step] for row in best.chosen).most_common(1)[0][0] if best else None,
            parts=StepParts(**_parts_at(walk, step, ground.manifest.horizon)) if walk else None,
        )
        for step in range(ground.manifest.horizon)
    )


def _parts_at(walk: Walk, step: int, horizon: int) -> dict[str, float | None]:
    """Return the parts of a step in the unit of its own loss, so that their mean over the steps is the part."""
    return {part: float(walk.by_step[part][step]) * horizon if part in walk.by_step else None for part in walk.parts}


def _panel(measured: Measured) -> tuple[Panellist, ...]:
    """Return every forecast that was tried, the best first."""
    weights = measured.blocks.weights
    free = measured.errors[FREE_RUNNING].by_block
    found = []
    for name, errors in measured.errors.items() if measured.walk else ():
        own, windows = errors.by_block, weights.sum() / errors.by_block.shape[1]
        found.append(
            Panellist(
                name=name,
                masked_mse=float(own.sum() / weights.sum()),
                better_by=float((free - own).sum() / weights.sum()),
                interval=None if name == FREE_RUNNING else paired_interval(free.sum(axis=1), own.sum(axis=1), weights),
                per_step=tuple((own.sum(axis=0) / windows).tolist()),
            )
        )
    return tuple(sorted(found, key=lambda entry: entry.masked_mse))


def _share(value: float | None, whole: float) -> float | None:
    return None if value is None or not whole else value / whole


def _finite(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: value if value is None or math.isfinite(value) else None for name, value in values.items()}
