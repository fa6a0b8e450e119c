"""What both layouts have in common: forecasts in, cells out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runner.batch import F64, Bool, Index
from runner.evaluation.cells import Cells
from runner.evaluation.issued import IssuedPart
from runner.evaluation.keys import Int64, Numbers
from runner.evaluation.seen import Seen

MODEL = "model"
"""The `source` of a forecast that the bundle made; any other is a naive one that stands in."""


@dataclass(frozen=True, slots=True)
class Issue:
    """Some rows of a part, told apart.

    Attributes:
        cells: forecasts of the model, each for the first time.
        rejected: forecasts that are null.
        fallback: naive ones that stand in for those, in no score.
        twice: further copies of forecasts that were counted already.
    """

    cells: Cells
    rejected: int
    fallback: int
    twice: int


@dataclass(frozen=True, slots=True)
class Picture:
    """What a layout makes of an output folder, before its forecasts are read.

    Attributes:
        series: the series that were forecast; None where the keys tell of none.
        groups: dates of origin; None likewise.
    """

    series: Numbers | None
    groups: Numbers | None


class Join(Protocol):
    """Forecasts of one layout, joined with what came true."""

    @property
    def picture(self) -> Picture:
        """Return what groups the cells have."""

    @property
    def windows(self) -> int:
        """Return how many windows have been counted so far."""

    def read(self, issued: IssuedPart) -> Iterator[Issue]:
        """Yield a part's forecasts, cell by cell."""


def split(prediction: F64, model: Bool, window: Int64, step: Index, seen: Seen) -> tuple[Bool, tuple[int, int, int]]:
    """Tell which forecasts are the model's, finite, and not counted yet [N]; and count the others by kind."""
    finite = np.isfinite(prediction)
    rejected, fallback = ~finite & model, finite & ~model
    kept = finite & model
    again = seen.add(window[kept], step[kept])
    fresh = kept.copy()
    fresh[kept] = ~again
    return fresh, (int(rejected.sum()), int(fallback.sum()), int(again.sum()))
