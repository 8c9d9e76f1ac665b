"""The crowd behind the measured error rates is the one that is claimed, and its shortcuts are exact."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.guardrail_bars import crowd
from benchmarks.guardrail_bars.rules import by_user, ratio_statistic
from control_plane.domain.split import NUM_BUCKETS, Arm
from control_plane.guardrails.estimate import log_ratios


def test_users_show_twenty_impressions_and_click_on_two_per_cent_with_a_design_effect_of_two() -> None:
    visit = crowd.draw_visit(np.random.default_rng(1), 1, 2_000_000)

    sums_AQ = visit.user_sums_RAQ()
    rate_RA, variance_RA = ratio_statistic(sums_AQ)
    per_seen_user_RA = sums_AQ[..., 2] / sums_AQ[..., 0]
    as_if_independent_RA = rate_RA * (1 - rate_RA) / per_seen_user_RA
    assert rate_RA == pytest.approx(crowd.CTR, rel=0.01)
    assert visit.shown_RU.mean() == pytest.approx(crowd.IMPRESSIONS, rel=0.01)
    assert (visit.shown_RU > 0).mean() == pytest.approx(crowd.SEEN_SHARE, abs=0.001)
    assert variance_RA / as_if_independent_RA == pytest.approx(crowd.DESIGN_EFFECT, rel=0.03)


def test_the_bucket_jackknife_sees_the_variance_that_the_crowd_has() -> None:
    visit = crowd.draw_visit(np.random.default_rng(2), 200, 20_000)

    found = log_ratios(visit.clicks_RAK()[:, None], visit.shown_RAK()[:, None], np.ones(200))
    expected = np.sqrt(2 * crowd.user_variance() / 10_000)
    assert found.se_H.mean() == pytest.approx(expected, rel=0.02)
    assert found.theta_H.std() == pytest.approx(expected, rel=0.15)
    assert np.sqrt(by_user(visit.user_sums_RAQ()).variance_R).mean() == pytest.approx(expected, rel=0.02)


def test_cells_drawn_at_once_are_distributed_as_users_drawn_one_by_one() -> None:
    """Fixed users; the slow way draws each user's impressions, and each impression's click."""
    rng, repeats = np.random.default_rng(3), 20_000
    users = crowd.Users(activity_RU=np.array([[0.5, 1.0, 3.0]]), taste_RU=np.array([[0.01, 0.2, 0.05]]))
    is_candidate_RU = np.array([[False, True, True]])
    cell_RU = np.array([[7, NUM_BUCKETS + 9, NUM_BUCKETS + 9]])
    effect, exposure, lift = -0.1, 2.0, 1.25
    rates = crowd.cell_rates(users, is_candidate_RU, cell_RU, effect=effect)

    drawn = [rates.draw(rng, exposure, lift=lift) for _ in range(repeats)]
    clicks_N, shown_N = (np.array([sums[index][0, Arm.CANDIDATE, 9] for sums in drawn]) for index in (0, 1))
    slow_shown_NU = rng.poisson(users.activity_RU[0, 1:] * exposure, size=(repeats, 2))
    slow_clicks_NU = rng.binomial(slow_shown_NU, users.taste_RU[0, 1:] * (1 + effect) * lift)

    slow_clicks_N, slow_shown_N = slow_clicks_NU.sum(axis=1), slow_shown_NU.sum(axis=1)
    for fast_N, slow_N in (
        (clicks_N, slow_clicks_N),
        (shown_N, slow_shown_N),
        (shown_N * clicks_N, slow_shown_N * slow_clicks_N),
    ):
        assert _same_counts(fast_N, slow_N) > 0.001
    assert np.cov(clicks_N, shown_N)[0, 1] == pytest.approx(np.cov(slow_clicks_N, slow_shown_N)[0, 1], rel=0.05)
    assert all(sums[0, Arm.STABLE, 9] == 0 for pair in drawn[:50] for sums in pair)


def test_sums_over_users_are_those_of_a_loop() -> None:
    visit = crowd.draw_visit(np.random.default_rng(4), 3, 500, share=0.3)

    clicks_RAK, sums_RAQ = np.zeros((3, 2, NUM_BUCKETS), dtype=np.int64), np.zeros((3, 2, 6))
    for run, user in np.ndindex(3, 500):
        arm, bucket = int(visit.is_candidate_RU[run, user]), int(visit.cell_RU[run, user]) % NUM_BUCKETS
        y, n = int(visit.clicks_RU[run, user]), int(visit.shown_RU[run, user])
        clicks_RAK[run, arm, bucket] += y
        sums_RAQ[run, arm] += (n > 0, y, n, y * y, n * n, y * n)
    assert (visit.clicks_RAK() == clicks_RAK).all()
    assert (visit.user_sums_RAQ() == sums_RAQ).all()


def test_a_ramp_moves_users_to_the_candidate_in_their_buckets_and_never_back() -> None:
    ramp = crowd.Ramp(np.random.default_rng(5), 2, 4_000)

    small, large = ramp.rates(0.1), ramp.rates(0.5)

    total_RK = small.click_RAK.sum(axis=1)
    assert large.click_RAK.sum(axis=1) == pytest.approx(total_RK)
    assert (large.click_RAK[:, Arm.CANDIDATE] >= small.click_RAK[:, Arm.CANDIDATE] - 1e-12).all()
    assert small.click_RAK[:, Arm.CANDIDATE].sum() / total_RK.sum() == pytest.approx(0.1, abs=0.02)
    assert large.click_RAK[:, Arm.CANDIDATE].sum() / total_RK.sum() == pytest.approx(0.5, abs=0.03)


@pytest.mark.slow
def test_at_the_fixed_horizon_the_ordinary_test_has_a_power_of_eighty_per_cent() -> None:
    effect, margin, runs = -0.10, 0.01, 800
    users = 2 * round(crowd.fixed_horizon(effect, margin))
    rng = np.random.default_rng(6)

    z_R = np.concatenate(
        [
            by_user(crowd.draw_visit(rng, 50, users, effect=effect).user_sums_RAQ()).z_below(margin)
            for _ in range(runs // 50)
        ]
    )

    assert (z_R >= 1.959964).mean() == pytest.approx(0.8, abs=0.045)


def _same_counts(one_N: "np.typing.NDArray[np.int64]", other_N: "np.typing.NDArray[np.int64]") -> float:
    """p-value of a chi-square test that both were drawn alike, tails pooled."""
    top = int(np.quantile(one_N, 0.999)) + 1
    table = np.stack([np.bincount(np.minimum(counts_N, top), minlength=top + 1) for counts_N in (one_N, other_N)])
    return float(stats.chi2_contingency(table[:, table.sum(axis=0) > 10]).pvalue)
