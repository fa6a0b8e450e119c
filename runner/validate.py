"""Turn an Arrow batch into windows, and mark each row that must not reach a graph with the first reason found."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from runner.batch import F32, F64, GOOD, Bool, WindowBatch, reason_code
from runner.columns import Cells, read_cells
from runner.schema import Layout, Sizes
from runner.static import category_indices, joined

CELL_ROLES = frozenset({"target", "mask", "observed", "decoder_input"})
"""Roles with a value for each target in each step of the horizon."""
ONCE_A_STEP = 2
"""Axes of a column, the rows included, that has one value for all targets of a step."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """The reason codes of one batch, filled in as the columns are looked at [B]."""

    codes: npt.NDArray[np.uint8]

    def reject(self, rows: Bool | np.bool_, reason: str) -> None:
        self.codes[rows & (self.codes == GOOD)] = reason_code(reason)

    def reject_misfits(self, cells: Cells, role: str, among: Bool | None = None) -> None:
        among = np.ones(len(self.codes), bool) if among is None else among
        self.reject(cells.absent & among, f"{role}_missing")
        self.reject(cells.misfit & among, f"{role}_shape")


def validate(
    batch: pa.RecordBatch, layout: Layout, sizes: Sizes, *, flags_past: bool, teacher: bool, naive: tuple[int, ...] = ()
) -> WindowBatch:
    """Read and check every cell that a graph or the score will see.

    Args:
        batch: rows of one file, with the columns of `layout`.
        layout: where the roles are.
        sizes: C, H, F, K and M, and the static features.
        flags_past: the encoder takes `past_observed` (and imputes); otherwise a missing step is a reject.
        teacher: the loop will be teacher-forced, so each row needs its true values.
        naive: the past features that are targets, where rejects may get a naive forecast.

    Returns:
        The same rows in the same order, every cell finite; what stands in the cells of a reject means nothing.
    """
    cells = {role: _read(batch.column(column), role, sizes) for role, column in layout.roles.items()}
    rows = _Rows(np.zeros(batch.num_rows, np.uint8))
    past, past_observed = _past(cells, rows)
    target, observed, has_target = _target(cells, rows)
    decoder_input = (
        _numbers(cells["decoder_input"], "decoder_input", rows) if teacher and "decoder_input" in cells else None
    )
    if teacher and decoder_input is None:
        rows.reject(~has_target, "target_missing")
    if not flags_past:
        rows.reject(~past_observed.all(axis=1), "past_not_observed")
    future_known = _numbers(cells["future_known"], "future_known", rows) if "future_known" in cells else None
    static = _static(batch, cells, sizes, rows) if sizes.static else None
    return WindowBatch(
        past=past,
        past_observed=past_observed.astype(np.float32) if flags_past else None,
        future_known=future_known,
        target=target,
        observed=observed,
        decoder_input=decoder_input,
        has_target=has_target,
        reasons=rows.codes,
        naive=_naive(cells, past_observed)[:, :, list(naive)] if naive else None,
        static=static,
    )


def _read(column: pa.Array, role: str, sizes: Sizes) -> Cells:
    """Return a role's column in the axes that a batch has: what is over the horizon, step by step [B, H * M]."""
    if sizes.targets == 1 or role not in CELL_ROLES:
        return read_cells(column, sizes.shape(role))
    shapes, _ = sizes.fitting(role, column.type)
    found = [_step_by_step(read_cells(column, shape), sizes) for shape in shapes]
    if len(found) == 1:
        return found[0]
    whole, once = found  # a list of no fixed length: each row by its own
    take = whole.misfit[:, None]
    null = None if whole.null is None and once.null is None else np.where(take, _nulls(once), _nulls(whole))
    return Cells(np.where(take, once.values, whole.values), whole.absent, whole.misfit & once.misfit, null)


def _step_by_step(cells: Cells, sizes: Sizes) -> Cells:
    """Return cells as [B, H * M]; those of a step alone [B, H] for each of its targets."""
    times = sizes.targets if cells.values.ndim == ONCE_A_STEP else 1

    def flat(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.repeat(values.reshape(len(values), -1), times, axis=1)

    return Cells(flat(cells.values), cells.absent, cells.misfit, None if cells.null is None else flat(cells.null))


def _nulls(cells: Cells) -> Bool:
    return np.zeros(cells.values.shape, bool) if cells.null is None else cells.null


def _past(cells: dict[str, Cells], rows: _Rows) -> tuple[F32, Bool]:
    """Return `past` with 0 at the missing steps [B, C, F], and which steps are there [B, C]."""
    past = cells["past"]
    rows.reject_misfits(past, "past")
    observed = np.ones(past.values.shape[:2], bool)
    if "past_observed" in cells:
        flags = cells["past_observed"]
        rows.reject_misfits(flags, "past_observed")
        observed = _flags(flags, "past_observed", rows, np.ones(len(observed), bool)) == 1
        rows.reject(~observed.any(axis=1), "past_not_observed")
    values = _float32(past.values)
    bad = ~np.isfinite(values)
    rows.reject((bad & observed[:, :, None]).any(axis=(1, 2)), "past_not_finite")
    if bad.any() or not observed.all():
        values = np.where(bad | ~observed[:, :, None], np.float32(0), values)
    return values, observed


def _naive(cells: dict[str, Cells], observed: Bool) -> Bool:
    """Return which cells of the past are known, whatever is wrong with the rest of their row [B, C, F]."""
    lists = [cells[role] for role in ("past", "past_observed") if role in cells]
    spoiled = np.logical_or.reduce([column.absent | column.misfit for column in lists])
    finite = np.isfinite(_float32(cells["past"].values))
    return np.asarray(finite & observed[:, :, None] & ~spoiled[:, None, None])


def _numbers(cells: Cells, role: str, rows: _Rows) -> F32:
    """Return a column of measurements that have to be finite, as float32, with 0 where they are not."""
    rows.reject_misfits(cells, role)
    values = _float32(cells.values)
    bad = ~np.isfinite(values)
    rows.reject(bad.reshape(len(values), -1).any(axis=1), f"{role}_not_finite")
    return np.where(bad, np.float32(0), values) if bad.any() else values


def _static(batch: pa.RecordBatch, cells: dict[str, Cells], sizes: Sizes, rows: _Rows) -> F32:
    """Return the static features, numbers and then the indices of words, 0 where there is nothing to take [B, S]."""
    numbers = _numbers(cells["static"], "static", rows) if "static" in cells else None
    indices = []
    for category in sizes.categories:
        places, unknown = category_indices(batch.column(category.name), category)
        rows.reject(unknown, "category_unknown")
        indices.append(places)
    return joined(numbers, indices)


def _target(cells: dict[str, Cells], rows: _Rows) -> tuple[F64 | None, Bool | None, Bool]:
    """Return target [B, H * M], which of its cells count [B, H * M], and which rows have one [B]."""
    if "target" not in cells:
        return None, None, np.zeros(len(rows.codes), bool)
    target = cells["target"]
    rows.reject(target.misfit, "target_shape")
    has_target = ~target.absent
    with np.errstate(invalid="ignore"):  # a signalling NaN
        values = target.values.astype(np.float64)
    observed = _counted(cells, rows, has_target, values.shape) & ~np.isnan(values) & has_target[:, None]
    endless = observed & ~np.isfinite(_float32(values))  # what float32 cannot hold could not be fed back either
    rows.reject(endless.any(axis=1), "target_not_finite")
    return np.where(observed & ~endless, values, 0.0), observed, has_target


def _counted(cells: dict[str, Cells], rows: _Rows, has_target: Bool, shape: tuple[int, ...]) -> Bool:
    """Return which steps the mask (1 = excluded) or the observed column (1 = counts) lets through [B, H]."""
    for role, counts in (("mask", 0), ("observed", 1)):
        if role in cells:
            rows.reject_misfits(cells[role], role, has_target)
            return np.asarray(_flags(cells[role], role, rows, has_target) == counts)
    return np.ones(shape, bool)


def _flags(cells: Cells, role: str, rows: _Rows, among: Bool) -> npt.NDArray[Any]:
    """Return a column of 0 and 1 in its own type; anything else, a null included, rejects the row."""
    values = cells.values
    bad = (values != 0) & (values != 1)
    if cells.null is not None:
        bad |= cells.null
    rows.reject(bad.any(axis=1) & among, f"{role}_not_binary")
    return values


def _float32(values: npt.NDArray[np.floating]) -> F32:
    # What float32 cannot hold becomes infinite, and the row a reject; a NaN may be a signalling one.
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32, copy=False)
