"""List columns of an Arrow batch as numpy arrays of a known shape, whatever encoding they came in."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt

from runner.batch import Bool

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cells:
    """A list column taken apart.

    Attributes:
        values: the numbers, NaN where a float is null, anything in rows that are absent or misfits [B, *shape].
        absent: True = the row is null [B].
        misfit: True = the row's list has another length than the shape [B].
        null: True = an item inside the row is null [B, *shape]; None = no item is.
    """

    values: npt.NDArray[Any]
    absent: Bool
    misfit: Bool
    null: Bool | None


def type_problem(kind: pa.DataType, shape: Shape, *, flags: bool) -> str | None:
    """Say why a column of this type can never hold arrays of this shape; None where it can.

    Args:
        kind: the column's Arrow type.
        shape: the axes after the batch, such as (C, F).
        flags: the items are 0 or 1 (any integer, boolean or float) rather than measurements (floats).
    """
    if isinstance(kind, pa.FixedShapeTensorType):
        if tuple(kind.shape) != shape:
            return f"tensor of shape {list(kind.shape)}, expected {list(shape)}"
        if kind.permutation is not None and list(kind.permutation) != sorted(kind.permutation):
            return f"tensor with permutation {list(kind.permutation)}, expected row-major order"
    levels, leaf = _unnest(_storage(kind))
    sizes = _sizes(len(levels), shape)
    if sizes is None:
        return f"{kind}, expected a list of {math.prod(shape)} or a nested list {list(shape)}"
    for level, size in zip(levels, sizes, strict=True):
        if pt.is_fixed_size_list(level) and level.list_size != size:
            return f"list of fixed length {level.list_size}, expected {size}"
    fits = pt.is_floating(leaf) or (flags and (pt.is_boolean(leaf) or pt.is_integer(leaf)))
    return (
        None
        if fits
        else f"items of type {leaf}, expected {'0 and 1' if flags else 'float32 (or float64, which is cast)'}"
    )


def leaf_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the numbers at the bottom of a list type."""
    return _unnest(_storage(kind))[1]


def read_cells(array: pa.Array, shape: Shape) -> Cells:
    """Return a column's numbers as one array, without a copy where the layout allows it.

    Args:
        array: a tensor, fixed-size list or list column that `type_problem` found nothing wrong with.
        shape: the axes after the batch, such as (C, F).
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    rows = len(array)
    levels, _ = _unnest(array.type)
    sizes = _sizes(len(levels), shape)
    assert sizes is not None, "type_problem comes first"  # noqa: S101  (a bug of ours, not of the data)
    absent, misfit = np.zeros(rows, bool), np.zeros(rows, bool)
    for depth, size in enumerate(sizes):
        array, missing, wrong = _descend(array, size)
        if depth:
            misfit |= (missing | wrong).reshape(rows, math.prod(sizes[:depth])).any(axis=1)
        else:
            absent, misfit = missing, wrong
    values, null = _leaves(array)
    return Cells(values.reshape(rows, *shape), absent, misfit, None if null is None else null.reshape(rows, *shape))


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _unnest(kind: pa.DataType) -> tuple[list[pa.DataType], pa.DataType]:
    levels = []
    while pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        levels.append(kind)
        kind = kind.value_type
    return levels, kind


def _sizes(depth: int, shape: Shape) -> Shape | None:
    if depth == len(shape):
        return shape
    return (math.prod(shape),) if depth == 1 else None


def _descend(array: pa.Array, size: int) -> tuple[pa.Array, Bool, Bool]:
    """Return the items [rows * size] below one level of lists, and which rows are null or of another length."""
    rows = len(array)
    absent = _nulls(array)
    if pt.is_fixed_size_list(array.type):
        return array.values.slice(array.offset * size, rows * size), absent, np.zeros(rows, bool)
    offsets = array.offsets.to_numpy()
    misfit = ~absent & (np.diff(offsets) != size)
    bad = absent | misfit
    if not bad.any():
        return array.values.slice(offsets[0], rows * size), absent, misfit
    if bad.all():
        return pa.nulls(rows * size, array.type.value_type), absent, misfit
    starts = np.where(bad, offsets[:-1][~bad][0], offsets[:-1])
    return array.values.take(pa.array((starts[:, None] + np.arange(size)).ravel())), absent, misfit


def _nulls(array: pa.Array) -> Bool:
    if not array.null_count:
        return np.zeros(len(array), bool)
    return np.asarray(array.is_null().to_numpy(zero_copy_only=False))


def _leaves(array: pa.Array) -> tuple[npt.NDArray[Any], Bool | None]:
    if not array.null_count:
        return array.to_numpy(zero_copy_only=False), None
    filler = pa.scalar(np.nan if pt.is_floating(array.type) else 0).cast(array.type)
    return array.fill_null(filler).to_numpy(zero_copy_only=False), _nulls(array)
