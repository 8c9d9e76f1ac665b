"""Boundary-crossing chances by gsDesign's recursive integration over Brownian motion: no simulation, no error bars.

The e-process must hold its error at looks without end, a group-sequential design at the planned ones only. So they are
not equal; what can be compared is what each look of ours asks for, and how often chance alone meets it.
"""

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from control_plane.guardrails.evalue import log_e
from tests.guardrails.independent.stored import cases

TAUS, WEIGHTS, ALPHA = (0.03, 0.1, 0.4), (0.4, 0.4, 0.2), 0.05
POCOCK_FIVE_LOOKS_ONE_SIDED = 2.122  # Jennison & Turnbull 2000, table 2.1, two-sided .1


def bounds(last_se: float, looks: int) -> list[float]:
    """The score that each of equally spaced looks asks for."""

    def excess(z: float, se: float) -> float:
        return float(log_e(np.array(z), np.array(se), TAUS, WEIGHTS)) + math.log(ALPHA)

    return [brentq(excess, 0, 36, args=(last_se * math.sqrt(looks / look),)) for look in range(1, looks + 1)]


def test_the_integration_finds_the_published_errors_of_pocock_and_of_obrien_and_fleming() -> None:
    """Jennison & Turnbull's constants have three decimals, which are worth a few units of the fifth in the error."""
    for case in cases("gsdesign", "crossing, published"):
        assert case.value == pytest.approx(case.inputs["alpha"], abs=1e-4), case.inputs["design"]


def test_the_bounds_that_were_integrated_are_those_of_log_e() -> None:
    for case in cases("gsdesign", "crossing, e-process"):
        expected = case.inputs["bounds"]

        assert bounds(case.inputs["last_se"], case.inputs["looks"]) == pytest.approx(expected, rel=1e-9)


def test_chance_alone_reaches_the_bounds_in_fewer_than_one_in_twenty_and_more_often_with_more_looks() -> None:
    for last_se in (0.1, 0.02, 0.005):
        crossed = [c.value for c in cases("gsdesign", "crossing, e-process") if c.inputs["last_se"] == last_se]

        assert 0 < crossed[0] < crossed[1] < crossed[2] < ALPHA / 2


def test_no_look_asks_for_less_than_pococks_five_look_design() -> None:
    for case in cases("gsdesign", "crossing, e-process"):
        assert min(case.inputs["bounds"]) > POCOCK_FIVE_LOOKS_ONE_SIDED


def test_the_last_of_five_looks_asks_for_more_than_obrien_and_flemings() -> None:
    """Their first looks ask for more than ours: they save their error for the end, we have no end to save it for."""
    (published,) = (
        case.inputs["bounds"]
        for case in cases("gsdesign", "crossing, published")
        if case.inputs["alpha"] == 0.1 and case.inputs["design"].startswith("O'Brien")
    )

    for last_se in (0.1, 0.02, 0.005):
        assert all(ours > theirs for ours, theirs in zip(bounds(last_se, 5)[1:], published[1:], strict=True))


@pytest.mark.parametrize(("effect", "index"), [(-0.03, 0), (-0.05, 1), (-0.1, 2)])
def test_harm_is_found_as_soon_as_the_bars_ask_for_where_the_theory_is_exact(effect: float, index: int) -> None:
    """One hypothesis alone, known variance, 50 looks per fixed horizon (two-sided 5 %, power 80 %)."""
    case = cases("gsdesign", "crossing by multiples")[index]

    assert case.inputs["effect"] == effect
    assert case.value["1.20"] > 0.5
    assert case.value["2.80"] > 0.9
