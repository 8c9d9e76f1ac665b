"""What the guardrails are measured against says what its authors' code, or its formula, says."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from benchmarks.guardrail_bars import crowd
from benchmarks.guardrail_bars.outcome import Alarms, quantile, quantile_interval, upper_bound
from benchmarks.guardrail_bars.rules import Naive, by_impression, gbstats_interval, log_msprt, ratio_statistic
from benchmarks.guardrail_bars.split_alarms import THRESHOLD, crossings
from control_plane.domain.split import Arm
from control_plane.guardrails.sample_ratio import log_e_sample_ratio
from tests.guardrails.builders import a_draw


@pytest.mark.parametrize(("users", "share", "effect"), [(300, 0.5, -0.5), (4_000, 0.5, 0.0), (20_000, 0.05, 0.1)])
def test_the_sequential_interval_is_the_one_that_gbstats_computes(users: int, share: float, effect: float) -> None:
    tests = pytest.importorskip("gbstats.frequentist.tests")
    statistics = pytest.importorskip("gbstats.models.statistics")
    sums_RAQ = crowd.draw_visit(np.random.default_rng(1), 4, users, share=share, effect=effect).user_sums_RAQ()

    lower_R, upper_R = gbstats_interval(sums_RAQ)

    for run, sums_AQ in enumerate(sums_RAQ):
        arms = [
            statistics.RatioStatistic(
                n=int(n),
                m_statistic=statistics.SampleMeanStatistic(n=int(n), sum=y, sum_squares=yy),
                d_statistic=statistics.SampleMeanStatistic(n=int(n), sum=d, sum_squares=dd),
                m_d_sum_of_products=yd,
            )
            for n, y, d, yy, dd, yd in sums_AQ.tolist()
        ]
        theirs = tests.SequentialTwoSidedTTest(arms[Arm.STABLE], arms[Arm.CANDIDATE], tests.SequentialConfig())
        assert (lower_R[run], upper_R[run]) == pytest.approx(tuple(theirs.compute_result().ci), rel=1e-9)


def test_the_delta_method_variance_is_that_of_linearised_users() -> None:
    visit = crowd.draw_visit(np.random.default_rng(2), 1, 5_000)

    rate_RA, variance_RA = ratio_statistic(visit.user_sums_RAQ())

    is_seen_U = (visit.shown_RU > 0)[0] & visit.is_candidate_RU[0]
    clicks_N, shown_N = visit.clicks_RU[0, is_seen_U], visit.shown_RU[0, is_seen_U]
    residual_N = (clicks_N - rate_RA[0, Arm.CANDIDATE] * shown_N) / shown_N.mean()
    assert variance_RA[0, Arm.CANDIDATE] == pytest.approx(residual_N.var(ddof=1), rel=1e-9)


def test_a_normal_mixture_is_the_likelihood_ratio_averaged_over_effects() -> None:
    theta, variance, margin, tau = -0.08, 0.0009, 0.01, 0.1
    null = math.log1p(-margin)

    def weighted(effect: float) -> float:
        ratio = stats.norm.pdf(theta, null + effect, math.sqrt(variance)) / stats.norm.pdf(
            theta, null, math.sqrt(variance)
        )
        return float(ratio * stats.norm.pdf(effect, 0.0, tau))

    averaged, _ = integrate.quad(weighted, -1.0, 1.0, points=[theta - null], limit=200)
    found = log_msprt(Naive(np.array([theta]), np.array([variance])), margin, tau=tau)
    assert found[0] == pytest.approx(math.log(averaged), rel=1e-6)


def test_impressions_taken_for_independent_understate_the_variance_by_the_design_effect() -> None:
    sums_RAQ = crowd.draw_visit(np.random.default_rng(3), 1, 1_000_000).user_sums_RAQ()

    independent = by_impression(sums_RAQ).variance_R[0]

    assert 2 * crowd.user_variance() / 500_000 / independent == pytest.approx(crowd.DESIGN_EFFECT, rel=0.03)


@pytest.mark.parametrize("share_bp", [5_000, 500, 100])
def test_a_split_is_doubted_exactly_from_the_crossing_counts_on(share_bp: int) -> None:
    users_L = np.array([200, 3_000, 40_000])

    low_L, high_L = crossings(share_bp, users_L)

    for users, low, high in zip(users_L.tolist(), low_L.tolist(), high_L.tolist(), strict=True):
        counts = [count for count in (low - 1, low, low + 1, high - 1, high, high + 1) if 0 <= count <= users]
        for count in counts:
            log_e = log_e_sample_ratio([a_draw(share_bp, users - count, count)])
            assert (log_e >= THRESHOLD) == (count <= low or count >= high)


def test_only_the_first_alarm_of_a_run_counts() -> None:
    alarms = Alarms(3)

    alarms.note(np.array([False, True, False]), 5.0)
    alarms.note(np.array([True, True]), 7.0, of_R=np.array([1, 2]))

    assert alarms.at_R.tolist() == [math.inf, 5.0, 7.0]
    assert alarms.count == 2


def test_quantiles_count_runs_that_never_ended_as_longest() -> None:
    value_R = np.array([3.0, 1.0, math.inf, 2.0])

    assert quantile(value_R, 0.5) == 2.0
    assert quantile(value_R, 0.9) == math.inf
    assert quantile_interval(np.arange(1_000.0), 0.5) == pytest.approx((500, 500), abs=35)


def test_no_alarm_in_sixty_runs_still_allows_one_in_twenty() -> None:
    assert upper_bound(0, 60) == pytest.approx(1 - 0.05 ** (1 / 60))
    assert upper_bound(60, 60) == 1.0
