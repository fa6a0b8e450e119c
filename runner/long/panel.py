"""Whole series as arrays: where each begins, which steps its rows are, and what is wrong with it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from runner.batch import F32, GOOD, Bool, Index, reason_code
from runner.errors import InputError, explain
from runner.freq import Grid, Ticks
from runner.long.layout import LongLayout
from runner.long.recipe import Recipe
from runner.long.series import LONGEST_SERIES, Seen, names_of, whole_series
from runner.static import category_indices

Numbers = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.uint8]
FARTHEST = 1 << 61
"""Steps from 1970 (or 0): up to there, differences and sums of steps fit an int64."""


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
        regular: True = the series has a row for each step from its first to its last [n].
    """

    names: pa.Array
    starts: Ticks
    ordinal: Ticks
    phase: Ticks
    numbers: Mapping[str, Numbers]
    known: Bool
    static: F32 | None
    reasons: Codes
    regular: Bool

    def __len__(self) -> int:
        return len(self.reasons)

    def last_known(self) -> Ticks:
        """Return the last row of each series whose target is known; where none is, the row before its first [n]."""
        rows = np.flatnonzero(self.known)
        place = np.searchsorted(rows, self.starts[1:]) - 1
        found = rows[place] if len(rows) else np.full(len(self), -1)
        return np.where((place >= 0) & (found >= self.starts[:-1]), found, self.starts[:-1] - 1)


def read_panels(
    pieces: Iterable[pa.RecordBatch], layout: LongLayout, manifest: Recipe, longest: int | None = LONGEST_SERIES
) -> Iterator[Panel]:
    """Read consecutive rows of a file into panels of whole series.

    Args:
        pieces: rows with the columns of the layout.
        layout: where the roles are.
        manifest: of the bundle.
        longest: bytes that one series may take; None where all of them are held anyway.

    Raises:
        InputError: the rows of a series do not stand together, or a row has no series or no time.
    """
    seen = Seen()
    for rows, starts in whole_series(pieces, layout.unique_id, longest):
        panel = read_panel(rows, starts, layout, manifest)
        seen.add(panel.names)
        yield panel


def read_panel(rows: pa.RecordBatch, starts: Ticks, layout: LongLayout, manifest: Recipe) -> Panel:
    """Read and check rows of whole series.

    Args:
        rows: with the columns of the layout [N].
        starts: where each series begins, and the number of rows [n + 1].
        layout: where the roles are.
        manifest: of the bundle.

    Raises:
        InputError: a row has no time, or one that is out of reach.
    """
    names, times = names_of(rows.column(layout.unique_id), starts), rows.column(layout.ds)
    if times.null_count:
        first = _series_of(int(np.argmax(np.asarray(times.is_null()))), names, starts)
        what = f"column '{layout.ds}' has rows without a time"
        raise InputError(explain(what, got=f"the first in series {first!r}"))
    numbers = {name: _numbers(rows.column(column)) for name, column in layout.numbers.items()}
    reasons = np.zeros(len(starts) - 1, np.uint8)
    known = ~np.isnan(numbers[manifest.target.name])
    if layout.flag:
        column, counts = layout.flag
        flags = _numbers(rows.column(column))
        _mark(
            reasons,
            starts,
            np.flatnonzero(known & (flags != 0) & (flags != 1)),  # what is said of no target is not looked at
            "mask_not_binary" if counts == 0 else "observed_not_binary",
        )
        known &= flags == counts
    steps = _steady(times, starts, layout.grid)
    ordinal, phase, off_grid = steps or _steps(times, starts, layout.grid)
    if far := np.flatnonzero(np.abs(ordinal) > FARTHEST).tolist():
        got = f"in series {_series_of(far[0], names, starts)!r}"
        raise InputError(explain(f"column '{layout.ds}' has a time that no grid reaches", got=got))
    static = _static(rows, starts, layout, manifest, numbers, reasons)
    panel = Panel(names, starts, ordinal, phase, numbers, known, static, reasons, np.ones(len(starts) - 1, bool))
    return panel if steps else _in_order(panel, off_grid)


def _static(
    rows: pa.RecordBatch,
    starts: Ticks,
    layout: LongLayout,
    manifest: Recipe,
    numbers: Mapping[str, Numbers],
    reasons: Codes,
) -> F32 | None:
    """Return what does not change within a series, as its first row says it [n, S]; mark series that cannot be used."""
    if manifest.static is None:
        return None
    first, columns = starts[:-1], []
    for name in manifest.static.numbers:
        with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is not finite
            columns.append(numbers[name][first].astype(np.float32))
    finite = np.isfinite(np.stack(columns, axis=1)).all(axis=1) if columns else np.ones(len(first), bool)
    _mark(reasons, starts, first[~finite], "static_not_finite")
    for category in manifest.static.categories:
        words = rows.column(layout.categories[category.name]).take(pa.array(first))
        indices, unknown = category_indices(words, category)
        _mark(reasons, starts, first[unknown], "category_unknown")
        columns.append(indices)
    return np.nan_to_num(np.stack(columns, axis=1), nan=0.0, posinf=0.0, neginf=0.0)


def _series_of(row: int, names: pa.Array, starts: Ticks) -> object:
    """Return the name of the series that a row belongs to."""
    return names[int(np.searchsorted(starts, row, "right")) - 1].as_py()


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


def _steady(times: pa.Array, starts: Ticks, grid: Grid) -> tuple[Ticks, Ticks, Index] | None:
    """Return what `_steps` does, quickly, where each row is a step behind the one before; None where some are not."""
    follows = grid.follows(times)
    if follows is None or np.count_nonzero(follows) < len(times) - len(starts) + 1:
        return None
    breaks = np.flatnonzero(~follows) + 1  # in rising order, as the starts are
    if not np.array_equal(starts[np.searchsorted(starts, breaks)], breaks):
        return None
    first, phase = grid.read(times.take(pa.array(starts[:-1])))
    ordinal = np.repeat(first - starts[:-1], np.diff(starts))
    ordinal += np.arange(len(times))
    return ordinal, phase, np.empty(0, np.intp)


def _steps(times: pa.Array, starts: Ticks, grid: Grid) -> tuple[Ticks, Ticks, Index]:
    """Return the step of each row [N], the phase of each series [n], and the rows that are not on its grid."""
    (ordinal, phases), lengths = grid.read(times), np.diff(starts)
    phase = phases[starts[:-1]].copy()
    differ = np.flatnonzero(phases != np.repeat(phase, lengths))
    if not len(differ):
        return ordinal, phase, differ
    for place in np.unique(np.searchsorted(starts, differ, "right") - 1):  # the first row may be the odd one
        found, counts = np.unique(phases[starts[place] : starts[place + 1]], return_counts=True)
        phase[place] = found[np.argmax(counts)]
    wanted = np.repeat(phase, lengths)
    differ = np.flatnonzero(phases != wanted)
    fine = grid.agrees(times.take(pa.array(differ)), ordinal[differ], wanted[differ])
    return ordinal, phase, differ[~fine]


def _in_order(panel: Panel, off_grid: Index) -> Panel:
    """Mark series whose steps do not ascend, and leave in them one row a step: the last one of the file."""
    starts, steps = panel.starts, np.diff(panel.ordinal)
    steps[starts[1:-1] - 1] = 1
    bad = np.flatnonzero(steps <= 0) + 1
    if not len(bad) and not len(off_grid):
        return replace(panel, regular=_regular(panel.ordinal, starts))
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
    starts, ordinal = np.concatenate([[0], np.cumsum([len(rows) for rows in kept])]), panel.ordinal[order]
    return replace(
        panel,
        starts=starts,
        ordinal=ordinal,
        regular=_regular(ordinal, starts),
        numbers={name: values[order] for name, values in panel.numbers.items()},
        known=panel.known[order],
        reasons=reasons,
    )


def _one_a_step(ordinal: Ticks, on_grid: Bool, first: int, last: int) -> Index:
    """Return the rows of a series in the order of their steps, of several rows of a step the last one."""
    rows = np.arange(first, last)[on_grid[first:last]]
    rows = rows[np.argsort(ordinal[rows], kind="stable")]
    return np.asarray(rows[np.append(np.diff(ordinal[rows]) > 0, True)])


def _regular(ordinal: Ticks, starts: Ticks) -> Bool:
    return np.asarray(ordinal[starts[1:] - 1] - ordinal[starts[:-1]] == np.diff(starts) - 1)


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
        regular=np.concatenate([panel.regular for panel in panels]),
    )
