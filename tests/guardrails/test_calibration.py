import math

import numpy as np
import pytest
from numpy.typing import NDArray

from control_plane.domain.moments import FIXED_POINT
from control_plane.guardrails.calibration import calibrations

IntArray = NDArray[np.int64]


def scored(rng: np.random.Generator, *, buckets: int = 40) -> tuple[IntArray, IntArray, IntArray]:
    matured = rng.integers(50, 200, size=(1, buckets))
    return matured, matured * round(0.11 * FIXED_POINT), rng.binomial(matured, 0.1)


def test_calibration_is_the_log_of_predicted_over_observed() -> None:
    matured, score, clicks = scored(np.random.default_rng(1))

    found = calibrations(matured, score, clicks)

    assert found.log_ratio_H[0] == pytest.approx(math.log(score.sum() / FIXED_POINT / clicks.sum()), rel=1e-12)
    assert found.predicted_H[0] == pytest.approx(matured.sum() * 0.11)
    assert found.observed_H[0] == clicks.sum()


def test_its_error_is_that_of_leaving_out_each_bucket_in_turn() -> None:
    matured, score, clicks = scored(np.random.default_rng(2))
    without = np.log((score.sum() - score) / FIXED_POINT / (clicks.sum() - clicks))[0]

    expected = math.sqrt(39 / 40 * np.square(without - without.mean()).sum())

    assert calibrations(matured, score, clicks).se_H[0] == pytest.approx(expected, rel=1e-9)


def test_no_click_counts_as_half_a_click_so_that_overconfidence_is_still_seen() -> None:
    matured, score, clicks = scored(np.random.default_rng(3))

    found = calibrations(matured, score, np.zeros_like(clicks))

    assert found.log_ratio_H[0] == pytest.approx(math.log((found.predicted_H[0] + 0.5) / 0.5))


def test_nothing_scored_and_nothing_clicked_is_not_a_number() -> None:
    nothing = np.zeros((1, 40), dtype=np.int64)

    assert math.isnan(calibrations(nothing, nothing, nothing).log_ratio_H[0])
