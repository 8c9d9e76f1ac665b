"""Predicted over observed clicks, as a log ratio with the bucket jackknife. H rows, K buckets, J = K + 1 replicates."""

from dataclasses import dataclass

import numpy as np

from control_plane.domain.moments import FIXED_POINT
from control_plane.guardrails.estimate import FloatArray, IntArray, jackknife_se, leave_one_out


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Calibrations:
    """H values of c = log(Σ score / Σ click); NaN where nothing was scored or clicked.

    `buckets_H` counts user buckets with matured impressions.
    """

    log_ratio_H: FloatArray
    se_H: FloatArray
    buckets_H: IntArray
    predicted_H: FloatArray
    observed_H: FloatArray


def calibrations(matured_HK: IntArray, score_HK: IntArray, click_HK: IntArray) -> Calibrations:
    """Calibration from bucket sums over matured impressions; scores in fixed point.

    Half a click is added to both sides where one of them, or one of their replicates, is empty.
    """
    predicted_HJ, observed_HJ = leave_one_out(score_HK) / FIXED_POINT, leave_one_out(click_HK)
    is_empty_H = (predicted_HJ <= 0).any(axis=1) | (observed_HJ <= 0).any(axis=1)
    is_void_H = (predicted_HJ[:, 0] <= 0) & (observed_HJ[:, 0] <= 0)
    half_H = np.where(is_empty_H, 0.5, 0.0)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio_HJ = np.log(predicted_HJ + half_H) - np.log(observed_HJ + half_H)
    has_data_HK = matured_HK > 0
    return Calibrations(
        log_ratio_H=np.where(is_void_H, np.nan, log_ratio_HJ[:, 0]),
        se_H=jackknife_se(log_ratio_HJ, has_data_HK),
        buckets_H=has_data_HK.sum(axis=1).astype(np.int64),
        predicted_H=predicted_HJ[:, 0],
        observed_H=observed_HJ[:, 0],
    )
