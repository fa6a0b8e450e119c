"""Which forecasts have been counted, in memory that grows with the windows and not with their steps."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from runner.batch import Bool, Index
from runner.evaluation.keys import Int64

BITS = 64
Masks = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class _Run:
    """Cells, 64 steps of a window to a word: the words' numbers, rising, and a bit for each cell."""

    words: Int64
    masks: Masks

    def bits(self, words: Int64) -> Masks:
        """Return the bits of some words, 0 where the run has none of them."""
        place = np.minimum(np.searchsorted(self.words, words), len(self.words) - 1)
        return np.where(self.words[place] == words, self.masks[place], np.uint64(0))


@dataclass(slots=True)
class Seen:
    """The cells that were there before.

    Attributes:
        horizon: the most steps of any window.
        windows: how many windows have a cell among them.
        runs: sorted runs, each at least twice as long as the next, so that a cell is merged a few times only.
    """

    horizon: int
    windows: int = 0
    runs: list[_Run] = field(default_factory=list)

    def add(self, window: Int64, step: Index) -> Bool:
        """Count some cells; tell which were there before, or stand there a second time [N]."""
        width = -(-self.horizon // BITS) * BITS
        cells, first = np.unique(window * np.int64(width) + step, return_index=True)
        again = np.ones(len(window), bool)
        if not len(cells):
            return again
        words, start, word_of = np.unique(cells // BITS, return_index=True, return_inverse=True)
        bit = np.uint64(1) << (cells % BITS).astype(np.uint64)
        before = np.zeros(len(words), np.uint64)
        for run in self.runs:
            before |= run.bits(words)
        self.windows += self._unseen(words, before, width // BITS)
        again[first] = (before[word_of] & bit) != 0
        self._push(_Run(words, np.bitwise_or.reduceat(bit, start)))
        return again

    def _unseen(self, words: Int64, before: Masks, per_window: int) -> int:
        """Return how many of the windows are new: none of their words was there."""
        window = np.unique(words // per_window)
        if per_window == 1:
            return int((before == 0).sum())
        there = np.zeros(len(window), bool)
        for word in range(per_window):
            for run in self.runs:
                there |= run.bits(window * per_window + word) != 0
        return int((~there).sum())

    def _push(self, run: _Run) -> None:
        self.runs.append(run)
        while len(self.runs) > 1 and len(self.runs[-2].words) < 2 * len(self.runs[-1].words):
            self.runs[-2:] = [_merged(*self.runs[-2:])]


def _merged(one: _Run, other: _Run) -> _Run:
    words, masks = np.concatenate([one.words, other.words]), np.concatenate([one.masks, other.masks])
    order = np.argsort(words, kind="stable")
    words, start = np.unique(words[order], return_index=True)
    return _Run(words, np.bitwise_or.reduceat(masks[order], start))
