"""Cut windows from whole series: one gather a feature, whatever steps are missing."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runner.batch import F32, F64, GOOD, Bool, Index, WindowBatch, reason_code
from runner.calendar import calendar_names, calendar_values
from runner.freq import Grid, Ticks
from runner.long.origins import Origins
from runner.long.panel import Panel
from runner.long.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Cutter:
    """What windows of a bundle look like.

    Attributes:
        manifest: of the bundle, or what will be its.
        grid: the time steps.
        with_target: windows have a horizon whose truth is known.
        with_naive: rejects may get a naive forecast.
        teacher: the loop will be teacher-forced, so each window needs true values.
    """

    manifest: Recipe
    grid: Grid
    with_target: bool
    with_naive: bool = False
    teacher: bool = False

    def cut(self, panel: Panel, origins: Origins) -> WindowBatch:
        """Return the windows, what cannot be forecast marked with the first reason found [W, ...]."""
        manifest, context = self.manifest, self.manifest.context_length
        rows, there = self._rows(panel, origins)
        codes = origins.reasons.copy()
        known: Bool = there & panel.known[rows]
        observed = known[:, :context]
        times = self._calendar(panel, origins)
        past, finite = self._past(panel, rows[:, :context], observed, times[:, :context])
        _reject(codes, ~observed.any(axis=1), "past_not_observed")
        if not manifest.past_observed:
            _reject(codes, ~observed.all(axis=1), "past_not_observed")
        _reject(codes, ~np.all(finite | ~observed[:, :, None], axis=(1, 2)), "past_not_finite")
        future = self._future(panel, rows[:, context:], there[:, context:], times[:, context:], codes)
        target = self._target(panel, rows[:, context:], known[:, context:], codes) if self.with_target else None
        has_target = np.asarray(known[:, context:].any(axis=1) & self.with_target)
        if self.teacher:
            _reject(codes, ~has_target, "target_missing")
        return WindowBatch(
            past=past,
            past_observed=observed.astype(np.float32) if manifest.past_observed else None,
            future_known=future,
            target=target,
            observed=None if target is None else known[:, context:],
            decoder_input=None,
            has_target=has_target,
            reasons=codes,
            static=None if panel.static is None else panel.static[origins.series],
            naive=(observed & finite[:, :, manifest.target.feature])[:, :, None] if self.with_naive else None,
        )

    def _rows(self, panel: Panel, origins: Origins) -> tuple[Ticks, Bool]:
        """Return the row of each step of context and horizon, and which of them there are [W, C + H]."""
        context, horizon = self.manifest.context_length, self.manifest.horizon
        rows = origins.row[:, None] + np.arange(1 - context, horizon + 1)
        first, last = (panel.starts[origins.series + side][:, None] for side in (0, 1))
        there = (rows >= first) & (rows < last)
        rows = np.clip(rows, 0, len(panel.ordinal) - 1)
        gaps = np.flatnonzero(~panel.regular[origins.series])
        if len(gaps):  # rows ascend by a step or more, so none that is wanted lies further away than the steps do
            place = panel.ordinal[rows[gaps]] - origins.step[gaps, None] + context - 1
            kept = there[gaps] & (place >= 0) & (place < context + horizon)
            window, _ = np.nonzero(kept)
            found = np.zeros_like(rows[gaps]), np.zeros_like(there[gaps])
            found[0][window, place[kept]], found[1][window, place[kept]] = rows[gaps][kept], True
            rows[gaps], there[gaps] = found
        return rows, there

    def _past(self, panel: Panel, rows: Ticks, observed: Bool, times: F32) -> tuple[F32, Bool]:
        """Return the features, 0 where they are not known, and which of them are finite [W, C, F]."""
        past = np.empty((*rows.shape, len(self.manifest.features.past)), np.float32)
        finite = np.ones(past.shape, bool)
        for index, name in enumerate(self.manifest.features.past):
            column = self._feature(panel, name, rows, times)
            good = np.isfinite(column)
            past[:, :, index] = np.where(good & observed, column, np.float32(0))
            finite[:, :, index] = good
        return past, finite

    def _future(self, panel: Panel, rows: Ticks, there: Bool, times: F32, codes: npt.NDArray[np.uint8]) -> F32 | None:
        """Return the covariates over the horizon [W, H, K]; reject windows that miss some."""
        names = self.manifest.features.future_known
        if not names:
            return None
        future = np.empty((*rows.shape, len(names)), np.float32)
        for index, name in enumerate(names):
            future[:, :, index] = self._feature(panel, name, rows, times)
        if set(names) - set(self._computed()):
            _reject(codes, ~there.all(axis=1), "future_known_missing")
        bad = ~np.isfinite(future)
        _reject(codes, bad.any(axis=(1, 2)), "future_known_not_finite")
        return np.where(bad, np.float32(0), future)

    def _target(self, panel: Panel, rows: Ticks, known: Bool, codes: npt.NDArray[np.uint8]) -> F64:
        """Return the truth over the horizon, 0 where it is not known [W, H]; reject windows that cannot be scored."""
        truth = np.where(known, panel.numbers[self.manifest.target.name][rows].astype(np.float64), 0.0)
        with np.errstate(over="ignore"):  # what float32 cannot hold could not be fed back either
            bad = ~np.isfinite(truth.astype(np.float32))
        _reject(codes, bad.any(axis=1), "target_not_finite")
        return np.where(bad, 0.0, truth)

    def _feature(self, panel: Panel, name: str, rows: Ticks, times: F32) -> F32:
        """Return a feature of each step, of a column or of the time [W, steps]."""
        if name in panel.numbers:
            with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is not finite
                return panel.numbers[name][rows].astype(np.float32, copy=False)
        return times[:, :, self._computed().index(name)]

    def _computed(self) -> tuple[str, ...]:
        return calendar_names(self.manifest.calendar) if self.manifest.calendar else ()

    def _calendar(self, panel: Panel, origins: Origins) -> F32:
        """Return the features of the time [W, C + H, n]."""
        offsets = np.arange(1 - self.manifest.context_length, self.manifest.horizon + 1)
        if self.manifest.calendar is None:
            return np.empty((len(origins.step), len(offsets), 0), np.float32)
        steps = (origins.step[:, None] + offsets).ravel()
        times = self.grid.times(steps, np.repeat(panel.phase[origins.series], len(offsets)))
        return calendar_values(self.manifest.calendar, times).reshape(len(origins.step), len(offsets), -1)


def _reject(codes: npt.NDArray[np.uint8], rows: Bool | np.bool_ | Index, reason: str) -> None:
    codes[rows & (codes == GOOD)] = reason_code(reason)
