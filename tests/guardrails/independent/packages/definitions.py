"""mpmath: the definitions, to 40 digits."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from tests.guardrails.independent.packages.case import Case, a_case

TAUS, WEIGHTS = (0.03, 0.1, 0.4), (0.4, 0.4, 0.2)


def mpmath() -> Iterator[Case]:
    mp = import_module("mpmath")
    mp.mp.dps = 40
    yield from _scores_of_t(mp)
    yield from _mixtures(mp)
    yield from _crossings(mp)
    yield from _beta_binomials(mp)
    yield from _rates(mp)


def _scores_of_t(mp: Any) -> Iterator[Case]:
    """z with Φ(−z) = P(T > t), by root-finding on the log tails."""
    for degrees in (29, 30, 63, 127, 255, 1_000):
        for t in (1e-6, 0.01, 0.3, 1.0, 1.96, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0, 89.0, 144.0, 1e3, 1e4, 1e5):
            half = mp.mpf(1) / 2
            beta_at = mp.mpf(degrees) / (degrees + mp.mpf(t) ** 2)
            tail = mp.betainc(mp.mpf(degrees) / 2, half, 0, beta_at, regularized=True) / 2
            if mp.log10(tail) < -299:
                continue  # beyond Φ(−37)
            guess = t if t < 2 else mp.sqrt(-2 * mp.log(tail)) - 0.5
            z = mp.findroot(lambda z, tail=tail: mp.log(mp.erfc(z / mp.sqrt(2)) / 2) - mp.log(tail), guess)
            yield a_case("z of t", {"t": t, "degrees": degrees}, z)


def _mixtures(mp: Any) -> Iterator[Case]:
    """Log of Σ w_j ∫ LR(δ) · 2 φ(δ/τ_j)/τ_j dδ over δ > 0, by quadrature around the integrand's peak."""
    for se in (1e-6, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0, 1e3):
        for z in (-37.0, -20.0, -8.0, -3.0, -1.0, 0.0, 0.5, 1.645, 3.0, 5.0, 8.0, 20.0, 37.0):
            total = sum(mp.mpf(weight) * _mixture(mp, z, se, tau) for tau, weight in zip(TAUS, WEIGHTS, strict=True))
            yield a_case("mixture", {"z": z, "se": se, "taus": TAUS, "weights": WEIGHTS}, mp.log(total))


def _mixture(mp: Any, z: float, se: float, tau: float) -> Any:
    score, error, scale = mp.mpf(z), mp.mpf(se), mp.mpf(tau)
    width = 1 / mp.sqrt(1 / error**2 + 1 / scale**2)
    peak = score / error * width**2
    highest = max(
        peak, mp.mpf(0)
    )  # where the integrand is largest: there it counts as 1, for mp.quad's error is absolute
    if peak >= 0:
        points = sorted({mp.mpf(0), *(p for k in (-14, -6, -2, 0, 2, 6, 14) if (p := peak + k * width) > 0)})
    else:
        reach = min(width, error / -score)  # it falls off from zero no slower than exp(−δ/reach)
        points = [k * reach for k in (0, 1, 4, 16, 64, 128)]

    def log_integrand(effect: Any) -> Any:
        return score * effect / error - effect**2 / (2 * error**2) - effect**2 / (2 * scale**2)

    top = log_integrand(highest)
    area = mp.quad(lambda effect: mp.exp(log_integrand(effect) - top), points)
    return 2 / (scale * mp.sqrt(2 * mp.pi)) * mp.exp(top) * area


def _crossings(mp: Any) -> Iterator[Case]:
    """Where ∫ LR(δ) φ(δ/τ)/τ dδ over all δ reaches 1/α; times t's over the normal's quantile at that tail."""
    for tau, se, alpha in (
        (0.05, 1e-3, 0.05),
        (0.05, 0.02, 0.05),
        (0.05, 0.05, 0.01),
        (0.05, 0.5, 0.05),
        (1, 0.2, 0.1),
    ):
        error, scale = mp.mpf(se), mp.mpf(tau)

        def log_martingale(x: Any, error: Any = error, scale: Any = scale) -> Any:
            width = 1 / mp.sqrt(1 / error**2 + 1 / scale**2)
            peak = x / error**2 * width**2
            area = mp.quad(
                lambda d: mp.exp(-((d - peak) ** 2) / (2 * width**2)), [peak + k * width for k in range(-14, 15, 4)]
            )
            return (x / error) ** 2 * (width / error) ** 2 / 2 + mp.log(area / (scale * mp.sqrt(2 * mp.pi)))

        normal = mp.findroot(lambda x, alpha=alpha: log_martingale(x) + mp.log(alpha), 3.5 * error)
        inputs = {"se": se, "tau": tau, "alpha": alpha}
        yield a_case("half width, normal", inputs, normal)
        for degrees in (29, 255):
            score = normal / error
            tail = mp.erfc(score / mp.sqrt(2)) / 2
            quantile = mp.findroot(lambda t, v=degrees, tail=tail: mp.log(_t_tail(mp, t, v) / tail), score * 1.2)
            yield a_case("half width, t", {**inputs, "degrees": degrees}, error * quantile)


def _t_tail(mp: Any, t: Any, degrees: int) -> Any:
    return mp.betainc(mp.mpf(degrees) / 2, mp.mpf(1) / 2, 0, degrees / (degrees + t**2), regularized=True) / 2


def _beta_binomials(mp: Any) -> Iterator[Case]:
    """Log of beta-binomial over binomial likelihood."""
    for share_bp, concentration in (
        (5_000, 1_000),
        (2_500, 1_000),
        (100, 10_000),
        (1, 10_000),
        (9_999, 10_000),
        (9_900, 10_000),
    ):
        share = mp.mpf(share_bp) / 10_000
        a, b = concentration * share, concentration * (1 - share)
        for users in (10, 1_000, 10**5, 10**7, 10**9):
            for factor in (1.0, 1.01, 0.95):
                candidate = min(users, int(users * share_bp / 10_000 * factor))
                stable = users - candidate
                grown = mp.loggamma(a + candidate) + mp.loggamma(b + stable) - mp.loggamma(concentration + users)
                prior = mp.loggamma(a) + mp.loggamma(b) - mp.loggamma(concentration)
                value = grown - prior - candidate * mp.log(share) - stable * mp.log(1 - share)
                yield a_case("split", {"share_bp": share_bp, "users": [stable, candidate]}, value)


def _rates(mp: Any) -> Iterator[Case]:
    """Log of the likelihood of hits under priors cut at the limit, over that at the limit.

    Below it the prior is Beta(1, 1/limit − 1), uniform from a half on; above it half that and half the uniform one.
    """
    for limit in (0.001, 0.2, 0.9):
        own_size = max(mp.mpf(1), 1 / mp.mpf(limit) - 1)
        for trials in (10, 10**4, 10**7):
            for factor in (0.0, 0.5, 1.0, 1.01, 1.1, 3.0):
                hits = round(trials * limit * factor)
                if hits < trials:
                    inputs = {"hits": hits, "trials": trials, "limit": limit}
                    above = [_cut_mixture(mp, hits, trials, limit, b, is_above=True) for b in (own_size, mp.mpf(1))]
                    yield a_case("rate above", inputs, mp.log(sum(above) / 2))
                    below = _cut_mixture(mp, hits, trials, limit, own_size, is_above=False)
                    yield a_case("rate below", inputs, mp.log(below))


def _cut_mixture(mp: Any, hits: int, trials: int, limit: float, b: Any, *, is_above: bool) -> Any:
    """Over Beta(1, b), by quadrature, cut finely around the observed rate and near the limit."""
    at, rate, misses = mp.mpf(limit), mp.mpf(hits) / trials, trials - hits
    low, high = (at, mp.mpf(1)) if is_above else (mp.mpf(0), at)
    width = mp.sqrt(max(rate * (1 - rate), at * (1 - at)) / trials)
    fall = min(width, at * (1 - at) / (trials * abs(at - rate)) if rate != at else width)
    cuts = [rate + k * width for k in range(-20, 21, 4)]
    cuts += [at + k * fall for k in (-243, -81, -27, -9, -3, 3, 9, 27, 81, 243)]

    def integrand(q: Any) -> Any:
        hit = hits * mp.log(q / at) if hits else 0
        return mp.exp(hit + misses * mp.log((1 - q) / (1 - at)) + (b - 1) * mp.log(1 - q))

    inside = [cut for cut in sorted(cuts) if low < cut < high]
    area = mp.quad(integrand, [max(low, min(cuts)), *inside, min(high, max(cuts))])  # beyond is less than exp(−200)
    return area / mp.betainc(1, b, low, high)
