"""What an evaluation says, as one JSON object."""

from typing import Literal

from runner.features import Strict
from runner.manifest import Loss
from runner.precision import Precision
from runner.report import Naive, Step


class CellCounts(Strict):
    """Forecasts, one for each window and horizon step.

    Attributes:
        forecast: of the model, each counted once: those known, excluded and pending.
        known: what came true is known, and counts.
        excluded: the actuals say that this one does not count.
        pending: not yet known.
        rejected: null.
        fallback: naive ones that stand in for rejects.
        twice: further copies of a forecast that was counted.
    """

    forecast: int
    known: int
    excluded: int
    pending: int
    rejected: int
    fallback: int
    twice: int


class Group(Strict):
    """The forecasts of one date of origin or one series; the losses are null where nothing is known."""

    name: str
    forecast: int
    known: int
    masked_mse: float | None
    observed_mse: float | None
    last_observed_mse: float | None
    seasonal_observed_mse: float | None


class BundleGroup(Group):
    """The forecasts of one bundle in one mode and precision, beside what it was certified at."""

    mode: str
    precision: Precision
    certified: Loss
    ratio: float | None


class SeriesGroups(Strict):
    """How the observed MSE is spread over the series that have one.

    Attributes:
        count: series that were forecast.
        quantiles: of the observed MSE, by share of the series; empty where nothing is known.
        worst: those with the largest observed MSE, the worst first.
    """

    count: int
    quantiles: dict[str, float]
    worst: tuple[Group, ...]


class EvaluationReport(Strict):
    """Forecasts as they were issued, held against what came true.

    Attributes:
        layout: a row of the forecasts is a step (`long`), or a window.
        parts: how many there are.
        foreign: files that freerun did not write, which were left out.
        windows: forecasts of a whole horizon, each counted once.
        masked_mse: squared errors over the cells that are known or excluded; null where nothing is known.
        observed_mse: squared errors over the cells that are known.
        naive: the same cells, as far as the actuals reach back far enough; `observed` says how many those are.
        certified: the bundles' certified losses, weighted by their known cells.
        ratio: observed_mse over the certified one.
        by_origin: by date of origin, the latest 1,000 of them.
    """

    schema_version: Literal[1] = 1
    exit_code: int
    error: str | None
    warnings: tuple[str, ...]
    out: str
    actuals: str
    on: tuple[str, ...]
    layout: Literal["long", "windows"]
    parts: int
    foreign: int
    windows: int
    cells: CellCounts
    masked_mse: float | None
    observed_mse: float | None
    per_step: tuple[Step, ...]
    naive: dict[str, Naive]
    certified: Loss
    ratio: float | None
    max_ratio: float | None
    by_bundle: tuple[BundleGroup, ...]
    by_origin: tuple[Group, ...]
    by_series: SeriesGroups
