"""Which windows are cut from whole series: the latest one of each, or all of them, rolling."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from runner.batch import GOOD, Index, reason_code
from runner.errors import UsageError, explain
from runner.freq import Grid, Ticks
from runner.long.panel import Panel


@dataclass(frozen=True, slots=True)
class Origins:
    """Windows to cut.

    Attributes:
        series: place of each window's series in its panel [W].
        step: the last step that the forecast may see [W].
        row: the last row at or before it; the one before the series' first where there is none [W].
        reasons: why a window is none, as codes into REASONS [W].
    """

    series: Index
    step: Ticks
    row: Ticks
    reasons: npt.NDArray[np.uint8]

    def portions(self, most: int) -> Iterator["Origins"]:
        """Yield them in order, at most so many at once."""
        for begun in range(0, len(self.step), most):
            own = slice(begun, begun + most)
            yield Origins(self.series[own], self.step[own], self.row[own], self.reasons[own])


@dataclass(frozen=True, slots=True)
class Roll:
    """How windows roll over a series.

    Attributes:
        stride: steps from one origin to the next.
        first, last: step and phase of the first and the last origin; None = as each series has them.
    """

    stride: int
    first: tuple[int, int] | None
    last: tuple[int, int] | None


def latest(panel: Panel, context: int, *, padded: bool) -> Origins:
    """Return one window a series, after its last known target.

    Args:
        panel: whole series.
        context: steps that the encoder reads.
        padded: a series with fewer is fine: the missing ones are not observed.
    """
    row, first = panel.last_known(), panel.starts[:-1]
    none = row < first
    begin = panel.ordinal[first]
    step = np.where(none, begin - 1, panel.ordinal[np.maximum(row, first)])
    reasons = _marked(panel.reasons, none, "past_not_observed")
    if not padded:
        reasons = _marked(reasons, step - begin + 1 < context, "series_too_short")
    return Origins(np.arange(len(panel)), step, row, reasons)


@dataclass(frozen=True, slots=True)
class Rolled:
    """Rolling windows by number: those of the first series in the order of time, then those of the next.

    Attributes:
        panel: whole series.
        stride: steps from one origin to the next.
        series: place of each stretch's series: where steps are missing for long, it has several [s].
        first: step of each stretch's first origin [s].
        ends: windows of all stretches up to this one [s].
        reasons: why a series has no window but is one reject, as codes into REASONS [n].
    """

    panel: Panel
    stride: int
    series: Index
    first: Ticks
    ends: Ticks
    reasons: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def at(self, places: Index) -> Origins:
        """Return the windows of these numbers [W], in the order given."""
        stretch = np.searchsorted(self.ends, places, "right")
        series, before = self.series[stretch], np.concatenate([[0], self.ends])[stretch]
        step = self.first[stretch] + (places - before) * self.stride
        return Origins(series, step, _rows(self.panel, series, step), self.reasons[series])


def roll_over(panel: Panel, context: int, horizon: int, roll: Roll, *, padded: bool) -> Rolled:
    """Find the windows of all series, each with a whole horizon behind its origin.

    An origin need not have a known target itself, but where no row at all is in the context, there is no window. A
    series that is too short for one window, or that has something wrong with it, is one reject.

    Args:
        panel: whole series.
        context: steps that the encoder reads.
        horizon: steps that are forecast.
        roll: which origins.
        padded: a series too short for a whole context has one window nevertheless: the missing steps are not observed.
    """
    start, last_row = panel.starts[:-1], panel.last_known()
    none = last_row < start
    begin, end = panel.ordinal[start], panel.ordinal[np.maximum(last_row, start)]
    final = end - horizon
    first = begin + context - 1
    first = np.where(final >= begin, np.minimum(first, final), first) if padded else first
    reasons = _marked(_marked(panel.reasons, none, "past_not_observed"), first > final, "series_too_short")
    first, final = _within(first, final, panel.phase, roll)
    of, begin, until = _stretches(panel, context, reasons == GOOD)
    good = reasons[of] == GOOD
    begin = first[of] + np.maximum(-((first[of] - begin) // roll.stride), 0) * roll.stride
    count = np.maximum((np.minimum(final[of], until) - begin) // roll.stride + 1, 0)
    begin, count = np.where(good, begin, end[of]), np.where(good, count, 1)
    return Rolled(panel, roll.stride, of, begin, np.cumsum(count), reasons)


def rolling(panel: Panel, context: int, horizon: int, roll: Roll, most: int, *, padded: bool) -> Iterator[Origins]:
    """Yield what `roll_over` finds, at most so many windows at once."""
    rolled = roll_over(panel, context, horizon, roll, padded=padded)
    for begun in range(0, len(rolled), most):
        yield rolled.at(np.arange(begun, min(begun + most, len(rolled))))


def moment(text: str, kind: pa.DataType, flag: str) -> pa.Array:
    """Read a time of the command line as one of a column's type; without a zone of its own it is in the column's.

    Raises:
        UsageError: it is no such time.
    """
    try:
        if pa.types.is_timestamp(kind) and kind.tz:
            return _zoned(text, kind)
        return pa.array([text]).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise UsageError(
            explain(f"{flag} is no time of the data", got=text, expected=f"a {kind}, such as 2026-11-23")
        ) from error


def roll_of(stride: int, origin_from: str | None, origin_to: str | None, grid: Grid) -> Roll:
    """Return what the command line says of rolling windows, on a time grid.

    Raises:
        UsageError: a bound is no time of the data, or the last one lies before the first.
    """
    first, last = _bound(origin_from, grid, "--from"), _bound(origin_to, grid, "--to")
    if first is not None and last is not None and last < first:
        raise UsageError(explain("--to lies before --from", got=f"--from {origin_from} --to {origin_to}"))
    return Roll(stride, first, last)


def _bound(text: str | None, grid: Grid, flag: str) -> tuple[int, int] | None:
    """Return the step and the phase of a time."""
    if text is None:
        return None
    step, phase = grid.read(moment(text, grid.kind, flag))
    return int(step[0]), int(phase[0])


def _zoned(text: str, kind: pa.DataType) -> pa.Array:
    try:
        return pc.assume_timezone(
            pa.array([text]).cast(pa.timestamp(kind.unit)), kind.tz, ambiguous="earliest", nonexistent="latest"
        )
    except pa.ArrowInvalid:  # it says which zone it means
        return pa.array([text]).cast(pa.timestamp(kind.unit, "UTC")).cast(kind)


def _within(first: Ticks, final: Ticks, phase: Ticks, roll: Roll) -> tuple[Ticks, Ticks]:
    """Move the first origin to the first of the roll that is not before it, and the last one into its bounds."""
    if roll.first is not None:
        anchor = roll.first[0] + (phase < roll.first[1])
        first = anchor + np.maximum(-((anchor - first) // roll.stride), 0) * roll.stride
    if roll.last is not None:
        final = np.minimum(final, roll.last[0] - (phase > roll.last[1]))
    return first, final


def _stretches(panel: Panel, context: int, good: npt.NDArray[np.bool_]) -> tuple[Index, Ticks, Ticks]:
    """Cut series where steps are missing for longer than a context, so that a gap of years takes no time.

    Returns:
        The series of each stretch [n], and the first and the last step whose context has a row of it [n]. A series that
        is not good is one stretch.
    """
    gap = np.diff(panel.ordinal) > context
    gap &= np.repeat(good, np.diff(panel.starts))[1:]
    cuts = np.union1d(panel.starts[:-1], np.flatnonzero(gap) + 1)
    last = np.append(cuts[1:], len(panel.ordinal)) - 1
    return np.searchsorted(panel.starts, cuts, "right") - 1, panel.ordinal[cuts], panel.ordinal[last] + context - 1


def _rows(panel: Panel, series: Index, step: Ticks) -> Ticks:
    """Return the last row at or before each step [W]."""
    start = panel.starts[series]
    row = start + step - panel.ordinal[start]
    for place in np.unique(series[~panel.regular[series]]):
        own = series == place
        rows = panel.ordinal[panel.starts[place] : panel.starts[place + 1]]
        row[own] = panel.starts[place] + np.searchsorted(rows, step[own], "right") - 1
    return row


def _marked(reasons: npt.NDArray[np.uint8], bad: npt.NDArray[np.bool_], reason: str) -> npt.NDArray[np.uint8]:
    return np.where(bad & (reasons == GOOD), np.uint8(reason_code(reason)), reasons)
