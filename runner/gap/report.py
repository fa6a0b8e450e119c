"""What an explanation says, as one JSON object."""

from typing import Literal

from runner.features import Strict


class StepParts(Strict):
    """What lies between the exported step's two losses, in squared target units; null where it was not tried."""

    horizon: float | None
    plug_in: float | None
    undertrained: float | None
    exposure_bias: float | None
    model: float | None
    one_step: float | None


class Parts(StepParts):
    """What the whole gap consists of; null counts as 0."""

    metric: float | None
    wiring: float | None
    unattributed: float | None


class GapStep(Strict):
    """Masked MSE at one step: sum over the windows that count, divided by all windows.

    `best` is the forecast that was chosen there, measured on other windows than it was chosen on.
    """

    step: int
    observed: int
    teacher_forced: float
    free_running: float
    best: float | None
    best_forecast: str | None
    parts: StepParts | None


class Panellist(Strict):
    """A forecast of the same windows: its loss, and how much lower than the free-running one it is."""

    name: str
    masked_mse: float
    better_by: float
    interval: tuple[float, float] | None
    per_step: tuple[float, ...]


class SuspectEntry(Strict):
    """A fault that was simulated.

    Attributes:
        kind: in what the metric adds up, or in how the graphs are wired.
        difference: of the simulated loss from the one to explain, or of the simulated forecasts from those to explain
            (in target deviations); None where nothing could be compared.
        matches: this is it.
    """

    kind: Literal["metric", "wiring"]
    key: str
    text: str
    difference: float | None
    matches: bool


class FirstStep(Strict):
    """At the first step both modes get the start value, so they must agree bit for bit."""

    equal: bool
    largest_difference: float


class GapWindows(Strict):
    """The windows that every loss is taken over.

    Attributes:
        used: good windows with a target that were taken.
        total: rows of the data.
        rejected: rows with bad cells.
        taken_every: 1 = all blocks were taken, k = every k-th.
        blocks: groups of windows that the intervals resample.
        blocks_are: runs of neighbouring rows, or whole series.
        chose_the_epoch: training picked its best epoch on these very windows, so the losses are optimistic.
    """

    used: int
    total: int
    rejected: int
    taken_every: int
    blocks: int
    blocks_are: Literal["neighbours", "series"]
    chose_the_epoch: bool


class GapReport(Strict):
    """Why the free-running loss is not the one that training reported.

    Attributes:
        reported: the first loss is what somebody read off a screen (`--reported`), not what was computed here.
        teacher_forced: the loss that training reported, L0.
        free_running: the runner's masked MSE, F.
        gap: F - L0, the sum of the parts.
        losses: every loss of the walk by its letter in docs/explain-gap.md.
        shares: each part as a share of F.
        recoverable: what the best forecast that was tried wins over F.
        intervals: with 95 % confidence, of the gap, of `recoverable` and of the parts; empty below 20 blocks.
    """

    schema_version: int = 1
    bundle_id: str
    valid: str
    train: str | None
    model: str | None
    windows: GapWindows
    first_step: FirstStep
    reported: bool
    teacher_forced: float | None
    free_running: float
    gap: float | None
    parts: Parts
    shares: Parts
    recoverable: float | None
    intervals: dict[str, tuple[float, float]]
    losses: dict[str, float | None]
    per_step: tuple[GapStep, ...]
    panel: tuple[Panellist, ...]
    suspects: tuple[SuspectEntry, ...]
    notes: tuple[str, ...]
    verdict: str
