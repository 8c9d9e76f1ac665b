"""Seeded simulations of the promised error rates; each prints what it measured. Runs are hypotheses of one array."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from control_plane.domain.split import Arm
from control_plane.guardrails.estimate import log_ratios
from control_plane.guardrails.evalue import log_e, z_of_t

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

TAUS, WEIGHTS, ALPHA, MARGIN = (0.03, 0.1, 0.4), (0.4, 0.4, 0.2), 0.05, 0.01
BUCKETS = 256
pytestmark = pytest.mark.slow


class Crowd:
    """R runs side by side: users who come back, with tastes of their own, so impressions are not independent."""

    def __init__(self, seed: int, *, runs: int, users: int = 4_096, ctr: float = 0.1, spread: float = 1.0) -> None:
        self.rng = np.random.default_rng(seed)
        shape = spread**-2
        self.ctr_RU = np.minimum(self.rng.gamma(shape, ctr / shape, size=(runs, users)), 0.9)
        self.slot_RU = self.rng.random((runs, users))
        self.bucket_U = np.arange(users) % BUCKETS

    def day(self, share: float, effect: float, impressions_per_user: float) -> tuple[IntArray, IntArray]:
        """Clicks and impressions, (R, A, K)."""
        is_candidate_RU = self.slot_RU < share
        shown_RU = self.rng.poisson(impressions_per_user, size=self.ctr_RU.shape)
        clicks_RU = self.rng.binomial(shown_RU, np.where(is_candidate_RU, self.ctr_RU * (1 + effect), self.ctr_RU))
        return self._by_bucket(clicks_RU, is_candidate_RU), self._by_bucket(shown_RU, is_candidate_RU)

    def _by_bucket(self, count_RU: IntArray, is_candidate_RU: NDArray[np.bool_]) -> IntArray:
        arms = [count_RU * ~is_candidate_RU, count_RU * is_candidate_RU]
        return np.stack([arm.reshape(len(arm), -1, BUCKETS).sum(axis=1) for arm in arms], axis=1)


def log_e_harm(clicks_RSAK: IntArray, shown_RSAK: IntArray) -> FloatArray:
    found = log_ratios(clicks_RSAK, shown_RSAK, np.ones(len(clicks_RSAK)))
    t_R = (math.log1p(-MARGIN) - found.theta_H) / found.se_H
    log_e_R = log_e(z_of_t(t_R, (found.buckets_H - 1).astype(np.float64)), found.se_H, TAUS, WEIGHTS)
    return np.where(found.expected_H >= 20, log_e_R, 0.0)


def crossed(
    seed: int, *, runs: int, shares: list[float], looks_per_share: int, effect: float, users: int = 4_096
) -> IntArray:
    """Look at which each run's e-value first crossed, −1 where it never did; every look adds a day of traffic."""
    crowd = Crowd(seed, runs=runs, users=users)
    strata_clicks: list[IntArray] = []
    strata_shown: list[IntArray] = []
    first_R = np.full(runs, -1)
    for index, share in enumerate(shares):
        for look in range(looks_per_share):
            clicks_RAK, shown_RAK = crowd.day(share, effect, impressions_per_user=1.0)
            if look == 0:
                strata_clicks.append(clicks_RAK)
                strata_shown.append(shown_RAK)
            else:
                strata_clicks[-1] = strata_clicks[-1] + clicks_RAK
                strata_shown[-1] = strata_shown[-1] + shown_RAK
            log_e_R = log_e_harm(np.stack(strata_clicks, axis=1), np.stack(strata_shown, axis=1))
            has_crossed_R = (log_e_R >= -math.log(ALPHA)) & (first_R < 0)
            first_R[has_crossed_R] = index * looks_per_share + look
    return first_R


def upper_bound(count: int, runs: int) -> float:
    return float(stats.beta.ppf(0.95, count + 1, runs - count))


@pytest.mark.parametrize(
    ("name", "shares", "looks_per_share"),
    [("half and half", [0.5], 100), ("a twentieth", [0.05], 100), ("a ramp", [0.05, 0.1, 0.25, 0.5], 25)],
)
def test_at_the_edge_of_harm_false_alarms_stay_below_alpha_at_every_look_together(
    name: str, shares: list[float], looks_per_share: int
) -> None:
    runs = 300

    first_R = crossed(1, runs=runs, shares=shares, looks_per_share=looks_per_share, effect=-MARGIN)

    alarms = int((first_R >= 0).sum())
    print(f"{name}: {alarms} false alarms in {runs} runs × 100 looks, 95 % upper bound {upper_bound(alarms, runs):.3f}")
    assert upper_bound(alarms, runs) <= 0.05


def test_a_z_test_on_impressions_would_have_cried_wolf() -> None:
    """The same traffic under the rule that the framework replaces: the simulation can tell them apart."""
    crowd, runs = Crowd(1, runs=100), 100
    clicks_RA, shown_RA = np.zeros((runs, 2)), np.zeros((runs, 2))
    alarmed_R = np.zeros(runs, dtype=np.bool_)
    for _ in range(100):
        clicks_RAK, shown_RAK = crowd.day(0.5, -MARGIN, impressions_per_user=1.0)
        clicks_RA, shown_RA = clicks_RA + clicks_RAK.sum(axis=2), shown_RA + shown_RAK.sum(axis=2)
        theta_R = np.log(clicks_RA[:, Arm.CANDIDATE] / shown_RA[:, Arm.CANDIDATE]) - np.log(
            clicks_RA[:, Arm.STABLE] / shown_RA[:, Arm.STABLE]
        )
        se_R = np.sqrt((1 / clicks_RA).sum(axis=1))
        alarmed_R |= (math.log1p(-MARGIN) - theta_R) / se_R > stats.norm.ppf(1 - ALPHA)

    print(f"z test on impressions: {alarmed_R.mean():.0%} false alarms")
    assert alarmed_R.mean() > 0.2


def test_a_tenth_fewer_clicks_are_always_found_and_soon() -> None:
    first_R = crossed(2, runs=50, shares=[0.5], looks_per_share=40, effect=-0.10, users=32_768)

    median = np.median(first_R[first_R >= 0]) + 1
    print(f"-10 %: found in {(first_R >= 0).mean():.0%} of runs, median after {median:.0f} of 40 impressions per user")
    assert (first_R >= 0).mean() >= 0.95
