"""Blocks of neighbouring windows, and intervals that take their dependence into account.

Windows of stride 1 overlap: as if they were independent, an interval covered 47 % where 95 % was asked. Blocks that are
longer than a window is wide are nearly independent, so whole blocks are drawn.
"""

import numpy as np

from runner.batch import F64, Index

DRAWS = 1000
LEVEL = 0.95
FEWEST_BLOCKS = 20
"""With fewer, a bootstrap says nothing."""


def block_length(context: int, horizon: int) -> int:
    """Return how many consecutive windows a block holds at least."""
    return 2 * (context + horizon)


def block_of(count: int, length: int) -> Index:
    """Return the block number of each of `count` rows: blocks of `length` rows, the last with what is left over."""
    return block_at(np.arange(count), count, length)


def block_at(rows: Index, count: int, length: int) -> Index:
    """Return the block numbers of some of `count` rows, by their positions [N]."""
    last = max(count // length - 1, 0)
    return np.minimum(rows // length, last).astype(np.intp)


def add_up(values: F64, blocks: Index) -> F64:
    """Add rows up by block.

    Args:
        values: [N, ...].
        blocks: block number of each row, every number up to the largest there [N].

    Returns:
        Sums [blocks, ...], made in row order.
    """
    sums = np.zeros((int(blocks.max(initial=-1)) + 1, *values.shape[1:]))
    np.add.at(sums, blocks, values)
    return sums


def added(sums: F64, blocks: Index, values: F64) -> F64:
    """Return sums by block with more rows added to them, in row order; longer where new blocks begin.

    Args:
        sums: so far [blocks].
        blocks: block number of each row [N].
        values: one of each row [N].
    """
    found = np.bincount(blocks, values, len(sums)).astype(np.float64)
    found[: len(sums)] += sums
    return np.asarray(found)


def resampled(sums: F64, weights: F64, draws: int = DRAWS, seed: int = 0) -> F64:
    """Draw blocks with replacement, the same ones for every term, and divide.

    Args:
        sums: of squared errors, by term and block [T, blocks].
        weights: windows * H of each block [blocks].
        draws: how often.
        seed: of the draws.

    Returns:
        The mean of each term in each draw [T, draws].
    """
    count = len(weights)
    often = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return np.asarray((sums @ often.T) / (often @ weights))


def interval(values: F64, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval that holds the middle `level` of the draws [draws]."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_interval(
    first: F64, second: F64, weights: F64, draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> tuple[float, float] | None:
    """Return the interval of a difference of two means over the same windows.

    Args:
        first: sums of squared errors by block [blocks].
        second: those of the other forecast [blocks].
        weights: windows * H of each block [blocks].
        draws: how often blocks are drawn.
        seed: of the draws.
        level: share of the draws that the interval holds.

    Returns:
        Where `first - second` lies; None with fewer than 20 blocks.
    """
    if len(weights) < FEWEST_BLOCKS:
        return None
    return interval(resampled((first - second)[None], weights, draws, seed)[0], level)
