"""Rising curves through a fixed number of knots, for what Platt's line cannot mend.

At each knot the rows nearest to it say by how much their click rate lies off, in logits; a view type's shifts are
shrunk to its surface's, which are shrunk to none, and what would fall is pooled until it rises.

Shapes: N rows, V view types, K knots.
Source: Ayer et al. 1955, doi:10.1214/aoms/1177728423 (pooling adjacent violators).
"""

import numpy as np
from numpy.typing import NDArray

SURFACE_KNOT_SPREAD = 0.3  # prior standard deviation of a surface's shift at a knot, in logits
VIEW_TYPE_KNOT_SPREAD = 0.15  # of a view type's around its surface's
LEAST_STEP = 1e-3  # between knots, in logits: equal ones would divide by nothing
LEAST_SLOPE = 0.02  # of a curve: no two scores become one, so rankings stay
LEAST_PLATT_SLOPE = 0.05  # a line flatter than this ranks next to nothing, and gets no curve
NEWTON_STEPS = 30

Float64Array = NDArray[np.float64]


def fit_curves(
    logit_N: Float64Array,
    click_N: NDArray[np.bool_],
    view_type_N: NDArray[np.int64],
    slope_V: Float64Array,
    intercept_V: Float64Array,
    num_knots: int,
) -> tuple[Float64Array, Float64Array]:
    """Knots and values by view type, both of shape (V, K), of curves that come before the given lines."""
    line_N = slope_V[view_type_N] * logit_N + intercept_V[view_type_N]
    knot_K = _rising(np.quantile(line_N, np.linspace(0, 1, num_knots)), LEAST_STEP)
    none_K = np.zeros(num_knots)
    surface_K, _ = _shifts(line_N, click_N, knot_K, none_K, SURFACE_KNOT_SPREAD)
    knot_VK, value_VK = np.empty((2, len(slope_V), num_knots))
    for view_type, (slope, intercept) in enumerate(zip(slope_V, intercept_V, strict=True)):
        is_member_N = view_type_N == view_type
        shift_K, weight_K = _shifts(line_N[is_member_N], click_N[is_member_N], knot_K, surface_K, VIEW_TYPE_KNOT_SPREAD)
        curve_K = _monotone(knot_K + shift_K, weight_K)
        curve_K = curve_K[0] + np.cumsum(np.maximum(np.diff(curve_K, prepend=curve_K[0]), _floor(knot_K)))
        divisor, offset = (slope, intercept) if slope >= LEAST_PLATT_SLOPE else (1.0, 0.0)
        knot_VK[view_type] = (knot_K - offset) / divisor
        value_VK[view_type] = (curve_K - offset) / divisor if slope >= LEAST_PLATT_SLOPE else knot_VK[view_type]
    return knot_VK, value_VK


def shift_of(logit_N: Float64Array, click_N: NDArray[np.bool_], *, prior: float, spread: float) -> float:
    """The most probable shift of all these logits under a Gaussian prior, by Newton's method; `prior` without any."""
    shift, precision = prior, spread**-2
    for _ in range(NEWTON_STEPS):
        probability_N = sigmoid(logit_N + shift)
        gradient = (probability_N - click_N).sum() + precision * (shift - prior)
        step = gradient / ((probability_N * (1 - probability_N)).sum() + precision)
        shift -= float(np.clip(step, -1.0, 1.0))
        if abs(step) < LEAST_STEP**3:
            break
    return shift


def sigmoid(logit_N: Float64Array) -> Float64Array:
    return 0.5 * (1.0 + np.tanh(0.5 * logit_N))


def _shifts(
    line_N: Float64Array, click_N: NDArray[np.bool_], knot_K: Float64Array, prior_K: Float64Array, spread: float
) -> tuple[Float64Array, Float64Array]:
    """By knot, the shift of the rows nearest to it and the information that stands behind it."""
    nearest_N = np.searchsorted((knot_K[1:] + knot_K[:-1]) / 2, line_N)
    shift_K, weight_K = np.empty((2, len(knot_K)))
    for knot, prior in enumerate(prior_K):
        is_near_N = nearest_N == knot
        shift_K[knot] = shift_of(line_N[is_near_N], click_N[is_near_N], prior=prior, spread=spread)
        probability_N = sigmoid(line_N[is_near_N] + shift_K[knot])
        weight_K[knot] = (probability_N * (1 - probability_N)).sum() + spread**-2
    return shift_K, weight_K


def _monotone(value_K: Float64Array, weight_K: Float64Array) -> Float64Array:
    """The nearest curve that never falls, by pooling adjacent violators."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(value_K.tolist(), weight_K.tolist(), strict=True):
        pool = (value, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            before = pools.pop()
            total = before[1] + pool[1]
            pool = ((before[0] * before[1] + pool[0] * pool[1]) / total, total, before[2] + pool[2])
        pools.append(pool)
    return np.repeat([value for value, _, _ in pools], [size for _, _, size in pools])


def _floor(knot_K: Float64Array) -> Float64Array:
    """The least rise at each knot over the one before."""
    return LEAST_SLOPE * np.diff(knot_K, prepend=knot_K[0])


def _rising(value_K: Float64Array, step: float) -> Float64Array:
    place_K = step * np.arange(len(value_K))
    rising_K: Float64Array = np.maximum.accumulate(value_K - place_K) + place_K
    return rising_K
