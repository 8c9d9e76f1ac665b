"""confseq: uniform boundaries by the authors of Howard et al. 2021."""

import math
from collections.abc import Iterator
from importlib import import_module

from tests.guardrails.independent.packages.case import Case, a_case

TAUS, ALPHA = (0.03, 0.1, 0.4), 0.05


def confseq() -> Iterator[Case]:
    boundaries = import_module("confseq.boundaries")
    for tau in TAUS:
        for se in (0.003, 0.01, 0.03, 0.1, 0.3):
            common = {"v": se**-2, "v_opt": _v_opt(tau, 2 * ALPHA), "alpha_opt": ALPHA, "is_one_sided": True}
            for z in (-30.0, -8.0, -2.0, 0.0, 1.0, 2.5, 5.0, 30.0):
                value = boundaries.normal_log_mixture(s=z / se, **common)
                yield a_case("normal_log_mixture", {"z": z, "se": se, "tau": tau, **common, "s": z / se}, value)
            value = boundaries.normal_mixture_bound(alpha=ALPHA, **common)
            yield a_case("normal_mixture_bound", {"se": se, "tau": tau, "alpha": ALPHA, **common}, value)
            common |= {"v_opt": _v_opt(tau, ALPHA), "is_one_sided": False}
            value = boundaries.normal_mixture_bound(alpha=ALPHA, **common)
            yield a_case("normal_mixture_bound", {"se": se, "tau": tau, "alpha": ALPHA, **common}, value)


def _v_opt(tau: float, alpha: float) -> float:
    """The intrinsic time for which confseq picks the mixing variance τ² (its `best_rho`, solved for v)."""
    log_odds = 2 * math.log(1 / alpha)
    return (log_odds + math.log1p(log_odds)) / tau**2
