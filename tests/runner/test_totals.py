"""Sums that are merged in any grouping and divided once, at the end."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.totals import ErrorSums, Score

H = 3


def sums(*squared):
    return ErrorSums(squared, tuple(2 * value for value in squared), tuple(-value for value in squared))


def score(windows, observed, squared, seasonal=None):
    return Score(windows, observed, sums(*squared), sums(*(value + 1 for value in squared)), seasonal)


numbers = st.integers(-(2**40), 2**40)
columns = st.tuples(*[numbers.map(float)] * H)
error_sums = st.builds(ErrorSums, columns, columns, columns)
counts = st.integers(0, 2**40)
scores = st.builds(Score, counts, st.tuples(*[counts] * H), error_sums, error_sums, error_sums)


@given(scores, scores, scores)
def test_merging_is_exact_on_integers_in_any_order_and_grouping(a, b, c):
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a


@given(scores, scores)
def test_merging_adds_every_field_to_its_own(a, b):
    merged = a + b
    assert merged.windows == a.windows + b.windows
    assert merged.observed == tuple(x + y for x, y in zip(a.observed, b.observed, strict=True))
    for name in ("model", "last", "seasonal"):
        left, right, both = (getattr(given, name) for given in (a, b, merged))
        for kind in ("squared", "absolute", "signed"):
            pairs = zip(getattr(left, kind), getattr(right, kind), strict=True)
            assert getattr(both, kind) == tuple(x + y for x, y in pairs)


def test_scores_of_two_horizons_are_not_merged():
    with pytest.raises(ValueError, match="argument"):
        score(1, (1,), (1.0,)) + score(1, (1, 1), (1.0, 1.0))


def test_a_seasonal_sum_that_covers_only_some_of_the_windows_is_dropped():
    with_season, without = score(1, (1,), (1.0,), sums(5.0)), score(1, (1,), (1.0,))
    assert (with_season + without).seasonal is None
    assert (without + with_season).seasonal is None
    assert (with_season + with_season).seasonal == sums(10.0)


def test_the_two_means_have_their_own_denominators():
    found = score(10, (4, 0, 6), (8.0, 0.0, 12.0))
    assert found.cells == 3
    assert found.masked_mse(found.model) == 20 / (10 * 3)
    assert found.observed_mse(found.model) == 20 / 10
    assert found.masked_mse(found.last) == 23 / (10 * 3)


def test_a_merged_mean_weighs_steps_and_not_parts():
    many, one = score(10, (10,), (10.0,)), score(1, (1,), (100.0,))
    merged = many + one
    assert merged.observed_mse(merged.model) == 110 / 11


@pytest.mark.parametrize("windows", [0, 5])
def test_nothing_observed_gives_null_and_never_zero(windows):
    found = score(windows, (0, 0), (0.0, 0.0))
    assert found.masked_mse(found.model) is None
    assert found.observed_mse(found.model) is None
    for step in found.by_step(found.model):
        assert step["observed"] == 0
        assert [step[name] for name in ("masked_mse", "observed_mse", "mae", "bias")] == [None] * 4


def test_a_perfect_forecast_scores_zero_and_not_null():
    found = score(2, (2, 2), (0.0, 0.0))
    assert found.masked_mse(found.model) == 0
    assert found.observed_mse(found.model) == 0


def test_each_step_has_its_own_means_and_is_counted_from_one():
    first, second = score(10, (4, 0), (8.0, 0.0)).by_step(sums(8.0, 0.0))
    assert first == {"step": 1, "observed": 4, "masked_mse": 0.8, "observed_mse": 2.0, "mae": 4.0, "bias": -2.0}
    assert second == {"step": 2, "observed": 0, "masked_mse": None, "observed_mse": None, "mae": None, "bias": None}


def test_the_steps_masked_means_average_to_the_whole_one():
    found = score(7, (5, 6, 7), (1.0, 2.0, 3.0))
    steps = [step["masked_mse"] for step in found.by_step(found.model)]
    assert sum(steps) / 3 == pytest.approx(found.masked_mse(found.model), rel=1e-15)


@pytest.mark.parametrize(
    ("squared", "total"),
    [((0.1,) * 10, 1.0), ((1e16, 1.0, 1.0), 1e16 + 2), ((1.0, 1e16, 1.0), 1e16 + 2)],
    ids=["tenths", "small ones after a large one", "a large one between"],
)
def test_the_mean_over_the_horizon_is_the_same_on_every_python(squared, total):
    sums = ErrorSums(squared, squared, squared)
    found = Score(1, (1,) * len(squared), sums, sums, None)
    assert found.masked_mse(sums) == total / len(squared)
    assert found.observed_mse(sums) == total / len(squared)


@given(st.lists(st.floats(0, 1e60), min_size=1, max_size=24))
def test_the_mean_over_the_horizon_is_the_exact_sum_rounded_once_and_divided_once(squared):
    sums = ErrorSums(tuple(squared), tuple(squared), tuple(squared))
    found = Score(7, (1,) * len(squared), sums, sums, None)
    exact = float(sum(map(Fraction, squared)))
    assert found.masked_mse(sums) == exact / (7 * len(squared))
    assert found.observed_mse(sums) == exact / len(squared)
