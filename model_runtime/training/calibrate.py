"""Fitting calibrators: Platt per view type, shrunk to its surface, which is shrunk to leaving logits alone.

What a line cannot mend, a curve may: `isotonic` adds one, see `training.isotonic`.
Shapes: N rows, V view types.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from control_plane.domain.errors import InvalidField
from model_runtime.networks.calibration import MAX_KNOTS, Calibrator
from model_runtime.training.isotonic import Float64Array, fit_curves, shift_of, sigmoid

METHODS = ("platt", "temperature", "isotonic")

SLOPE_CLICKS = 200  # fewer clicks move only the intercept: a slope from less is mostly noise
SLOPE_SPREAD = 0.25  # prior standard deviation of a slope
SURFACE_SPREAD = 0.3  # of a surface's intercept, in logits: outweighed by about 1 / 0.3² = 11 clicks
VIEW_TYPE_SPREAD = 0.15  # of a view type's around its surface's: by about 44, since the network knows view types too
NEWTON_STEPS = 30  # convex with a prior: it converges in a handful
CONVERGED = 1e-10


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationConfig:
    """`temperature` moves slopes alone, `platt` intercepts too, `isotonic` adds a rising curve of `num_knots`."""

    method: str = "platt"
    num_knots: int = 16

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidField("calibration.method", f"must be one of {', '.join(METHODS)}, not {self.method!r}")
        if not 2 <= self.num_knots <= MAX_KNOTS:
            raise InvalidField("calibration.num_knots", f"must be 2 to {MAX_KNOTS}, not {self.num_knots}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Platt:
    slope: float
    intercept: float


IDENTITY = Platt(slope=1.0, intercept=0.0)


def fit_calibrator(
    logit_N: Float64Array,
    click_N: NDArray[np.bool_],
    view_type_N: NDArray[np.int64],
    num_view_types: int,
    config: CalibrationConfig = CalibrationConfig(),
) -> Calibrator:
    """Fit on rows that the network was not trained on; a view type without rows gets its surface's layer."""
    has_intercept = config.method != "temperature"
    surface = fit_platt(logit_N, click_N, IDENTITY, intercept_spread=SURFACE_SPREAD, moves_intercept=has_intercept)
    fitted = [
        fit_platt(
            logit_N[is_member_N],
            click_N[is_member_N],
            surface,
            intercept_spread=VIEW_TYPE_SPREAD,
            moves_intercept=has_intercept,
        )
        for is_member_N in (view_type_N == view_type for view_type in range(num_view_types))
    ]
    calibrator = Calibrator(num_view_types, config.num_knots if config.method == "isotonic" else 0)
    calibrator.slope_V.copy_(torch.tensor([platt.slope for platt in fitted]))
    calibrator.intercept_V.copy_(torch.tensor([platt.intercept for platt in fitted]))
    if calibrator.num_knots and len(logit_N):
        _bend(calibrator, logit_N, click_N, view_type_N)
    return calibrator


def _bend(
    calibrator: Calibrator, logit_N: Float64Array, click_N: NDArray[np.bool_], view_type_N: NDArray[np.int64]
) -> None:
    """Add the curves, and let each view type's intercept take up what its curve leaves of the click rate."""
    slope_V, intercept_V = (each.double().numpy() for each in (calibrator.slope_V, calibrator.intercept_V))
    knot_VK, value_VK = fit_curves(logit_N, click_N, view_type_N, slope_V, intercept_V, calibrator.num_knots)
    calibrator.knot_VK.copy_(torch.from_numpy(knot_VK))
    calibrator.value_VK.copy_(torch.from_numpy(value_VK))
    bent = calibrator(torch.from_numpy(logit_N).float(), torch.from_numpy(view_type_N)).double().numpy()
    for view_type in range(len(slope_V)):
        is_member_N = view_type_N == view_type
        shift = shift_of(bent[is_member_N], click_N[is_member_N], prior=0.0, spread=VIEW_TYPE_SPREAD)
        calibrator.intercept_V[view_type] += shift


def fit_platt(
    logit_N: Float64Array,
    click_N: NDArray[np.bool_],
    prior: Platt,
    *,
    intercept_spread: float,
    moves_intercept: bool = True,
) -> Platt:
    """The most probable Platt layer under Gaussian priors around `prior`, by Newton's method.

    The data outweigh the prior as their information, Σ p(1 - p), outgrows 1 / spread²; with no rows the
    answer is the prior. Below SLOPE_CLICKS clicks the slope stays the prior's.
    """
    moves_slope = bool(min(click_N.sum(), (~click_N).sum()) >= SLOPE_CLICKS)
    precision = np.array([SLOPE_SPREAD**-2, intercept_spread**-2])
    centre = np.array([prior.slope, prior.intercept])
    design_N2 = np.stack([logit_N, np.ones_like(logit_N)], axis=1)
    free = np.array([moves_slope, moves_intercept])
    weight = centre.copy()
    for _ in range(NEWTON_STEPS):
        probability_N = sigmoid(design_N2 @ weight)
        gradient = design_N2.T @ (probability_N - click_N) + precision * (weight - centre)
        curvature = (design_N2.T * (probability_N * (1 - probability_N))) @ design_N2 + np.diag(precision)
        step = np.zeros(2)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
        weight -= np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < CONVERGED:
            break
    return Platt(slope=float(weight[0]), intercept=float(weight[1]))
