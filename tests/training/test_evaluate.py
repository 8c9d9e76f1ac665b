"""Quality of predictions, against computations by another way."""

import numpy as np
import pytest

from model_runtime.training.evaluate import mean_square_error, quality, reliability


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


def test_the_debiased_error_of_a_perfect_model_is_0_on_average_and_the_plain_one_is_not() -> None:
    rng = np.random.default_rng(1)
    plain, debiased = [], []
    for _ in range(300):
        probability_N = rng.beta(2, 20, 900)
        bins = reliability(rng.random(900) < probability_N, probability_N)
        plain.append(sum(size * (mean - rate) ** 2 for mean, rate, size in bins) / 900)
        debiased.append(mean_square_error(bins))

    assert abs(np.mean(debiased)) < 0.1 * np.mean(plain)


def test_the_error_of_a_model_that_is_off_is_how_far_it_is_off() -> None:
    rng = np.random.default_rng(2)
    probability_N = rng.beta(2, 20, 200_000)
    click_N = rng.random(200_000) < probability_N

    found = quality(click_N, 1.3 * probability_N).calibration_error

    assert found is not None
    expected = 0.3 * np.sqrt((probability_N**2).mean()) / probability_N.mean()  # root mean square, over the click rate
    assert found == pytest.approx(expected, rel=0.05)


def test_the_interval_of_calibration_covers_what_is_right_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(3), []
    for _ in range(1_000):
        probability_N = rng.beta(2, 20, 2_000)
        interval = quality(rng.random(2_000) < probability_N, probability_N).calibration_interval
        assert interval is not None
        covered.append(interval[0] <= 1 <= interval[1])

    assert 0.93 < np.mean(covered) < 0.985


def test_the_truth_is_told_where_it_is_known() -> None:
    rng = np.random.default_rng(4)
    true_N = rng.beta(2, 8, 5_000)
    click_N = rng.random(5_000) < true_N

    found = quality(click_N, 1.1 * true_N, true_N)

    assert found.true_calibration == pytest.approx(1.1)
    assert found.best_normalised_entropy is not None
    assert found.normalised_entropy is not None
    assert found.best_normalised_entropy < found.normalised_entropy
    assert "true_calibration" not in quality(click_N, true_N).to_json()
