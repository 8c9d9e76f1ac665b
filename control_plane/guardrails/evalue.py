"""E-values that stay valid however often they are read; their clock is information, 1/se², never the count.

All functions work element by element on arrays of any one shape.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri_exp, stdtr, stdtrit

from control_plane.guardrails.estimate import BoolArray, FloatArray

MAX_Z = 37.0  # Φ(−37) is the smallest tail that a double still tells from none
INTERVAL_TAU = 0.05  # effect size, log ratio, at which a displayed interval is tightest: a few per cent
MAX_LOG_EFFECT = math.log(1e6)  # shown effects end at a million-fold: beyond it is noise
CULPRIT_FDR = 0.1  # share of innocents among the culprits named, on average


def z_of_t(t: FloatArray, degrees: FloatArray) -> FloatArray:
    """The normal score with the same tail probability as `t`, odd in `t`, clipped at ±`MAX_Z`."""
    with np.errstate(divide="ignore", under="ignore"):
        log_tail = np.log(stdtr(np.maximum(degrees, 1.0), -np.abs(t)))
        z = np.where(np.isneginf(log_tail), -MAX_Z, ndtri_exp(log_tail))
    return np.asarray(np.sign(t) * np.clip(-z, 0.0, MAX_Z))


def about_z_of_t(t: FloatArray, degrees: FloatArray) -> FloatArray:
    """`z_of_t` to within a per cent for 29 degrees and more: for forecasts, at a twentieth of the cost.

    Source:
        Wallace 1959, as in Abramowitz & Stegun 26.7.8.
    """
    at_least_one = np.maximum(degrees, 1.0)
    return np.asarray(t * (1 - 0.25 / at_least_one) / np.sqrt(1 + 0.5 * np.square(t) / at_least_one))


def log_e(z: FloatArray, se: FloatArray, taus: Sequence[float], weights: Sequence[float]) -> FloatArray:
    """Log e-value against "the effect's normal score is 0 or less": a mixture of one-sided normals.

    Under the null the chance that it ever reaches log(1/α) is at most α, at every look at once, as far as the
    score is normal in the first look (so callers wait for their evidence gates).

    Args:
        z: normal score, positive where the data speak against the null.
        se: standard error of the effect, in the effect's units.
        taus: effect sizes the mixture is built for, in the same units.
        weights: of the mixture, summing to 1.

    Source:
        Howard et al. 2021, the one-sided normal mixture (Prop. 6); Johari et al. 2022, section 5.
    """
    tau_T = np.asarray(taus, dtype=np.float64)
    ratio = np.square(tau_T / np.asarray(se, dtype=np.float64)[..., None])
    shrink = ratio / (1.0 + ratio)
    score = np.asarray(z, dtype=np.float64)[..., None]
    terms = (
        np.log(np.asarray(weights, dtype=np.float64))
        + math.log(2.0)
        - 0.5 * np.log1p(ratio)
        + 0.5 * np.square(score) * shrink
        + log_ndtr(score * np.sqrt(shrink))
    )
    with np.errstate(invalid="ignore"):  # NaN in, NaN out
        return np.asarray(np.logaddexp.reduce(terms, axis=-1))


def half_width(se: FloatArray, degrees: FloatArray, *, alpha: float, tau: float = INTERVAL_TAU) -> FloatArray:
    """Half-width of an interval that covers the truth at every look at once with error `alpha`.

    Infinite degrees stand for a standard error that is known.

    Source:
        Robbins 1970; Howard et al. 2021, eq. 14, with r = τ²/se², widened from normal to t quantiles.
    """
    with np.errstate(over="ignore", under="ignore"):
        ratio = np.square(tau / np.asarray(se, dtype=np.float64))
        scores = np.sqrt((1.0 + 1.0 / ratio) * np.log((1.0 + ratio) / alpha**2))
        within = np.minimum(scores, MAX_Z)
        if np.isposinf(degrees).all():
            return np.asarray(se * scores)
        widening = -stdtrit(np.maximum(degrees, 1.0), ndtr(-within)) / within
    return np.asarray(se * scores * widening)


def relative(log_ratio: float) -> float:
    """A log ratio as a relative change, finite whatever it is."""
    return math.expm1(min(max(log_ratio, -MAX_LOG_EFFECT), MAX_LOG_EFFECT))


def log_mean(log_es: Sequence[float], weights: Sequence[float]) -> float:
    """Log of the weighted mean of e-values; what the weights lack to 1 counts as hypotheses without data, E = 1.

    `ValueError` if one is NaN: a mean with it is no number, and below no threshold.
    """
    if any(map(math.isnan, log_es)):
        raise ValueError("an e-value is NaN; a hypothesis without data has 0, the log of 1")
    rest = max(0.0, 1.0 - math.fsum(weights))
    with np.errstate(divide="ignore"):  # a weight of 0 counts for nothing
        terms = np.array([*log_es, 0.0]) + np.log([*weights, rest])
    return float(np.logaddexp.reduce(terms))


def rejected(log_es: Sequence[float], *, num_hypotheses: int, fdr: float = CULPRIT_FDR) -> BoolArray:
    """Which hypotheses e-BH rejects, the false discovery rate held at `fdr` under any dependence.

    Source:
        Wang & Ramdas 2022, definition 1.
    """
    values = np.nan_to_num(np.asarray(log_es, dtype=np.float64), nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    if not values.size:
        return np.zeros(0, dtype=np.bool_)
    descending = np.sort(values)[::-1]
    bars = math.log(num_hypotheses / fdr) - np.log(np.arange(1, values.size + 1))
    passing = np.flatnonzero(descending >= bars)
    cut = descending[passing[-1]] if passing.size else math.inf
    return np.asarray(values >= cut)
