"""Intervals hold what they promise on windows that overlap, as long as whole blocks are drawn."""

import numpy as np
import pytest

from runner.intervals import (
    FEWEST_BLOCKS,
    add_up,
    block_at,
    block_length,
    block_of,
    interval,
    paired_interval,
    resampled,
)

C, H, COUNT = 12, 6, 2000


def test_blocks_are_of_one_length_and_the_last_takes_what_is_left_over():
    assert block_of(7, 2).tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert block_of(6, 2).tolist() == [0, 0, 1, 1, 2, 2]
    assert block_of(3, 5).tolist() == [0, 0, 0]
    assert block_of(0, 5).tolist() == []
    assert block_at(np.array([6, 0, 3]), 7, 2).tolist() == [2, 0, 1]
    assert block_length(48, 12) == 120


def test_sums_are_by_block_whatever_the_order_of_the_rows():
    values = np.arange(10.0).reshape(5, 2)
    assert add_up(values, np.array([0, 1, 0, 2, 1])).tolist() == [[4, 6], [10, 12], [6, 7]]
    assert add_up(np.zeros((0, 2)), np.zeros(0, np.intp)).shape == (0, 2)


def test_the_same_blocks_are_drawn_for_every_term():
    sums, weights = np.arange(30.0), np.full(30, 2.0)
    drawn = resampled(np.stack([sums, 3 * sums, weights]), weights, draws=50)
    assert drawn.shape == (3, 50)
    np.testing.assert_allclose(drawn[1], 3 * drawn[0])
    np.testing.assert_allclose(drawn[2], 1)
    assert np.array_equal(drawn, resampled(np.stack([sums, 3 * sums, weights]), weights, draws=50))
    assert not np.array_equal(drawn[0], resampled(sums[None], weights, draws=50, seed=1)[0])


def test_an_interval_holds_the_middle():
    assert interval(np.arange(1001.0), 0.9) == pytest.approx((50, 950))


def test_too_few_blocks_say_nothing():
    few = np.ones(FEWEST_BLOCKS - 1)
    assert paired_interval(few, few, few) is None
    enough = np.ones(FEWEST_BLOCKS)
    assert paired_interval(3 * enough, enough, 2 * enough) == (1, 1)


def errors_of_forecasts(trials):
    """Return the squared errors [2, trials, N] of two forecasts of overlapping AR(1) windows, the second a bit low."""
    noise = np.random.default_rng(0).normal(size=(trials, C + H + COUNT))
    values = np.zeros_like(noise)
    for t in range(1, values.shape[1]):
        values[:, t] = 0.9 * values[:, t - 1] + noise[:, t]
    origins, ahead = C + np.arange(COUNT)[:, None], np.arange(1, H + 1)
    error = values[:, origins] * 0.9**ahead - values[:, origins + ahead]
    return np.stack([(error**2).sum(axis=2), ((error - 0.5) ** 2).sum(axis=2)])


def coverage(length, trials):
    """Return how often the interval holds the expected difference: the bias squared."""
    blocks, held = block_of(COUNT, length), 0
    weights = add_up(np.full(COUNT, float(H)), blocks)
    for trial, (unbiased, low) in enumerate(errors_of_forecasts(trials).swapaxes(0, 1)):
        found = paired_interval(add_up(low, blocks), add_up(unbiased, blocks), weights, draws=200, seed=trial)
        held += found[0] <= 0.25 <= found[1]
    return held / trials


def test_blocks_cover_what_was_asked_and_single_windows_do_not():
    assert coverage(block_length(C, H), 300) > 0.9
    assert 0.3 < coverage(1, 60) < 0.75
