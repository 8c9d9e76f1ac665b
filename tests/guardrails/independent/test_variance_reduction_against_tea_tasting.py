"""CUPED beside tea-tasting's, which regresses linearised ratios of users where we regress jackknife pseudo-values."""

import math

import numpy as np
import pytest

from control_plane.guardrails.estimate import LogRatios, log_ratios
from control_plane.guardrails.variance_reduction import adjusted
from tests.guardrails.independent.stored import Case, cases

Z_95 = 1.959963984540054


def estimated(case: Case, when: str) -> LogRatios:
    """Stable's users fill the first half of the buckets, the candidate's the second."""
    users = len(case.inputs["stable"]["shown"])
    sums = np.zeros((2, 1, 1, 2, 2 * users), dtype=np.int64)
    for index, name in enumerate(("clicks", "shown")):
        sums[index, 0, 0, 0, :users] = case.inputs["stable"][name + when]
        sums[index, 0, 0, 1, users:] = case.inputs["candidate"][name + when]
    return log_ratios(sums[0], sums[1], np.ones(1))


def test_the_adjusted_effect_and_its_error_are_tea_tastings_to_a_hundredth_of_the_error() -> None:
    for case in cases("tea-tasting", "CUPED"):
        now, before = estimated(case, ""), estimated(case, "_before")
        low, high = (math.log1p(end) for end in case.value["interval"])
        se = (high - low) / 2 / Z_95

        found = adjusted(now.theta_HJ, now.se_H, now.has_data_HK, before.theta_HJ, before.has_data_HK)

        assert found.is_adjusted_H[0]
        assert found.theta_H[0] == pytest.approx((high + low) / 2, abs=0.01 * se)
        assert found.se_H[0] == pytest.approx(se, rel=0.01)
        assert found.se_H[0] < 0.8 * now.se_H[0]
