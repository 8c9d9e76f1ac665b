"""CUPED: how the arms' users differed before the rollout explains part of how they differ now.

Letters of the shapes: H hypotheses, K user buckets, J = K + 1 replicates, of which the first leaves nothing out
and the others one bucket each.
"""

from dataclasses import dataclass

import numpy as np

from control_plane.guardrails.estimate import MIN_STANDARD_ERROR, BoolArray, FloatArray, divide

MIN_BUCKETS = 30  # with data in both periods: fewer fit a line to noise
MIN_GAIN = 0.05  # of the variance: below it the adjustment would move the estimate about and win nothing


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Adjusted:
    """H estimates; those that were not adjusted are the ones given, to the last bit.

    Attributes:
        theta_H: θ − β·θ_before.
        se_H: its standard error, β's own uncertainty included; never above the one given.
        beta_H: 0 where nothing was adjusted.
        is_adjusted_H: a fitted β costs one of the t distribution's degrees of freedom.
    """

    theta_H: FloatArray
    se_H: FloatArray
    beta_H: FloatArray
    is_adjusted_H: BoolArray


def adjusted(
    theta_HJ: FloatArray,
    se_H: FloatArray,
    has_data_HK: BoolArray,
    before_HJ: FloatArray,
    has_before_HK: BoolArray,
    *,
    min_buckets: int = MIN_BUCKETS,
) -> Adjusted:
    """Take out of H log ratios what the same users' log ratios of before the rollout predict.

    Randomisation makes the expectation of `before_HJ` 0, so that β, whatever it is, leaves the effect unbiased to
    the order that the log ratio is; the best β takes ρ² of the variance away. It is the intercept at "no difference
    before" of a regression of the jackknife's pseudo-values, whose standard error knows that β was estimated.
    Nothing is adjusted where there is nothing finite to adjust by, in fewer than `min_buckets` buckets with data in
    both periods, or where less than `MIN_GAIN` of the variance would be won. Exchanging the arms flips `theta_H`
    to the last bit and leaves `se_H`.

    Args:
        theta_HJ: replicates of the log ratios of the rollout's days, shape (H, 1 + K).
        se_H: their standard errors, to be bettered.
        has_data_HK: buckets with data.
        before_HJ: replicates of the same users' log ratios of the days before, same buckets, arms by today's split.
        has_before_HK: buckets with data before.

    Source:
        Deng, Xu, Kohavi & Walker 2013, eqs. 3–5; of pseudo-values: Miller 1974, sections 2 and 4.
    """
    is_fit_H = np.isfinite(theta_HJ).all(axis=1) & np.isfinite(before_HJ).all(axis=1)
    is_fit_H &= (has_data_HK & has_before_HK).sum(axis=1) >= max(min_buckets, 3)
    has_either_HK = has_data_HK | has_before_HK
    buckets_H = has_either_HK.sum(axis=1).astype(np.float64)
    now_HK = _deviations(theta_HJ, has_either_HK, is_fit_H)
    before_HK = _deviations(before_HJ, has_either_HK, is_fit_H)
    spread_H = np.square(before_HK).sum(axis=1)
    together_H = (now_HK * before_HK).sum(axis=1)
    beta_H = divide(together_H, spread_H)
    left_H = np.square(now_HK - beta_H[:, None] * before_HK).sum(axis=1)
    start_H = np.where(is_fit_H, before_HJ[:, 0], 0.0)
    leverage_H = divide(np.square(buckets_H - 1.0), buckets_H) + divide(np.square(start_H), spread_H)
    variance_H = divide(left_H, np.maximum(buckets_H - 2.0, 1.0)) * leverage_H
    is_adjusted_H = is_fit_H & (spread_H > MIN_STANDARD_ERROR**2) & (variance_H < (1.0 - MIN_GAIN) * np.square(se_H))
    return Adjusted(
        theta_H=np.where(is_adjusted_H, theta_HJ[:, 0] - beta_H * start_H, theta_HJ[:, 0]),
        se_H=np.where(is_adjusted_H, np.maximum(np.sqrt(variance_H), MIN_STANDARD_ERROR), se_H),
        beta_H=np.where(is_adjusted_H, beta_H, 0.0),
        is_adjusted_H=is_adjusted_H,
    )


def _deviations(replicate_HJ: FloatArray, counts_HK: BoolArray, is_fit_H: BoolArray) -> FloatArray:
    """Of the delete-one replicates from their mean; 0 where a bucket or a hypothesis does not count."""
    counts_HK = counts_HK & is_fit_H[:, None]
    without_HK = np.where(counts_HK, replicate_HJ[:, 1:], 0.0)
    mean_H = divide(without_HK.sum(axis=1), counts_HK.sum(axis=1).astype(np.float64))
    return np.where(counts_HK, without_HK - mean_H[:, None], 0.0)
