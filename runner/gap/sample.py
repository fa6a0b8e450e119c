"""Which windows of a large dataset are taken: contiguous ones, for every k-th could be at the same hour of each day."""

from dataclasses import dataclass

import numpy as np

from runner.batch import Bool, Index
from runner.intervals import FEWEST_BLOCKS, block_at, block_length
from runner.schema import Sizes

MOST_BYTES = 1 << 29
"""Held in memory at most; of larger data, every k-th block of windows is taken, or the beginning of each."""
BLOCKS_KEPT = 2 * FEWEST_BLOCKS
"""Blocks that have to fit; where whole ones are too large for that, the beginnings of blocks are taken."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Blocks of windows, or the beginnings of them.

    Attributes:
        total: rows of the dataset.
        length: of a block.
        every: k, where every k-th block is taken.
        beginning: of each block taken, so many windows are.
    """

    total: int
    length: int
    every: int
    beginning: int

    @property
    def one_in(self) -> int:
        return self.every * self.length // self.beginning

    def blocks(self, position: Index) -> Index:
        """Return the number of the block that each row of the dataset is in."""
        return block_at(position, self.total, self.length)

    def takes(self, position: Index) -> Bool:
        """Tell which rows of the dataset are taken."""
        taken = (self.blocks(position) % self.every == 0) & (position % self.length < self.beginning)
        return np.asarray(taken)


def sample_of(total: int, sizes: Sizes, most_bytes: int = MOST_BYTES) -> Sample:
    """Return a sample that fits into memory, with enough blocks for an interval where the data has them."""
    length, fit = block_length(sizes.context, sizes.horizon), most_bytes // row_bytes(sizes)
    if total <= fit:
        return Sample(total, length, 1, length)
    beginning = int(np.clip(fit // BLOCKS_KEPT, 1, length))
    blocks, most = -(-total // length), max(fit // beginning, 1)
    return Sample(total, length, -(-blocks // most), beginning)


def row_bytes(sizes: Sizes) -> int:
    """Return about how many bytes a window takes in memory."""
    return 4 * sizes.context * (sizes.past + 1) + sizes.horizon * (4 * sizes.future + 20 * sizes.targets)
