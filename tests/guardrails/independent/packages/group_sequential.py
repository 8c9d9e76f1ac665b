"""gsdesign: the recursive integration of gsDesign, and the published constants that it is checked with."""

import math
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from tests.guardrails.independent.packages.case import Case, a_case

TAUS, WEIGHTS, ALPHA = (0.03, 0.1, 0.4), (0.4, 0.4, 0.2), 0.05

FIVE_LOOKS = {  # Jennison & Turnbull, Group Sequential Methods, 2000, tables 2.1 and 2.3: two-sided, 5 looks
    "Pocock": {0.05: 2.413, 0.1: 2.122},
    "O'Brien–Fleming": {0.05: 2.040, 0.1: 1.751},
}

GRID = 160  # gsDesign's r; at 80 the figures differ by 5e-8
FAR_BELOW = -8.0  # in place of −∞, where gsDesign's grid is too coarse for 200 looks


def gsdesign() -> Iterator[Case]:
    gs = import_module("gsdesign")
    for design, constants in FIVE_LOOKS.items():
        for alpha, constant in constants.items():
            slope = 0.5 if design.startswith("O'Brien") else 0.0
            bounds = [constant * (5 / look) ** slope for look in range(1, 6)]
            crossed = 1 - _staying(gs, [k / 5 for k in range(1, 6)], bounds, [-b for b in bounds])[-1]
            yield a_case("crossing, published", {"design": design, "alpha": alpha, "bounds": bounds}, crossed)
    for last_se in (0.1, 0.02, 0.005):
        for looks in (5, 50, 200):
            infos = [k / looks / last_se**2 for k in range(1, looks + 1)]
            bounds = [_bound(info**-0.5) for info in infos]
            crossed = 1 - _staying(gs, infos, bounds)[-1]
            yield a_case("crossing, e-process", {"last_se": last_se, "looks": looks, "bounds": bounds}, crossed)
    for effect in (-0.03, -0.05, -0.1):
        distance = math.log(0.99) - math.log1p(effect)
        fixed = ((1.959963984540054 + 0.8416212335729143) / distance) ** 2  # two-sided 5 %, power 80 %
        infos = [fixed * k / 50 for k in range(1, 151)]
        bounds = [_bound(info**-0.5) for info in infos]
        staying = _staying(gs, infos, bounds, drift=distance)
        value = {
            f"{horizon:.2f}": 1 - staying[round(horizon * 50) - 1] for horizon in (0.5, 1.0, 1.2, 1.3, 2.0, 2.8, 2.9)
        }
        yield a_case("crossing by multiples of the fixed horizon", {"effect": effect, "harm_margin": 0.01}, value)


def _staying(
    gs: Any, infos: list[float], highs: list[float], lows: list[float] | None = None, *, drift: float = 0.0
) -> list[float]:
    """Chance of having stayed inside the bounds, after each look."""
    lows = lows or [FAR_BELOW] * len(highs)
    state = gs.h1(r=GRID, theta=drift, info=infos[0], a=lows[0], b=highs[0])
    staying = [float(state[2].sum())]
    for k in range(1, len(infos)):
        state = gs.hupdate(GRID, drift, infos[k], lows[k], highs[k], drift, infos[k - 1], state)
        staying.append(float(state[2].sum()))
    return staying


def _bound(se: float) -> float:
    """The score at which the mixture over `TAUS` reaches 1/`ALPHA`, by bisection on its closed form."""
    low, high = 0.0, 60.0
    for _ in range(200):
        middle = (low + high) / 2
        total = 0.0
        for tau, weight in zip(TAUS, WEIGHTS, strict=True):
            shrink = tau**2 / (tau**2 + se**2)
            score = middle * math.sqrt(shrink)
            total += (
                weight * math.sqrt(1 - shrink) * math.exp(min(700.0, score**2 / 2)) * math.erfc(-score / math.sqrt(2))
            )
        low, high = (middle, high) if total < 1 / ALPHA else (low, middle)
    return low
