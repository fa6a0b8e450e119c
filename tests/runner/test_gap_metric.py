"""Losses that were averaged otherwise, and are recognised."""

import numpy as np
import pytest

from runner.batch import WindowBatch
from runner.errors import UsageError
from runner.gap.metric import averagings, read_reported


@pytest.fixture
def errors():
    rng = np.random.default_rng(3)
    observed = rng.random((1000, 12)) >= np.linspace(0.02, 0.4, 1000)[:, None]
    target = np.where(observed, rng.normal(2, 1, (1000, 12)), 0.0)
    prediction = (target + rng.normal(0, np.linspace(0.1, 0.6, 1000)[:, None], (1000, 12))).astype(np.float32)
    batch = WindowBatch(
        np.zeros((1000, 3, 1), np.float32),
        None,
        None,
        target,
        observed,
        None,
        np.ones(1000, bool),
        np.zeros(1000, np.uint8),
    )
    return batch, prediction


def matching(batch, prediction, loss, regularisation=None):
    reported = read_reported(loss)
    return {way.key for way in averagings(batch, prediction, 0.7, regularisation) if reported.is_near(way.loss)}


def squared(batch, prediction):
    return np.where(batch.observed, (prediction - batch.target) ** 2, 0.0)


def test_the_number_of_steps_that_count_as_denominator(errors):
    loss = squared(*errors).sum() / errors[0].observed.sum()
    assert matching(*errors, f"{loss:.5f}") == {"denominator"}


def test_a_mean_of_batch_means(errors):
    batch, found = errors[0], squared(*errors)
    means = [found[at : at + 32].sum() / batch.observed[at : at + 32].sum() for at in range(0, 1000, 32)]
    assert matching(*errors, f"{np.mean(means):.6f}") == {"batch_means"}


def test_a_mask_multiplied_instead_of_selected(errors):
    batch, prediction = errors
    assert matching(*errors, "nan") == {"mask_multiplied"}
    loss = np.mean((prediction - batch.target * batch.observed) ** 2)
    assert matching(*errors, f"{loss:.5f}") == {"mask_multiplied"}


def test_regularisation_inside_the_validation_loss(errors):
    loss = squared(*errors).mean() + 0.0389
    assert matching(*errors, f"{loss:.6f}", 0.0389) == {"regularisation"}
    assert matching(*errors, f"{loss:.6f}") == set()


def test_deviations_for_a_unit_and_a_root(errors):
    exact = squared(*errors).mean()
    assert matching(*errors, f"{exact / 0.49:.6f}") == {"units"}
    assert matching(*errors, f"{exact**0.5:.6f}") == {"root"}


def test_a_loss_is_as_precise_as_its_last_digit():
    assert read_reported("0.048").is_near(0.04849)
    assert not read_reported("0.0480").is_near(0.04849)
    assert read_reported("4.8e-2").is_near(0.0484)


@pytest.mark.parametrize("text", ["", "much", "-1", "inf", "1,5"])
def test_what_is_no_loss_is_refused(text):
    with pytest.raises(UsageError, match="reported"):
        read_reported(text)
