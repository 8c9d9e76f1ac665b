"""E-values for a rate against its limit, without large-sample theory: what such rates count is rare."""

import math
from functools import lru_cache

import numpy as np
from scipy.special import betaincc, betaln

SMALLEST_LIMIT = 1e-9  # what is nearer to 0 or 1 is no rate that anyone could measure
MOST_TRIALS = 1e12  # more are weighed as so many, each the less: beyond, the incomplete beta is slow, then NaN
SMALLEST_TAIL = 1e-290  # below it a double loses the tail; the continued fraction does not
SMALLEST_STEP = 1e-30  # in place of a 0 that rounding made, as Lentz's method has it
CONVERGED = 1e-14
MAX_TERMS = 10_000  # tails this far out need some dozens


def log_e_above(hits: float, trials: int, limit: float) -> float:
    """Log e-value against "each trial hits with probability `limit` at most, whatever came before".

    The likelihood of the hits, mixed over a prior of rates above the limit, over the likelihood at the limit. Under
    the null the chance that it ever reaches log(1/α) is at most α, at every look at once and from the first trial
    on. A trial may hit in part (a share from 0 to 1): a likelihood ratio is convex in the share, so parts never
    weigh more than whole hits of the same mean.

    The prior is half of the limit's own size, Beta(1, 1/limit − 1), and half uniform, for rates far beyond a small
    limit; both cut to the rates above it.

    Args:
        hits: from 0 to `trials`.

    Source:
        Robbins 1970, section 2 (mixtures of binomials); Howard et al. 2021, appendix A (one-sided beta-binomial
        mixture); Hoeffding 1963, theorem 1 (shares from 0 to 1).
    """
    if limit > 1.0 - SMALLEST_LIMIT or not trials:
        return 0.0
    limit = max(limit, SMALLEST_LIMIT)
    near = _log_mixture(hits, trials - hits, limit, 1.0, _spread(limit))
    far = _log_mixture(hits, trials - hits, limit, 1.0, 1.0)
    return float(np.logaddexp(near, far)) - math.log(2.0)


def log_e_below(hits: float, trials: int, limit: float) -> float:
    """The same against "each trial hits with probability `limit` at least"; the prior is of the limit's size alone."""
    if limit < SMALLEST_LIMIT or not trials:
        return 0.0
    limit = min(limit, 1.0 - SMALLEST_LIMIT)
    return _log_mixture(trials - hits, hits, 1.0 - limit, _spread(limit), 1.0)


def _spread(limit: float) -> float:
    """b of a prior Beta(1, b) whose mean is the limit, uniform from a half on: effects are of the limit's size."""
    return max(1.0, 1.0 / limit - 1.0)


def _log_mixture(hits: float, misses: float, limit: float, prior_a: float, prior_b: float) -> float:
    """log of ∫ q^hits (1−q)^misses dBeta(q; a, b | q > limit) over the same at q = limit."""
    scale = min(1.0, MOST_TRIALS / (hits + misses))
    hits, misses = hits * scale, misses * scale
    a, b = hits + prior_a, misses + prior_b
    prior = _log_prior(limit, prior_a, prior_b)
    tail = float(betaincc(a, b, limit))
    log_limit, log_rest = math.log(limit), math.log1p(-limit)
    if tail > SMALLEST_TAIL:
        return float(betaln(a, b)) + math.log(tail) - hits * log_limit - misses * log_rest - prior
    # The tail's own powers of the limit cancel against the denominator's, so nothing here is near the underflow.
    return prior_a * log_limit + prior_b * log_rest + math.log(_fraction(b, a, 1.0 - limit) / b) - prior


@lru_cache(maxsize=1_024)  # limits of plans
def _log_prior(limit: float, prior_a: float, prior_b: float) -> float:
    return float(betaln(prior_a, prior_b)) + math.log(betaincc(prior_a, prior_b, limit))


def _fraction(a: float, b: float, x: float) -> float:
    """I_x(a, b)·a·B(a, b) / (x^a (1−x)^b), for x below the mean.

    Source:
        DLMF 8.17.22, by Lentz's method.
    """
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0) or SMALLEST_STEP)
    value = d
    for m in range(1, MAX_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 / (1.0 + term * d or SMALLEST_STEP)
            c = 1.0 + term / c or SMALLEST_STEP
            step = c * d
            value *= step
        if abs(step - 1.0) < CONVERGED:
            break
    return value
