"""Forecast the same windows with both bundles, and add their errors up by block."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from runner.batch import F32, F64, GOOD, Index, WindowBatch
from runner.batches import Forecast
from runner.comparison.source import PairedBlock, WindowSource
from runner.forecaster import Forecaster
from runner.intervals import FEWEST_BLOCKS, added, block_at
from runner.score import score_block
from runner.stop import Stop
from runner.totals import Score

AHEAD = 2
"""Blocks of windows that are read and queued while an earlier one is waited for."""
MOST_BLOCKS = 2000
"""That are resampled: of longer data the blocks are longer, and of more series several are drawn together."""


@dataclass(slots=True)
class BlockSums:
    """Sums of squared errors by block of windows, and how many cells these are, observed or not [blocks]."""

    old: F64 = field(default_factory=lambda: np.zeros(0))
    new: F64 = field(default_factory=lambda: np.zeros(0))
    cells: F64 = field(default_factory=lambda: np.zeros(0))

    def add(self, block: Index, old: F64, new: F64, cells: F64) -> None:
        """Add windows up, each to its block: sums of their squared errors, and their cells [N]."""
        self.old, self.new = added(self.old, block, old), added(self.new, block, new)
        self.cells = added(self.cells, block, cells)

    def dense(self) -> "BlockSums":
        """Return the blocks that have windows, and not too many of them to resample."""
        kept = self.cells > 0
        most = min(int(kept.sum()), MOST_BLOCKS)
        group = (np.arange(int(kept.sum())) * most // max(int(kept.sum()), 1)).astype(np.intp)
        old, new, cells = (added(np.zeros(0), group, sums[kept]) for sums in (self.old, self.new, self.cells))
        return BlockSums(old, new, cells)


@dataclass(slots=True)
class Duel:
    """What both bundles made of the windows.

    Attributes:
        length: rows of a block of neighbours.
        scores: of the old bundle and the new one, over the same windows; None before the first.
        neighbours, series: sums by runs of neighbouring rows, and by series.
        names: number of each series.
        nameless: some rows tell of no series, so that neighbours are drawn.
        rejected: rows with a target that are rejects for each of them.
    """

    total: int
    length: int
    scores: tuple[Score, Score] | None = None
    neighbours: BlockSums = field(default_factory=BlockSums)
    series: BlockSums = field(default_factory=BlockSums)
    names: dict[str, int] = field(default_factory=dict)
    nameless: bool = False
    rejected: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def by_series(self) -> bool:
        """Tell whether there are enough series to resample whole ones."""
        return not self.nameless and len(self.names) >= FEWEST_BLOCKS

    def add(self, block: PairedBlock, rows: Index, scores: tuple[Score, Score], errors: tuple[F64, F64]) -> None:
        """Add some rows of a block, by what they add up to and each one's sum of squared errors [N]."""
        before = self.scores
        self.scores = scores if before is None else (before[0] + scores[0], before[1] + scores[1])
        cells = np.full(len(rows), float(scores[0].cells))
        self.neighbours.add(block_at(block.first + rows, self.total, self.length), *errors, cells)
        if block.series is None:
            self.nameless = True
        else:
            names = [block.series[row] for row in rows.tolist()]
            numbers = [self.names.setdefault(name, len(self.names)) for name in names]
            self.series.add(np.array(numbers, np.intp), *errors, cells)

    def blocks(self) -> BlockSums:
        """Return what is resampled."""
        return (self.series if self.by_series else self.neighbours).dense()


def fight(source: WindowSource, forecasters: tuple[Forecaster, Forecaster], length: int, stop: Stop) -> Duel:
    """Forecast all windows, free-running, with both bundles.

    Args:
        source: the windows.
        forecasters: of the old bundle and the new one.
        length: rows of a block of neighbours, at least.
        stop: ends the work.

    Raises:
        InputError: the data is damaged.
    """
    duel = Duel(source.total, max(length, -(-source.total // MOST_BLOCKS)))
    for block, forecasts in _ahead(source, forecasters, stop):
        old, new = (forecast.result()[0] for forecast in forecasts)
        _add(duel, block, (old, new), forecasters)
    return duel


def _ahead(
    source: WindowSource, forecasters: tuple[Forecaster, Forecaster], stop: Stop
) -> Iterator[tuple[PairedBlock, tuple[Forecast, Forecast]]]:
    old, new = (forecaster.queue(teacher=False, check=stop.check) for forecaster in forecasters)
    waiting: deque[tuple[PairedBlock, tuple[Forecast, Forecast]]] = deque()
    for block in source.blocks(stop):
        waiting.append((block, (old.add(block.batches[0]), new.add(block.batches[1]))))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def _add(
    duel: Duel, block: PairedBlock, predictions: tuple[F32, F32], forecasters: tuple[Forecaster, Forecaster]
) -> None:
    """Score the rows that both could forecast, and count those that only one of them could not."""
    batches = [
        batch.rejecting(~np.isfinite(prediction).all(axis=1), "prediction_not_finite")
        for batch, prediction in zip(block.batches, predictions, strict=True)
    ]
    good, there = [batch.reasons == GOOD for batch in batches], batches[0].has_target
    duel.rejected = [before + int((~rows & there).sum()) for before, rows in zip(duel.rejected, good, strict=True)]
    rows = np.flatnonzero(good[0] & good[1] & there)
    if len(rows):
        old, new = (
            _scored(batch.take(rows), prediction[rows], forecaster)
            for batch, prediction, forecaster in zip(batches, predictions, forecasters, strict=True)
        )
        duel.add(block, rows, (old[0], new[0]), (old[1], new[1]))


def _scored(batch: WindowBatch, prediction: F32, forecaster: Forecaster) -> tuple[Score, F64]:
    """Return what good windows with a target add up to, and each one's sum of squared errors [N]."""
    manifest = forecaster.manifest
    score = score_block(batch, prediction, manifest.target_features, manifest.season_length)
    assert score is not None and batch.target is not None and batch.observed is not None  # noqa: PT018, S101
    error = np.where(batch.observed, prediction.astype(np.float64) - batch.target, 0.0)
    return score, np.asarray((error * error).sum(axis=1))
