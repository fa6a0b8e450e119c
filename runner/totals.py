"""Sums of errors that can be added up over blocks, parts and nights, and are divided once, at the end.

Columns are added one by one, in the order of the units. Where a column is added up over the horizon, the sum is the
exactly rounded one: the built-in `sum` of floats compensates from Python 3.12 on and does not before, so it would make
the report depend on the interpreter.
"""

import math
from dataclasses import dataclass
from typing import Any

Column = tuple[float, ...]
"""One number for each step of the horizon; of several targets one for each in each step: step by step."""


def _add(left: Column, right: Column) -> Column:
    return tuple(a + b for a, b in zip(left, right, strict=True))


@dataclass(frozen=True, slots=True)
class ErrorSums:
    """Sums over the observed steps of one forecast's errors (prediction - target), by horizon step, in float64."""

    squared: Column
    absolute: Column
    signed: Column

    def columns(self) -> tuple[Column, Column, Column]:
        return (self.squared, self.absolute, self.signed)

    def __add__(self, other: "ErrorSums") -> "ErrorSums":
        return ErrorSums(
            _add(self.squared, other.squared),
            _add(self.absolute, other.absolute),
            _add(self.signed, other.signed),
        )


@dataclass(frozen=True, slots=True)
class Score:
    """What a set of scored windows adds up to.

    Attributes:
        windows: scored windows that carry a target (the denominator of `masked_mse`, together with the cells).
        observed: how many windows counted in each cell: each horizon step, and in it each target.
        model: the forecaster's errors.
        last: the errors of the last observed value, repeated.
        seasonal: the errors of the value one season earlier; None where no season is given.
    """

    windows: int
    observed: tuple[int, ...]
    model: ErrorSums
    last: ErrorSums
    seasonal: ErrorSums | None

    def __post_init__(self) -> None:
        columns = [sums for sums in (self.model, self.last, self.seasonal) if sums]
        if {len(column) for sums in columns for column in sums.columns()} != {len(self.observed)}:
            raise ValueError("the sums of a score are of different lengths")

    def __add__(self, other: "Score") -> "Score":
        return Score(
            self.windows + other.windows,
            tuple(a + b for a, b in zip(self.observed, other.observed, strict=True)),
            self.model + other.model,
            self.last + other.last,
            self.seasonal + other.seasonal if self.seasonal and other.seasonal else None,
        )

    @property
    def cells(self) -> int:
        """Return H * M: the horizon's steps, for each target."""
        return len(self.observed)

    def of_target(self, index: int, count: int) -> "Score":
        """Return the score of one of `count` targets."""
        own = slice(index, None, count)

        def picked(sums: ErrorSums) -> ErrorSums:
            return ErrorSums(sums.squared[own], sums.absolute[own], sums.signed[own])

        seasonal = picked(self.seasonal) if self.seasonal else None
        return Score(self.windows, self.observed[own], picked(self.model), picked(self.last), seasonal)

    def masked_mse(self, sums: ErrorSums) -> float | None:
        """Divide by windows * cells: the loss of training. None where nothing was observed."""
        return math.fsum(sums.squared) / (self.windows * self.cells) if sum(self.observed) else None

    def observed_mse(self, sums: ErrorSums) -> float | None:
        """Divide by the number of observed steps. None where nothing was observed."""
        return math.fsum(sums.squared) / sum(self.observed) if sum(self.observed) else None

    def by_step(self, sums: ErrorSums, targets: int = 1) -> list[dict[str, Any]]:
        """Return the means of each horizon step, over its targets; null where that step was never observed."""
        return [self._step(sums, step, targets) for step in range(self.cells // targets)]

    def _step(self, sums: ErrorSums, step: int, targets: int) -> dict[str, Any]:
        now = slice(step * targets, (step + 1) * targets)
        squared, absolute, signed = (math.fsum(column[now]) for column in sums.columns())
        count = sum(self.observed[now])
        return {
            "step": step + 1,
            "observed": count,
            "masked_mse": squared / (self.windows * targets) if count else None,
            "observed_mse": squared / count if count else None,
            "mae": absolute / count if count else None,
            "bias": signed / count if count else None,
        }
