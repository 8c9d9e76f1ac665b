"""Normalised entropy of candidate minus stable on the same impressions: is the candidate the better informed?"""

from dataclasses import dataclass

import numpy as np

from control_plane.domain.moments import FIXED_POINT, PairMeasure
from control_plane.guardrails.estimate import FloatArray, IntArray, jackknife_se, leave_one_out


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EntropyDifferences:
    """Per segment; NaN where all labels are alike or missing.

    `unexplained_G` is the difference that is left when both models' mean scores are taken to be right: what a
    calibrator alone cannot have done.
    """

    difference_G: FloatArray
    se_G: FloatArray
    buckets_G: IntArray
    unexplained_G: FloatArray


def entropy_differences(pairs_GKP: IntArray) -> EntropyDifferences:
    """NE = mean log loss / entropy of the mean click rate; both models share the latter.

    Source:
        He et al. 2014, section 3 (normalised entropy).
    """
    sums_GPJ = leave_one_out(np.moveaxis(pairs_GKP, 1, 2))
    matured_GJ, click_GJ = sums_GPJ[:, PairMeasure.MATURED], sums_GPJ[:, PairMeasure.CLICK]
    loss_GJ = sums_GPJ[:, PairMeasure.LOG_LOSS_CANDIDATE] - sums_GPJ[:, PairMeasure.LOG_LOSS_STABLE]
    with np.errstate(divide="ignore", invalid="ignore"):
        rate_GJ = click_GJ / matured_GJ
        entropy_GJ = -(rate_GJ * np.log(rate_GJ) + (1 - rate_GJ) * np.log1p(-rate_GJ))
        difference_GJ = loss_GJ / FIXED_POINT / matured_GJ / entropy_GJ
        mean_GAP = sums_GPJ[:, [PairMeasure.SCORE_STABLE, PairMeasure.SCORE_CANDIDATE], 0] / FIXED_POINT
        score_GA = mean_GAP / matured_GJ[:, :1]
        excess_GA = _divergence(rate_GJ[:, :1], score_GA) / entropy_GJ[:, :1]
        unexplained_G = difference_GJ[:, 0] - (excess_GA[:, 1] - excess_GA[:, 0])
    is_known_G = np.asarray(np.isfinite(difference_GJ).all(axis=1))
    difference_GJ = np.where(is_known_G[:, None], difference_GJ, np.nan)
    has_data_GK = pairs_GKP[..., PairMeasure.MATURED] > 0
    return EntropyDifferences(
        difference_G=difference_GJ[:, 0],
        se_G=jackknife_se(difference_GJ, has_data_GK),
        buckets_G=has_data_GK.sum(axis=1).astype(np.int64),
        unexplained_G=unexplained_G,
    )


def _divergence(rate: FloatArray, score: FloatArray) -> FloatArray:
    """Log loss, in nats, that a model of mean `score` pays for not having the mean `rate`: Bernoulli KL."""
    return np.asarray(rate * np.log(rate / score) + (1 - rate) * (np.log1p(-rate) - np.log1p(-score)))
