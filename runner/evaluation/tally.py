"""Sums of errors by step, date of origin, series and bundle: numbers that only ever grow, and are divided at the end.

Within a part cells are added in their order, parts in the order of their paths, all in float64.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from runner.batch import F64, Index
from runner.evaluation.cells import Cells
from runner.evaluation.join import Issue
from runner.intervals import added
from runner.parts import Part

KINDS = ("model", "last", "seasonal")
Column = dict[str, F64]


@dataclass(slots=True)
class Sums:
    """Sums by group.

    Attributes:
        columns: `forecast` and `due` cells, and by forecast how many are `known`, and their errors `squared`,
            `absolute` and `signed` (such as `model_squared`), each by number of the group [G].
    """

    columns: Column = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns.get("forecast", ()))

    def add(self, group: Index, values: Column) -> None:
        """Add cells up, each to its group [N]."""
        for name, value in values.items():
            self.columns[name] = added(self.columns.get(name, np.zeros(0)), group, value)

    def of(self, name: str) -> F64:
        """Return one column; zeros where nothing was ever added to it [G]."""
        found = self.columns.get(name, np.zeros(0))
        return np.concatenate([found, np.zeros(len(self) - len(found))])

    def total(self, name: str) -> float:
        """Return the exactly rounded sum over the groups."""
        return math.fsum(self.of(name))

    def mean(self, kind: str = "model") -> F64:
        """Return each group's observed MSE; NaN where nothing is known [G]."""
        return divided(self.of(f"{kind}_squared"), self.of(f"{kind}_known"))


def divided(sums: F64, counts: F64) -> F64:
    """Return means, NaN where nothing was counted [G]."""
    return np.asarray(np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0))


@dataclass(slots=True)
class Tally:
    """All sums of an evaluation.

    Attributes:
        step, origin, series, bundle: by horizon step, date of origin, series, and who made them.
        makers: one part of each bundle and mode, in the order of `bundle`.
        rejected, fallback, twice: forecasts that are in no score.
    """

    step: Sums = field(default_factory=Sums)
    origin: Sums = field(default_factory=Sums)
    series: Sums = field(default_factory=Sums)
    bundle: Sums = field(default_factory=Sums)
    makers: list[Part] = field(default_factory=list)
    rejected: int = 0
    fallback: int = 0
    twice: int = 0

    def add(self, issue: Issue) -> None:
        """Add some forecasts."""
        cells, values = issue.cells, _values(issue.cells)
        self.step.add(cells.step, values)
        self.bundle.add(np.full(len(cells.step), self._maker(cells.part), np.intp), values)
        for sums, group in ((self.origin, cells.group), (self.series, cells.series)):
            if group is not None:
                sums.add(group, values)
        self.rejected += issue.rejected
        self.fallback += issue.fallback
        self.twice += issue.twice

    def _maker(self, part: Part) -> int:
        identities = [identity(maker) for maker in self.makers]
        if identity(part) in identities:
            return identities.index(identity(part))
        self.makers.append(part)
        return len(self.makers) - 1


def identity(part: Part) -> tuple[str, str, str]:
    """Return what decides which certified loss a part is held against."""
    return part.bundle_id, part.mode, part.maker.precision


def _values(cells: Cells) -> Column:
    truth = cells.truth
    values = {"forecast": np.ones(len(cells.step)), "due": truth.there.astype(np.float64)}
    forecasts = {"model": cells.prediction, "last": truth.last, "seasonal": truth.seasonal}
    for kind, prediction in forecasts.items():
        if prediction is not None:
            counts = cells.known() & np.isfinite(prediction)
            error = np.where(counts, prediction - truth.target, 0.0)
            errors = {"squared": error * error, "absolute": np.abs(error), "signed": error}
            values |= {f"{kind}_known": counts.astype(np.float64)}
            values |= {f"{kind}_{name}": value for name, value in errors.items()}
    return values
