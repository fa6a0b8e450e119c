"""What both layouts have in common: forecasts in, cells out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

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


def source_of(issued: IssuedPart) -> list[str]:
    """Return the column that tells who made each forecast, where the part has one: it has where rejects were filled."""
    return ["source"] if "source" in issued.schema.names else []


def made_by_model(rows: pa.RecordBatch) -> Bool:
    """Tell which forecasts are the model's, or nobody's, rather than naive ones that stand in [N]."""
    if "source" not in rows.schema.names:
        return np.ones(rows.num_rows, bool)
    source = rows.column("source")
    words = source.dictionary_decode() if pt.is_dictionary(source.type) else source
    return np.asarray(pc.fill_null(pc.equal(words, MODEL), True).to_numpy(zero_copy_only=False))


def split(prediction: F64, model: Bool, window: Int64, step: Index, seen: Seen) -> tuple[Bool, tuple[int, int, int]]:
    """Tell which forecasts are the model's, finite, and not counted yet [N]; and count the others by kind."""
    finite = np.isfinite(prediction)
    rejected, fallback = ~finite & model, finite & ~model
    kept = finite & model
    again = seen.add(window[kept], step[kept])
    fresh = kept.copy()
    fresh[kept] = ~again
    return fresh, (int(rejected.sum()), int(fallback.sum()), int(again.sum()))
