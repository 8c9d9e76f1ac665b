"""Expected calibration error that is 0 for a perfect model however few its users are.

Letters of the shapes: C coarse user buckets, B score bins, R `ReliabilityMeasure`, J = C + 1 leave-one-out replicates.
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
    table_RBC = table_CBR.T
    shown_BC = table_RBC[ReliabilityMeasure.IMPRESSIONS]
    surplus_BC = table_RBC[ReliabilityMeasure.SCORE] - table_RBC[ReliabilityMeasure.CLICK] * FIXED_POINT
    is_told_B = (shown_BC > 0).sum(axis=1) >= 2
    click_J = leave_one_out(table_RBC[ReliabilityMeasure.CLICK].sum(axis=0))
    if not is_told_B.any() or not (click_J > 0).all():
        return None
    shown_BC, surplus_BC = shown_BC[is_told_B], surplus_BC[is_told_B]
    shown_BJ, surplus_BJ = leave_one_out(shown_BC), leave_one_out(surplus_BC) / FIXED_POINT
    shown_J = shown_BJ.sum(axis=0)
    square_J = divide(np.square(surplus_BJ), shown_BJ).sum(axis=0) * shown_J / np.square(click_J)
    noise_BB = _noise(shown_BC.astype(np.float64), surplus_BC / FIXED_POINT) * shown_J[0] / click_J[0] ** 2
    has_data_C = shown_BC.any(axis=0)
    first_order = float(jackknife_se(square_J[None], has_data_C[None])[0])
    se = math.sqrt(first_order**2 + 2.0 * float(np.square(noise_BB).sum()))
    square = float(square_J[0] - np.trace(noise_BB))
    degrees, tau = np.array([has_data_C.sum() - 1.0]), INTERVAL_TAU**2
    width = float(half_width(np.array([se]), degrees, alpha=alpha, tau=tau)[0])
    return CalibrationError(
        square=square, value=_root(square), lower=_root(square - width), upper=_root(square + width)
    )


def _noise(shown_BC: FloatArray, surplus_BC: FloatArray) -> FloatArray:
    """Covariance, by the spread of its users, of what each bin adds in the root to a perfect model's sum of squares."""
    shown_B1 = shown_BC.sum(axis=1, keepdims=True)
    buckets_B1 = (shown_BC > 0).sum(axis=1, keepdims=True)
    residual_BC = surplus_BC - surplus_BC.sum(axis=1, keepdims=True) / shown_B1 * shown_BC
    part_BC = residual_BC * np.sqrt(buckets_B1 / (buckets_B1 - 1) / shown_B1)
    return np.asarray(part_BC @ part_BC.T)


def _root(square: float) -> float:
    return math.sqrt(max(0.0, square))
