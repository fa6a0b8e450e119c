"""Whole series as arrays: where each begins, which steps its rows are, and what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from runner.batch import F32, GOOD, Bool, Index, reason_code
from runner.errors import InputError, explain
from runner.freq import Ticks
from runner.long.layout import LongLayout
from runner.long.recipe import Recipe
from runner.long.series import names_of

Numbers = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Panel:
    """Series one after the other; within each, steps ascend, and none stands there twice.

    Attributes:
        names: of the series [n].
        starts: where each begins, and the number of rows [n + 1].
        ordinal: the step of each row on its series' time grid [N].
        phase: where inside their steps a series' times lie [n].
        numbers: by feature; NaN where null [N].
        known: True = the target is there, and no flag excludes it [N].
        static: features that do not change [n, S]; None where the bundle has none.
        reasons: what is wrong with a series, as codes into REASONS, 0 = nothing [n].
    """

    names: pa.Array
    starts: Ticks
    ordinal: Ticks
    phase: Ticks
    numbers: Mapping[str, Numbers]
    known: Bool
    static: F32 | None
    reasons: Codes

    def __len__(self) -> int:
        return len(self.reasons)

    @property
    def lengths(self) -> Ticks:
        """Return the rows of each series [n]."""
        return np.diff(self.starts)

    def regular(self) -> Bool:
        """Tell which series have a row for each step from the first to the last [n]."""
        first, last = self.ordinal[self.starts[:-1]], self.ordinal[self.starts[1:] - 1]
        return np.asarray(last - first == self.lengths - 1)

    def last_known(self) -> Ticks:
        """Return the last row of each series whose target is known; where none is, the row before its first [n]."""
        rows = np.flatnonzero(self.known)
        place = np.searchsorted(rows, self.starts[1:]) - 1
        found = rows[place] if len(rows) else np.full(len(self), -1)
        return np.where((place >= 0) & (found >= self.starts[:-1]), found, self.starts[:-1] - 1)


def read_panel(rows: pa.RecordBatch, starts: Ticks, layout: LongLayout, manifest: Recipe) -> Panel:
    """Read and check rows of whole series.

    Args:
        rows: with the columns of the layout [N].
        starts: where each series begins, and the number of rows [n + 1].
        layout: where the roles are.
        manifest: of the bundle.

    Raises:
        InputError: a row has no time.
    """
    names, times = names_of(rows.column(layout.unique_id), starts), rows.column(layout.ds)
    if times.null_count:
        first = names[int(np.searchsorted(starts, int(np.argmax(np.asarray(times.is_null()))), "right")) - 1]
        what = f"column '{layout.ds}' has rows without a time"
        raise InputError(explain(what, got=f"{times.null_count}, the first of series {first}"))
    ordinal, phases = layout.grid.read(times)
    numbers = {name: _numbers(rows.column(column)) for name, column in layout.numbers.items()}
    reasons = np.zeros(len(starts) - 1, np.uint8)
    known = ~np.isnan(numbers[manifest.target.name])
    if layout.flag:
        column, counts = layout.flag
        flags = _numbers(rows.column(column))
        _mark(
            reasons,
            starts,
            np.flatnonzero((flags != 0) & (flags != 1)),
            "mask_not_binary" if counts == 0 else "observed_not_binary",
        )
        known &= flags == counts
    phase, off_grid = _phases(phases, times, ordinal, starts, layout)
    panel = Panel(names, starts, ordinal, phase, numbers, known, None, reasons)
    return _in_order(panel, off_grid)


def _numbers(column: pa.Array) -> Numbers:
    """Return a column's numbers, NaN where they are null; those that are no floats become float64."""
    values = np.asarray(column.to_numpy(zero_copy_only=False))
    if values.dtype not in (np.float32, np.float64):
        values = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    return values


def _mark(reasons: Codes, starts: Ticks, rows: Index, reason: str) -> None:
    """Give the series of these rows a reason, unless they have one."""
    spoiled = np.unique(np.searchsorted(starts, rows, "right") - 1)
    reasons[spoiled[reasons[spoiled] == GOOD]] = reason_code(reason)


def _phases(phases: Ticks, times: pa.Array, ordinal: Ticks, starts: Ticks, layout: LongLayout) -> tuple[Ticks, Index]:
    """Return the phase of each series [n], and the rows that are not on its grid."""
    lengths = np.diff(starts)
    phase = phases[starts[:-1]].copy()
    differ = np.flatnonzero(phases != np.repeat(phase, lengths))
    if not len(differ):
        return phase, differ
    for place in np.unique(np.searchsorted(starts, differ, "right") - 1):  # the first row may be the odd one
        found, counts = np.unique(phases[starts[place] : starts[place + 1]], return_counts=True)
        phase[place] = found[np.argmax(counts)]
    wanted = np.repeat(phase, lengths)
    differ = np.flatnonzero(phases != wanted)
    fine = layout.grid.agrees(times.take(pa.array(differ)), ordinal[differ], wanted[differ])
    return phase, differ[~fine]


def _in_order(panel: Panel, off_grid: Index) -> Panel:
    """Mark series whose steps do not ascend, and leave in them one row a step: the last one of the file."""
    starts, steps = panel.starts, np.diff(panel.ordinal)
    bad = np.flatnonzero(steps <= 0) + 1
    bad = bad[~np.isin(bad, starts)]
    if not len(bad) and not len(off_grid):
        return panel
    reasons = panel.reasons.copy()
    _mark(reasons, starts, off_grid, "step_off_grid")
    _mark(reasons, starts, bad[steps[bad - 1] < 0], "step_unordered")
    _mark(reasons, starts, bad, "step_duplicate")
    on_grid = np.ones(len(panel.ordinal), bool)
    on_grid[off_grid] = False
    spoiled = np.isin(np.arange(len(panel)), np.searchsorted(starts, np.concatenate([bad, off_grid]), "right") - 1)
    kept = [
        _one_a_step(panel.ordinal, on_grid, first, last) if bent else np.arange(first, last)
        for first, last, bent in zip(starts[:-1], starts[1:], spoiled, strict=True)
    ]
    order = np.concatenate(kept)
    return replace(
        panel,
        starts=np.concatenate([[0], np.cumsum([len(rows) for rows in kept])]),
        ordinal=panel.ordinal[order],
        numbers={name: values[order] for name, values in panel.numbers.items()},
        known=panel.known[order],
        reasons=reasons,
    )


def _one_a_step(ordinal: Ticks, on_grid: Bool, first: int, last: int) -> Index:
    """Return the rows of a series in the order of their steps, of several rows of a step the last one."""
    rows = np.arange(first, last)[on_grid[first:last]]
    rows = rows[np.argsort(ordinal[rows], kind="stable")]
    return np.asarray(rows[np.append(np.diff(ordinal[rows]) > 0, True)])


def join_panels(panels: Sequence[Panel]) -> Panel:
    """Return the series of panels of one time grid and the same features, one after the other."""
    first = panels[0]
    rows = np.cumsum([0, *(len(panel.ordinal) for panel in panels[:-1])])
    starts = [panel.starts[1:] + before for panel, before in zip(panels, rows, strict=True)]
    return Panel(
        names=pa.concat_arrays([panel.names for panel in panels]),
        starts=np.concatenate([[0], *starts]),
        ordinal=np.concatenate([panel.ordinal for panel in panels]),
        phase=np.concatenate([panel.phase for panel in panels]),
        numbers={name: np.concatenate([panel.numbers[name] for panel in panels]) for name in first.numbers},
        known=np.concatenate([panel.known for panel in panels]),
        static=None if first.static is None else np.concatenate([np.asarray(panel.static) for panel in panels]),
        reasons=np.concatenate([panel.reasons for panel in panels]),
    )
