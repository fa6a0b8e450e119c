"""What every contestant is given, and what is read from Parquet for it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rounds import CHECKED
from sizes import Shape


@dataclass(frozen=True, slots=True)
class Task:
    """A round's work.

    Attributes:
        bundle: the bundle's folder; the Keras model lies in `.work` beside it.
        source: a Parquet file of windows.
        out: a folder of the contestant's own to write to.
        shape: of the windows and the forecaster.
        windows: to take in a round, out of `source`.
        precision: fp32 or int8.
        missing: why there are no graphs of this precision; empty where there are.
        batches: to try where the contestant has a choice.
    """

    bundle: Path
    source: Path
    out: Path
    shape: Shape
    windows: int
    precision: str
    missing: str
    batches: tuple[int, ...]

    def past(self) -> np.ndarray:
        """Return the encoder inputs of a round [B, C, F]."""
        column = pq.read_table(self.source, columns=["past"]).slice(0, self.windows)["past"]
        return column.combine_chunks().to_numpy_ndarray()


def predictions(part: Path) -> np.ndarray:
    """Return the first forecasts in a file that a contestant wrote [CHECKED, H]."""
    column = pq.read_table(part, columns=["prediction"]).slice(0, CHECKED)["prediction"]
    return np.array(column.to_pylist(), np.float32)
