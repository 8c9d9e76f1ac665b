"""Rules that say "harm": the project's own, on arrays of runs, and those it is measured against.

Letters of the shapes: R runs, S strata, A arms, K buckets, Q user-level sums of `crowd.Visit`.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from control_plane.domain.plan import JudgePlan
from control_plane.domain.split import Arm
from control_plane.guardrails.calibration import Calibrations
from control_plane.guardrails.estimate import BoolArray, FloatArray, IntArray, LogRatios, log_ratios
from control_plane.guardrails.evalue import log_e, z_of_t

PLAN = JudgePlan()
ALPHA = PLAN.alpha_rollback
LOG_BAR = -math.log(ALPHA)
MARGIN = 0.01  # harm margin of CTR
ONE_SIDED_Z = 1.644854  # 5 %
BONFERRONI_Z = 3.890592  # 5 % over 1000 looks
GBSTATS_TUNING = 5_000.0  # users at which its interval is tightest, its default
MSPRT_TAU = 0.1  # effect size, log ratio, the mixture is built for


def estimate(clicks_RSAK: IntArray, shown_RSAK: IntArray) -> LogRatios:
    return log_ratios(clicks_RSAK, shown_RSAK, np.ones(len(clicks_RSAK)))


def passes_gates(found: LogRatios) -> BoolArray:
    """Whether harm may be judged: stable's rates promise conversions, users fill buckets; as `judges_harm`."""
    is_enough_R = (found.expected_H >= PLAN.min_expected_conversions) & (found.buckets_H >= PLAN.min_buckets)
    return np.asarray(is_enough_R & np.isfinite(found.theta_H))


def t_below(found: LogRatios, margin: float, direction: int = 1) -> FloatArray:
    """How many standard errors the effect lies on the harmful side of the margin."""
    benefit_R = direction * np.where(np.isfinite(found.theta_H), found.theta_H, 0.0)
    return np.asarray((math.log1p(-margin) - benefit_R) / found.se_H)


def log_e_harm(
    found: LogRatios, margin: float = MARGIN, direction: int = 1, *, is_open_R: BoolArray | None = None
) -> FloatArray:
    """The project's e-process at this look; 0, for E = 1, before its evidence gates: `is_open_R`, or `passes_gates`."""
    is_known_R = passes_gates(found) if is_open_R is None else is_open_R
    t_R = np.where(is_known_R, t_below(found, margin, direction), 0.0)
    se_R = np.where(is_known_R, found.se_H, 1.0)
    z_R = z_of_t(t_R, (found.buckets_H - 1).astype(np.float64))
    return np.where(is_known_R, log_e(z_R, se_R, PLAN.taus, PLAN.tau_weights), 0.0)


def log_e_miscalibrated(found: Calibrations, epsilon: float) -> FloatArray:
    """Two one-sided e-values, half and half, against "predicted is within `epsilon` of observed"."""
    degrees_R = (found.buckets_H - 1).astype(np.float64)
    sides = [
        log_e(
            z_of_t((sign * found.log_ratio_H - epsilon) / found.se_H, degrees_R),
            found.se_H,
            PLAN.taus,
            PLAN.tau_weights,
        )
        for sign in (1, -1)
    ]
    expected_R = np.maximum(found.predicted_H, found.observed_H)
    is_enough_R = (expected_R >= PLAN.min_expected_conversions) & (found.buckets_H >= PLAN.min_buckets)
    return np.where(is_enough_R, logsumexp(np.stack(sides), axis=0) - math.log(2.0), 0.0)


class Naive(NamedTuple):
    """A log ratio per run and its variance, by whichever unit was taken for independent."""

    theta_R: FloatArray
    variance_R: FloatArray

    def z_below(self, margin: float) -> FloatArray:
        return np.asarray((math.log1p(-margin) - self.theta_R) / np.sqrt(self.variance_R))


def by_impression(sums_RAQ: FloatArray) -> Naive:
    clicks_RA, shown_RA = sums_RAQ[..., 1], sums_RAQ[..., 2]
    rate_RA = clicks_RA / shown_RA
    return Naive(_log_ratio(rate_RA), np.asarray(((1 - rate_RA) / clicks_RA).sum(axis=1)))


def by_user(sums_RAQ: FloatArray) -> Naive:
    rate_RA, variance_RA = ratio_statistic(sums_RAQ)
    return Naive(_log_ratio(rate_RA), np.asarray((variance_RA / sums_RAQ[..., 0] / np.square(rate_RA)).sum(axis=1)))


def ratio_statistic(sums_RAQ: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Clicks per impression by arm and its variance of one user, by the delta method as gbstats writes it."""
    users, y, n, yy, nn, yn = np.moveaxis(sums_RAQ, -1, 0)
    mean_y, mean_n = y / users, n / users
    variance_y = (yy - np.square(y) / users) / (users - 1)
    variance_n = (nn - np.square(n) / users) / (users - 1)
    covariance = (yn - y * n / users) / (users - 1)
    variance = variance_y / mean_n**2 - 2 * covariance * mean_y / mean_n**3 + mean_y**2 * variance_n / mean_n**4
    return y / n, np.asarray(variance)


def gbstats_interval(sums_RAQ: FloatArray, *, alpha: float = ALPHA) -> tuple[FloatArray, FloatArray]:
    """Two-sided sequential interval of the relative difference, for many runs at once.

    Source:
        gbstats 0.8.0, frequentist/tests.py, `SequentialTwoSidedTTest`; Waudby-Smith et al., eqs. 9 and 161.
    """
    rate_RA, unit_variance_RA = ratio_statistic(sums_RAQ)
    stable_R, candidate_R = rate_RA[:, Arm.STABLE], rate_RA[:, Arm.CANDIDATE]
    scaled_RA = unit_variance_RA / sums_RAQ[..., 0]
    variance_R = scaled_RA[:, Arm.CANDIDATE] / stable_R**2 + scaled_RA[:, Arm.STABLE] * candidate_R**2 / stable_R**4
    users_R = sums_RAQ[..., 0].sum(axis=1)
    rho_squared = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / GBSTATS_TUNING
    grown_R = users_R * rho_squared + 1
    width_R = np.sqrt(
        variance_R * users_R * 2 * grown_R * np.log(np.sqrt(grown_R) / alpha) / (users_R**2 * rho_squared)
    )
    difference_R = candidate_R / stable_R - 1
    return np.asarray(difference_R - width_R), np.asarray(difference_R + width_R)


def log_msprt(found: Naive, margin: float, *, tau: float = MSPRT_TAU) -> FloatArray:
    """Log likelihood ratio of a two-sided normal mixture against "the effect is the margin".

    Source:
        Johari et al. 2022, eq. 11.
    """
    distance_R, both_R = found.theta_R - math.log1p(-margin), found.variance_R + tau**2
    exponent_R = np.square(distance_R) * tau**2 / (2 * found.variance_R * both_R)
    return np.asarray(0.5 * np.log(found.variance_R / both_R) + exponent_R)


def rivals_alarm(sums_RAQ: FloatArray, margin: float, *, is_open_R: BoolArray) -> dict[str, BoolArray]:
    """Which rules call harm at this look, each on its harmful side only and silent before the gates are open."""
    with np.errstate(divide="ignore", invalid="ignore"):
        impressions, users = by_impression(sums_RAQ), by_user(sums_RAQ)
        is_below = {"impressions": impressions.z_below(margin) > 0, "users": users.z_below(margin) > 0}
        alarms = {
            "z_impressions": impressions.z_below(margin) >= ONE_SIDED_Z,
            "z_users": users.z_below(margin) >= ONE_SIDED_Z,
            "z_bonferroni": users.z_below(margin) >= BONFERRONI_Z,
            "msprt": (log_msprt(impressions, margin) >= LOG_BAR) & is_below["impressions"],
            "msprt_users": (log_msprt(users, margin) >= LOG_BAR) & is_below["users"],
            "gbstats": gbstats_interval(sums_RAQ)[1] < -margin,
        }
    return {name: np.asarray(is_alarm_R & is_open_R) for name, is_alarm_R in alarms.items()}


def _log_ratio(rate_RA: FloatArray) -> FloatArray:
    return np.asarray(np.log(rate_RA[:, Arm.CANDIDATE]) - np.log(rate_RA[:, Arm.STABLE]))
