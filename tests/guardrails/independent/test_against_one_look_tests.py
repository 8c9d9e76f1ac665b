"""gbstats and tea-tasting on one look at users who each have a bucket of their own.

Both take the variance by the delta method, we by the jackknife: with 400 users an arm they differ by half a per cent.
"""

import math

import numpy as np
import pytest

from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.guardrails.estimate import log_ratios
from control_plane.guardrails.evalue import half_width
from control_plane.guardrails.sample_ratio import log_e_sample_ratio
from tests.guardrails.builders import a_draw
from tests.guardrails.independent.stored import Case, cases

Z_95 = 1.959963984540054


def estimated(case: Case) -> tuple[float, float]:
    """θ and its standard error; stable's users fill the first half of the buckets, the candidate's the second."""
    users = len(case.inputs["stable"]["shown"])
    sums = np.zeros((2, 1, 1, 2, 2 * users), dtype=np.int64)
    for index, name in enumerate(("clicks", "shown")):
        sums[index, 0, 0, 0, :users] = case.inputs["stable"][name]
        sums[index, 0, 0, 1, users:] = case.inputs["candidate"][name]
    found = log_ratios(sums[0], sums[1], np.ones(1))
    assert found.buckets_H[0] == users
    return float(found.theta_H[0]), float(found.se_H[0])


@pytest.mark.parametrize(("package", "call"), [("gbstats", "SequentialTwoSidedTTest"), ("tea-tasting", "RatioOfMeans")])
def test_the_effect_is_theirs(package: str, call: str) -> None:
    for case in cases(package, call):
        theta, _ = estimated(case)

        assert math.expm1(theta) == pytest.approx(case.value["effect"], abs=1e-12)


def test_the_jackknifes_error_is_within_half_a_per_cent_of_gbstats_delta_method() -> None:
    """gbstats' is of the relative effect; over 1 + effect it is that of its log."""
    for case in cases("gbstats", "SequentialTwoSidedTTest"):
        _, se = estimated(case)

        assert se == pytest.approx(math.sqrt(case.value["variance"]) / (1 + case.value["effect"]), rel=0.005)


def test_the_jackknifes_error_is_within_half_a_per_cent_of_tea_tastings_delta_method() -> None:
    """tea-tasting's interval of the relative effect is the normal one of its log, as ours is."""
    for case in cases("tea-tasting", "RatioOfMeans"):
        theta, se = estimated(case)
        low, high = (math.log1p(end) for end in case.value["interval"])

        assert (high + low) / 2 == pytest.approx(theta, abs=1e-12)
        assert se == pytest.approx((high - low) / 2 / Z_95, rel=0.005)


def test_gbstats_sequential_interval_is_ours_at_its_own_tuning_of_tau() -> None:
    """Its ρ²·n is our r = τ²/se²: fed gbstats' own error, the widths are equal to nine digits."""
    for case in cases("gbstats", "SequentialTwoSidedTTest"):
        se, users = math.sqrt(case.value["variance"]), 2 * len(case.inputs["stable"]["shown"])
        tau = se * case.value["rho"] * math.sqrt(users)
        low, high = case.value["interval"]

        found = half_width(np.array(se), np.array(math.inf), alpha=case.inputs["alpha"], tau=tau)

        assert found == pytest.approx((high - low) / 2, rel=1e-9)


def test_an_interval_valid_at_every_look_contains_the_one_that_is_valid_at_one() -> None:
    for case in cases("tea-tasting", "RatioOfMeans"):
        theta, se = estimated(case)
        width = float(half_width(np.array(se), np.array(399.0), alpha=0.05))
        low, high = (math.log1p(end) for end in case.value["interval"])

        assert theta - width < low < high < theta + width
        assert (high - low) / 2 < width < 2.2 * (high - low) / 2


def test_the_splits_e_value_asks_for_more_than_tea_tastings_p_value_of_one_look() -> None:
    """One over an e-value is a p-value at every look; the price is that no single look's p-value is larger."""
    for case in cases("tea-tasting", "SampleRatio"):
        share_bp = round(case.inputs["ratio"] / (1 + case.inputs["ratio"]) * FULL_TRAFFIC_BP)

        log_e = log_e_sample_ratio([a_draw(share_bp, *case.inputs["users"])])

        assert math.exp(-log_e) > case.value
