"""The value that flows from the join to the sums: forecasts, cell by cell, beside what came true."""

from dataclasses import dataclass

import numpy as np

from runner.batch import F64, Bool, Index
from runner.parts import Part


@dataclass(frozen=True, slots=True)
class Truth:
    """What came true of some cells.

    Attributes:
        target: in raw units, NaN where the cell is not known or is excluded [N].
        there: True = the actuals tell of this cell, be it that it is excluded [N].
        last: the last value known at the origin, NaN where there is none [N]; None where nothing tells.
        seasonal: the value a season earlier [N]; None where no season is known.
    """

    target: F64
    there: Bool
    last: F64 | None
    seasonal: F64 | None


@dataclass(frozen=True, slots=True)
class Cells:
    """Forecasts of one part, one for each window and horizon step.

    Attributes:
        part: whose they are.
        series: number of each cell's series [N]; None where the keys tell of none.
        group: number of the date of its origin [N]; None likewise.
        step: horizon step, 0 is the first [N].
        prediction: in raw units, finite [N].
        truth: what came true of them.
    """

    part: Part
    series: Index | None
    group: Index | None
    step: Index
    prediction: F64
    truth: Truth

    def known(self) -> Bool:
        """Tell which cells count [N]."""
        return np.isfinite(self.truth.target)
