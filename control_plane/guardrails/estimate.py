"""Log ratio of two arms' rates from bucket sums: Mantel–Haenszel over strata, jackknife over user buckets.

Letters of the shapes: H hypotheses, S strata, A arms (2), K buckets, J = K + 1 replicates, of which the
first leaves nothing out and the others one bucket each.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.split import Arm

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

MIN_STANDARD_ERROR = 1e-9  # buckets that agree to the last bit are a test's, not a crowd's


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogRatios:
    """H estimates of log(candidate's rate / stable's rate); NaN where there is nothing to compare.

    Attributes:
        theta_H: the log ratio over the strata that both arms live in.
        se_H: its standard error, of users drawn as they come.
        buckets_H: user buckets with data in both arms' strata, the smaller arm's count.
        expected_H: candidate's numerator if it had stable's rates: Σ_s Y_C·N_T/N_C.
        overlap_HS: comparable impressions N_T·N_C/(N_T+N_C), to which information is proportional.
    """

    theta_H: FloatArray
    se_H: FloatArray
    buckets_H: IntArray
    expected_H: FloatArray
    overlap_HS: FloatArray


def log_ratios(numerator_HSAK: IntArray, denominator_HSAK: IntArray, unit_H: FloatArray) -> LogRatios:
    """Mantel–Haenszel log ratios of both arms in the same strata, with delete-one-bucket standard errors.

    Strata without both arms drop out, so that a ramp beside a weekly rhythm leaves no bias. Swapping the arms
    flips `theta_H` to the last bit. `unit_H` is the size of one conversion (1 for counts); half of it is added
    to both numerators where one of them, or one of their replicates, is empty.

    Source:
        Mantel & Haenszel 1959; Shao & Tu, The Jackknife and Bootstrap, 1995, section 1.2.
    """
    numerator_HSAJ, denominator_HSAJ = leave_one_out(numerator_HSAK), leave_one_out(denominator_HSAK)
    stable_HSJ, candidate_HSJ = denominator_HSAJ[:, :, Arm.STABLE], denominator_HSAJ[:, :, Arm.CANDIDATE]
    total_HSJ = stable_HSJ + candidate_HSJ
    share_HSJ = divide(stable_HSJ, total_HSJ)
    counter_share_HSJ = divide(candidate_HSJ, total_HSJ)
    above_HJ = (numerator_HSAJ[:, :, Arm.CANDIDATE] * share_HSJ).sum(axis=1)
    below_HJ = (numerator_HSAJ[:, :, Arm.STABLE] * counter_share_HSJ).sum(axis=1)
    overlap_HSJ = candidate_HSJ * share_HSJ
    above_HJ, below_HJ = _with_half_a_conversion(above_HJ, below_HJ, stable_HSJ, candidate_HSJ, overlap_HSJ, unit_H)
    with np.errstate(divide="ignore", invalid="ignore"):
        theta_HJ = np.log(above_HJ) - np.log(below_HJ)
    theta_HJ = np.where(np.isfinite(theta_HJ).all(axis=1, keepdims=True), theta_HJ, np.nan)
    has_data_HAK: BoolArray = np.asarray(((denominator_HSAK > 0) & (overlap_HSJ[:, :, None, :1] > 0)).any(axis=1))
    return LogRatios(
        theta_H=theta_HJ[:, 0],
        se_H=jackknife_se(theta_HJ, np.asarray(has_data_HAK.any(axis=1))),
        buckets_H=has_data_HAK.sum(axis=2).min(axis=1).astype(np.int64),
        expected_H=_expected(numerator_HSAJ[..., 0], denominator_HSAJ[..., 0]),
        overlap_HS=overlap_HSJ[..., 0],
    )


def leave_one_out(sums_K: IntArray) -> FloatArray:
    """Sums over the last axis, whole and without each of its buckets: (…, K) → (…, K + 1). Exact before the cast."""
    whole = sums_K.sum(axis=-1, keepdims=True)
    return np.asarray(np.concatenate([whole, whole - sums_K], axis=-1), dtype=np.float64)


def jackknife_se(replicate_HJ: FloatArray, has_data_HK: BoolArray) -> FloatArray:
    """Standard error of H statistics from their delete-one replicates, over buckets that hold data."""
    buckets_H = has_data_HK.sum(axis=1)
    without_HK = np.where(has_data_HK, replicate_HJ[:, 1:], 0.0)
    mean_H = divide(without_HK.sum(axis=1), buckets_H.astype(np.float64))
    spread_H = np.where(has_data_HK, np.square(without_HK - mean_H[:, None]), 0.0).sum(axis=1)
    variance_H = spread_H * divide(buckets_H - 1.0, buckets_H.astype(np.float64))
    return np.asarray(np.maximum(np.sqrt(variance_H), MIN_STANDARD_ERROR), dtype=np.float64)


def effective_count(value_K: IntArray) -> FloatArray:
    """How many equal lumps a sum is worth by its spread over the last axis: (Σv)²/Σv², Kish's effective size."""
    value = value_K.astype(np.float64)
    return divide(np.square(value.sum(axis=-1)), np.square(value).sum(axis=-1))


def divide(above: FloatArray, below: FloatArray) -> FloatArray:
    """Zero where there is nothing to divide by: an empty stratum then weighs nothing."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)


def _with_half_a_conversion(
    above_HJ: FloatArray,
    below_HJ: FloatArray,
    stable_HSJ: FloatArray,
    candidate_HSJ: FloatArray,
    overlap_HSJ: FloatArray,
    unit_H: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    is_empty_H = (above_HJ <= 0).any(axis=1) | (below_HJ <= 0).any(axis=1)
    half_H = np.where(is_empty_H, 0.5 * unit_H, 0.0)[:, None]
    is_shared_HSJ = overlap_HSJ > 0
    stable_HJ = np.where(is_shared_HSJ, stable_HSJ, 0.0).sum(axis=1)
    candidate_HJ = np.where(is_shared_HSJ, candidate_HSJ, 0.0).sum(axis=1)
    total_HJ = stable_HJ + candidate_HJ
    return above_HJ + half_H * divide(stable_HJ, total_HJ), below_HJ + half_H * divide(candidate_HJ, total_HJ)


def _expected(numerator_HSA: FloatArray, denominator_HSA: FloatArray) -> FloatArray:
    rate_HS = divide(numerator_HSA[..., Arm.STABLE], denominator_HSA[..., Arm.STABLE])
    return np.asarray((rate_HS * denominator_HSA[..., Arm.CANDIDATE]).sum(axis=1))
