"""Sums of errors that can be added up over blocks, parts and nights, and are divided once, at the end.

Columns are added one by one, in the order of the units. Where a column is added up over the horizon, the sum is the
exactly rounded one: the built-in `sum` of floats compensates from Python 3.12 on and does not before, so it would make
the report depend on the interpreter.
"""

import math
from dataclasses import dataclass
from typing import Any

Column = tuple[float, ...]
"""One number for each step of the horizon."""


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
        windows: scored windows that carry a target (the denominator of `masked_mse`, together with the horizon).
        observed: how many steps counted, by horizon step.
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
    def horizon(self) -> int:
        return len(self.observed)

    def masked_mse(self, sums: ErrorSums) -> float | None:
        """Divide by windows * horizon: the loss of training. None where nothing was observed."""
        return math.fsum(sums.squared) / (self.windows * self.horizon) if sum(self.observed) else None

    def observed_mse(self, sums: ErrorSums) -> float | None:
        """Divide by the number of observed steps. None where nothing was observed."""
        return math.fsum(sums.squared) / sum(self.observed) if sum(self.observed) else None

    def by_step(self, sums: ErrorSums) -> list[dict[str, Any]]:
        """Return the means of each horizon step; null where that step was never observed."""
        return [self._step(sums, step) for step in range(self.horizon)]

    def _step(self, sums: ErrorSums, step: int) -> dict[str, Any]:
        count = self.observed[step]
        return {
            "step": step + 1,
            "observed": count,
            "masked_mse": sums.squared[step] / self.windows if count else None,
            "observed_mse": sums.squared[step] / count if count else None,
            "mae": sums.absolute[step] / count if count else None,
            "bias": sums.signed[step] / count if count else None,
        }
