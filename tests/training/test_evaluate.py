"""Quality of predictions, against computations by another way."""

import numpy as np
import pytest

from model_runtime.training.evaluate import quality


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(0)
    click_N = rng.random(200) < 0.3
    probability_N = rng.integers(1, 20, 200) / 20  # with ties

    pairs = [(a > b) + 0.5 * (a == b) for a in probability_N[click_N] for b in probability_N[~click_N]]

    assert quality(click_N, probability_N).auc == pytest.approx(np.mean(pairs))


def test_predicting_the_base_rate_has_normalised_entropy_one_and_calibration_one() -> None:
    click_N = np.arange(100) < 7

    found = quality(click_N, np.full(100, 0.07))

    assert found.normalised_entropy == pytest.approx(1.0)
    assert found.calibration == pytest.approx(1.0)
    assert found.auc == 0.5


def test_a_certain_and_wrong_prediction_costs_much_but_not_infinitely() -> None:
    normalised_entropy = quality(np.array([True, False]), np.array([0.0, 1.0])).normalised_entropy

    assert normalised_entropy is not None
    assert 10 < normalised_entropy < 100


def test_a_group_without_clicks_says_nothing() -> None:
    found = quality(np.zeros(5, np.bool_), np.full(5, 0.1))

    assert (found.rows, found.clicks) == (5, 0)
    assert found.normalised_entropy is found.auc is found.calibration is None
