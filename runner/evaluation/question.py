"""What an evaluation is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runner.dataset import Dataset, open_dataset


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be evaluated.

    Attributes:
        out: an output folder of `freerun score`.
        actuals: path or URI of what came true.
        on: columns that both have: series and time where a row is a step, the keys of a window where it is one.
        columns: role -> column name of the actuals, only where they differ.
        max_ratio: of the live loss to the certified one; None holds it to nothing.
        by_series: a Parquet file to write a row for each series into.
    """

    out: Path
    actuals: str
    on: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    max_ratio: float | None = None
    by_series: Path | None = None

    def dataset(self) -> Dataset:
        """Find the actuals.

        Raises:
            InputError: they are not there.
        """
        return open_dataset(self.actuals)
