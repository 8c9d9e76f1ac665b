"""Expected calibration error that is 0 for a perfect model however few its users are.

Letters of the shapes: X versions, C coarse user buckets, B score bins, R `ReliabilityMeasure`, J = C + 1 leave-one-out
replicates.
"""

import math
from dataclasses import dataclass

import numpy as np

from control_plane.domain.moments import FIXED_POINT, ReliabilityMeasure
from control_plane.guardrails.estimate import FloatArray, IntArray, divide, jackknife_se, leave_one_out
from control_plane.guardrails.evalue import INTERVAL_TAU, half_width


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationError:
    """Root mean square over impressions of (mean score − click rate) of their bin, relative to the whole click rate.

    `square` is the debiased mean square, of mean 0 for a perfect model, so often below it; `value` its root, from 0 on.
    """

    square: float
    value: float
    lower: float
    upper: float


def calibration_error(table_CBR: IntArray, *, alpha: float) -> CalibrationError | None:
    """Debiased error of one version on its own score bins, and an interval; None without clicks or users.

    From each bin's squared error its own sampling variance is taken, as users who come back make it: in terms of
    the coarse buckets' residuals, where Kumar et al. have the labels' binomial variance. Bins that users of one
    bucket alone have seen are left out: they have no variance to take off.

    The interval is that of the mean square, its ends rooted. Its variance is the jackknife's and, as that vanishes
    at no error, the one of a sum of squared normals of the bins' covariance, 2·‖Σ‖². What varies within a bin is not
    seen.

    Source:
        Kumar, Liang & Ma 2019, definition 5.1 (debiased calibration error).
    """
    return calibration_errors(table_CBR[None], alpha=alpha)[0]


def calibration_errors(table_XCBR: IntArray, *, alpha: float) -> list[CalibrationError | None]:
    """`calibration_error` of X versions at once."""
    table_RXBC = np.moveaxis(table_XCBR, (3, 0, 2, 1), (0, 1, 2, 3))
    shown_XBC = table_RXBC[ReliabilityMeasure.IMPRESSIONS]
    is_told_XB1 = (shown_XBC > 0).sum(axis=2, keepdims=True) >= 2
    surplus_XBC = table_RXBC[ReliabilityMeasure.SCORE] - table_RXBC[ReliabilityMeasure.CLICK] * FIXED_POINT
    shown_XBC, surplus_XBC = shown_XBC * is_told_XB1, surplus_XBC * is_told_XB1
    click_XJ = leave_one_out(table_RXBC[ReliabilityMeasure.CLICK].sum(axis=1))
    is_known_X = is_told_XB1.any(axis=(1, 2)) & (click_XJ > 0).all(axis=1)
    click_XJ = np.maximum(click_XJ, 1.0)
    shown_XBJ, surplus_XBJ = leave_one_out(shown_XBC), leave_one_out(surplus_XBC) / FIXED_POINT
    shown_XJ = shown_XBJ.sum(axis=1)
    square_XJ = divide(np.square(surplus_XBJ), shown_XBJ).sum(axis=1) * shown_XJ / np.square(click_XJ)
    scale_X = shown_XJ[:, 0] / np.square(click_XJ[:, 0])
    noise_XBB = _noise(shown_XBC.astype(np.float64), surplus_XBC / FIXED_POINT) * scale_X[:, None, None]
    has_data_XC = shown_XBC.any(axis=1)
    variance_X = np.square(jackknife_se(square_XJ, has_data_XC)) + 2.0 * np.square(noise_XBB).sum(axis=(1, 2))
    square_X = square_XJ[:, 0] - np.trace(noise_XBB, axis1=1, axis2=2)
    width_X = half_width(np.sqrt(variance_X), has_data_XC.sum(axis=1) - 1.0, alpha=alpha, tau=INTERVAL_TAU**2)
    columns = zip(is_known_X.tolist(), square_X.tolist(), width_X.tolist(), strict=True)
    return [
        CalibrationError(square=square, value=_root(square), lower=_root(square - width), upper=_root(square + width))
        if is_known
        else None
        for is_known, square, width in columns
    ]


def _noise(shown_XBC: FloatArray, surplus_XBC: FloatArray) -> FloatArray:
    """Covariance, by the spread of its users, of what each bin adds in the root to a perfect model's sum of squares."""
    shown_XB1 = shown_XBC.sum(axis=2, keepdims=True)
    buckets_XB1 = (shown_XBC > 0).sum(axis=2, keepdims=True).astype(np.float64)
    residual_XBC = surplus_XBC - divide(surplus_XBC.sum(axis=2, keepdims=True), shown_XB1) * shown_XBC
    spread_XB1 = divide(divide(buckets_XB1, np.maximum(buckets_XB1 - 1.0, 1.0)), shown_XB1)
    part_XBC = residual_XBC * np.sqrt(spread_XB1)
    return np.asarray(part_XBC @ np.swapaxes(part_XBC, 1, 2))


def _root(square: float) -> float:
    return math.sqrt(max(0.0, square))
