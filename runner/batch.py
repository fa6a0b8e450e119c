"""The value that flows from validation to the decoding loop and the score: a batch of windows as numpy arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]

Feature = int | tuple[int, ...]
"""The index of the target among the past features; of several targets one for each, in their order."""


def features_of(feature: Feature) -> tuple[int, ...]:
    """Return the index of each target among the past features [M]."""
    return (feature,) if isinstance(feature, int) else feature


GOOD = 0
"""The reason code of a row that has nothing wrong with it."""

REASONS = (
    "",
    "past_missing",
    "past_shape",
    "past_observed_missing",
    "past_observed_shape",
    "past_observed_not_binary",
    "past_not_observed",
    "past_not_finite",
    "future_known_missing",
    "future_known_shape",
    "future_known_not_finite",
    "target_shape",
    "target_missing",
    "target_not_finite",
    "mask_missing",
    "mask_shape",
    "mask_not_binary",
    "observed_missing",
    "observed_shape",
    "observed_not_binary",
    "decoder_input_missing",
    "decoder_input_shape",
    "decoder_input_not_finite",
    "prediction_not_finite",
    "static_missing",
    "static_shape",
    "static_not_finite",
    "category_unknown",
    "step_duplicate",
    "step_unordered",
    "step_off_grid",
    "series_too_short",
)
"""Every reason for a reject; a row's code is an index into this tuple, and the first reason found is the one told."""


def reason_code(reason: str) -> int:
    return REASONS.index(reason)


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Windows that are ready for the graphs, with the rejects still in their places.

    Where a bundle has M targets, H stands for H * M in what follows: step by step, in each step target by target.

    Attributes:
        past: encoder inputs in raw units, 0 where a step is not observed [B, C, F].
        past_observed: 1 = the step of the context is there [B, C]; None where the bundle takes no such input.
        future_known: covariates over the horizon in raw units [B, H, K]; None where K = 0.
        target: truth over the horizon in raw units, 0 where it does not count [B, H]; None where the data has none.
        observed: True = the step counts in loss and score [B, H]; None where the data has no target.
        decoder_input: the teacher's input that the data brings along, in raw units [B, H]; None = derive it.
        has_target: True = the row carries a target [B].
        reasons: codes into REASONS, 0 = a good row [B].
        static: what does not change within a series, numbers and then indices [B, S]; None where S = 0.
        naive: True = the step's target is known, so that a naive forecast may be made of it, in a reject too
            [B, C, M]; None where nobody asked.
    """

    past: F32
    past_observed: F32 | None
    future_known: F32 | None
    target: F64 | None
    observed: Bool | None
    decoder_input: F32 | None
    has_target: Bool
    reasons: npt.NDArray[np.uint8]
    static: F32 | None = None
    naive: Bool | None = None

    def __len__(self) -> int:
        return len(self.reasons)

    def good_rows(self) -> Index:
        """Return the positions of the rows that may reach a graph, in order."""
        return np.flatnonzero(self.reasons == GOOD)

    def take(self, rows: Index | slice) -> "WindowBatch":
        """Return the rows at these positions, in the order given, as a batch of their own."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        picked: dict[str, Any] = {name: None if array is None else array[rows] for name, array in columns.items()}
        return WindowBatch(**picked)

    def for_graphs(self, *, teacher: bool) -> "WindowBatch":
        """Return the batch with what only the score looks at left out."""
        return (
            replace(self, naive=None)
            if teacher
            else replace(self, target=None, observed=None, decoder_input=None, naive=None)
        )

    def context(self) -> dict[str, F32]:
        """Return what an encoder takes, by role, in the order of its inputs."""
        given = {"past": self.past, "past_observed": self.past_observed, "static": self.static}
        return {role: array for role, array in given.items() if array is not None}

    def columns(self) -> frozenset[str]:
        """Return the names of the arrays that are there; only batches with the same can be joined."""
        return frozenset(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def rejecting(self, rows: Bool | np.bool_, reason: str) -> "WindowBatch":
        """Return the batch with these rows rejected too; a row that already has a reason keeps it.

        Args:
            rows: True = reject [B].
            reason: one of REASONS.
        """
        codes = np.where(rows & (self.reasons == GOOD), np.uint8(reason_code(reason)), self.reasons)
        return replace(self, reasons=codes)


def join(batches: Sequence[WindowBatch]) -> WindowBatch:
    """Return the rows of all batches, which must have the same columns, one batch after the other."""
    if len(batches) == 1:
        return batches[0]
    there = batches[0].columns()
    joined: dict[str, Any] = {
        field.name: np.concatenate([getattr(batch, field.name) for batch in batches]) if field.name in there else None
        for field in fields(WindowBatch)
    }
    return WindowBatch(**joined)
