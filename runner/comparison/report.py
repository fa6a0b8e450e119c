"""What a comparison says, as one JSON object."""

from typing import Literal

from runner.features import Strict
from runner.precision import Precision
from runner.report import Naive, Step

Verdict = Literal["better", "not proven", "worse"]


class Contender(Strict):
    """One of the two bundles.

    Attributes:
        rejected: rows with a target that are rejects for it; they are in neither score.
    """

    bundle_id: str
    name: str
    context_length: int
    rejected: int
    masked_mse: float
    observed_mse: float
    per_step: tuple[Step, ...]


class ComparedWindows(Strict):
    """The windows that both scores are taken over.

    Attributes:
        used: rows that both could forecast, with a target.
        total: rows of the data.
        blocks: groups of windows that the interval resamples.
        blocks_are: runs of neighbouring rows, or series.
    """

    used: int
    total: int
    blocks: int
    blocks_are: Literal["neighbours", "series"]


class ComparisonReport(Strict):
    """Two bundles, free-running, over the very same windows.

    Attributes:
        differs: what is not the same in the two manifests, a line each.
        difference: masked MSE of the old one less that of the new one: positive where the new one is better.
        share: of the old one's.
        interval: where the difference lies, with 95 % confidence; null with fewer than 20 blocks.
        margin: share of the old one's masked MSE that the new one has to win to be called better.
        difference_by_step: of the masked MSE at each horizon step.
    """

    schema_version: Literal[1] = 1
    exit_code: int
    error: str | None
    data: str
    device: str
    precision: Precision
    old: Contender
    new: Contender
    differs: tuple[str, ...]
    windows: ComparedWindows
    difference: float
    share: float | None
    interval: tuple[float, float] | None
    margin: float
    verdict: Verdict
    reason: str
    difference_by_step: tuple[float | None, ...]
    naive: dict[str, Naive]
