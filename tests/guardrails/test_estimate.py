import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from control_plane.domain.split import Arm
from control_plane.guardrails.estimate import (
    MIN_STANDARD_ERROR,
    LogRatios,
    effective_count,
    jackknife_se,
    leave_one_out,
    log_ratios,
)

IntArray = NDArray[np.int64]


def counts(rng: np.random.Generator, *, strata: int = 3, buckets: int = 40) -> tuple[IntArray, IntArray]:
    """Clicks and impressions of one hypothesis, (1, S, A, K)."""
    impressions = rng.integers(50, 500, size=(1, strata, 2, buckets))
    return rng.binomial(impressions, 0.1), impressions


def estimated(clicks: IntArray, impressions: IntArray, unit: float = 1.0) -> LogRatios:
    return log_ratios(clicks, impressions, np.full(len(clicks), unit))


def by_hand(clicks_SA: IntArray, impressions_SA: IntArray) -> float:
    above = below = 0.0
    for (stable_clicks, candidate_clicks), (stable, candidate) in zip(
        clicks_SA.tolist(), impressions_SA.tolist(), strict=True
    ):
        if stable and candidate:
            above += candidate_clicks * stable / (stable + candidate)
            below += stable_clicks * candidate / (stable + candidate)
    return math.log(above / below)


def test_one_stratum_gives_the_log_ratio_of_the_rates() -> None:
    clicks, impressions = counts(np.random.default_rng(1), strata=1)
    stable, candidate = clicks.sum(axis=3)[0, 0] / impressions.sum(axis=3)[0, 0]

    assert estimated(clicks, impressions).theta_H[0] == pytest.approx(math.log(candidate / stable), rel=1e-12)


def test_strata_are_weighed_as_mantel_and_haenszel_did() -> None:
    clicks, impressions = counts(np.random.default_rng(2))

    expected = by_hand(clicks.sum(axis=3)[0], impressions.sum(axis=3)[0])

    assert estimated(clicks, impressions).theta_H[0] == pytest.approx(expected, rel=1e-12)


def test_the_standard_error_is_that_of_leaving_out_each_bucket_in_turn() -> None:
    clicks, impressions = counts(np.random.default_rng(3), buckets=32)
    without = [
        by_hand(np.delete(clicks[0], k, axis=2).sum(axis=2), np.delete(impressions[0], k, axis=2).sum(axis=2))
        for k in range(32)
    ]

    expected = math.sqrt(31 / 32 * sum((theta - np.mean(without)) ** 2 for theta in without))

    assert estimated(clicks, impressions).se_H[0] == pytest.approx(expected, rel=1e-9)


def test_buckets_without_users_do_not_count() -> None:
    clicks, impressions = counts(np.random.default_rng(4), buckets=40)
    padded_clicks, padded_impressions = (np.pad(x, ((0, 0), (0, 0), (0, 0), (0, 60))) for x in (clicks, impressions))

    full, padded = estimated(clicks, impressions), estimated(padded_clicks, padded_impressions)

    assert padded.buckets_H[0] == full.buckets_H[0] == 40
    assert padded.se_H[0] == pytest.approx(full.se_H[0], rel=1e-9)


def test_buckets_are_counted_in_the_arm_that_has_fewer() -> None:
    clicks, impressions = counts(np.random.default_rng(5), buckets=40)
    clicks[:, :, Arm.CANDIDATE, 10:] = impressions[:, :, Arm.CANDIDATE, 10:] = 0

    assert estimated(clicks, impressions).buckets_H[0] == 10


def test_a_stratum_without_both_arms_drops_out() -> None:
    clicks, impressions = counts(np.random.default_rng(6))
    more_clicks, more_impressions = (np.concatenate([x, x[:, :1]], axis=1) for x in (clicks, impressions))
    more_clicks[:, -1, Arm.CANDIDATE] = more_impressions[:, -1, Arm.CANDIDATE] = 0

    alone, beside = estimated(clicks, impressions), estimated(more_clicks, more_impressions)

    assert beside.theta_H[0] == pytest.approx(alone.theta_H[0], rel=1e-12)
    assert beside.se_H[0] == pytest.approx(alone.se_H[0], rel=1e-9)
    assert beside.expected_H[0] == pytest.approx(alone.expected_H[0], rel=1e-12)


def test_a_ramp_over_a_busier_weekend_leaves_no_bias() -> None:
    share_S, rate_S = np.array([0.01, 0.05, 0.25, 0.5]), np.array([0.04, 0.04, 0.05, 0.05])
    impressions = np.empty((1, 4, 2, 40), dtype=np.int64)
    impressions[0, :, Arm.CANDIDATE] = (100_000 * share_S)[:, None]
    impressions[0, :, Arm.STABLE] = (100_000 * (1 - share_S))[:, None]
    clicks = np.rint(impressions * rate_S[:, None, None]).astype(np.int64)
    pooled_stable, pooled_candidate = clicks.sum(axis=(1, 3))[0] / impressions.sum(axis=(1, 3))[0]

    assert pooled_candidate / pooled_stable - 1 > 0.05
    assert estimated(clicks, impressions).theta_H[0] == pytest.approx(0.0, abs=1e-12)


def test_a_dead_candidate_gets_half_a_conversion_not_an_infinite_effect() -> None:
    clicks, impressions = counts(np.random.default_rng(7), strata=1)
    clicks[:, :, Arm.CANDIDATE] = 0
    stable_clicks = clicks[0, 0, Arm.STABLE].sum()
    stable, candidate = impressions[0, 0].sum(axis=1)

    found = estimated(clicks, impressions)

    assert found.theta_H[0] == pytest.approx(math.log(0.5 / candidate / ((stable_clicks + 0.5) / stable)), rel=1e-9)
    assert math.isfinite(found.se_H[0])


def test_nothing_to_compare_is_not_a_number() -> None:
    nothing = np.zeros((1, 2, 2, 40), dtype=np.int64)

    found = estimated(nothing, nothing)

    assert math.isnan(found.theta_H[0])
    assert found.buckets_H[0] == 0


def test_no_strata_at_all_are_nothing_to_compare() -> None:
    nothing = np.zeros((2, 0, 2, 40), dtype=np.int64)

    assert np.isnan(estimated(nothing, nothing).theta_H).all()


def test_buckets_that_agree_to_the_bit_have_a_floor_under_their_error() -> None:
    impressions = np.full((1, 1, 2, 40), 100)

    assert estimated(impressions // 10, impressions).se_H[0] == MIN_STANDARD_ERROR


@settings(max_examples=60, deadline=None)
@given(
    impressions=arrays(np.int64, (2, 3, 2, 35), elements=st.integers(0, 1_000)),
    seed=st.integers(0, 2**32 - 1),
)
def test_swapping_the_arms_flips_the_effect_to_the_last_bit(impressions: IntArray, seed: int) -> None:
    clicks = np.random.default_rng(seed).binomial(impressions, 0.05)

    found, flipped = estimated(clicks, impressions), estimated(clicks[:, :, ::-1], impressions[:, :, ::-1])

    np.testing.assert_array_equal(flipped.theta_H, -found.theta_H)
    np.testing.assert_array_equal(flipped.se_H, found.se_H)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), others=st.integers(1, 6))
def test_a_hypothesis_is_the_same_to_the_last_bit_whatever_stands_beside_it(seed: int, others: int) -> None:
    rng = np.random.default_rng(seed)
    clicks, impressions = counts(rng)
    more = [counts(rng) for _ in range(others)]
    all_clicks = np.concatenate([clicks, *(c for c, _ in more), np.zeros_like(clicks)])
    all_impressions = np.concatenate([impressions, *(n for _, n in more), np.zeros_like(impressions)])

    alone, together = estimated(clicks, impressions), estimated(all_clicks, all_impressions)

    assert together.theta_H[0] == alone.theta_H[0]
    assert together.se_H[0] == alone.se_H[0]


def test_the_scale_of_a_currency_cancels() -> None:
    rng = np.random.default_rng(8)
    revenue, impressions = counts(rng)
    revenue = revenue * rng.integers(1, 10**6, size=revenue.shape)

    cents, yen = estimated(revenue, impressions, 1.0), estimated(revenue * 150, impressions, 150.0)

    assert yen.theta_H[0] == pytest.approx(cents.theta_H[0], rel=1e-9)
    assert yen.se_H[0] == pytest.approx(cents.se_H[0], rel=1e-9)


def test_leaving_one_out_starts_with_the_whole() -> None:
    np.testing.assert_array_equal(leave_one_out(np.array([1, 2, 4])), [7, 6, 5, 3])


def test_the_jackknife_of_a_mean_is_the_textbook_standard_error() -> None:
    values = np.random.default_rng(9).normal(size=50)
    replicates = np.array([[values.mean(), *((values.sum() - value) / 49 for value in values)]])

    se = jackknife_se(replicates, np.ones((1, 50), dtype=np.bool_))

    assert se[0] == pytest.approx(values.std(ddof=1) / math.sqrt(50), rel=1e-9)


@pytest.mark.parametrize(("values", "lumps"), [([5, 5, 5, 5], 4.0), ([9, 0, 0, 0], 1.0), ([0, 0, 0, 0], 0.0)])
def test_effective_count_is_how_many_equal_payers_a_sum_is_worth(values: list[int], lumps: float) -> None:
    assert effective_count(np.array(values)) == pytest.approx(lumps)
