"""The authors' own code for Howard et al. 2021; its intrinsic time v is 1/se², its sum S is z/se."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from control_plane.guardrails.evalue import half_width, log_e
from tests.guardrails.independent.stored import cases


def one_log_e(z: float, se: float, tau: float) -> float:
    return float(log_e(np.array(z), np.array(se), (tau,), (1.0,)))


def test_each_part_of_the_mixture_is_confseqs_one_sided_normal_mixture() -> None:
    for case in cases("confseq", "normal_log_mixture"):
        found = one_log_e(case.inputs["z"], case.inputs["se"], case.inputs["tau"])

        assert found == pytest.approx(case.value, rel=1e-9, abs=1e-9), case.inputs


def test_each_part_crosses_one_in_alpha_at_confseqs_one_sided_boundary() -> None:
    for case in cases("confseq", "normal_mixture_bound"):
        if not case.inputs["is_one_sided"]:
            continue
        se, tau, alpha = (case.inputs[name] for name in ("se", "tau", "alpha"))

        crossing = brentq(lambda z, se=se, tau=tau, alpha=alpha: one_log_e(z, se, tau) + math.log(alpha), 0, 60)

        assert crossing / se == pytest.approx(case.value, rel=1e-6), case.inputs


def test_half_width_is_confseqs_two_sided_boundary_in_units_of_the_effect() -> None:
    for case in cases("confseq", "normal_mixture_bound"):
        if case.inputs["is_one_sided"]:
            continue
        se, tau, alpha = (case.inputs[name] for name in ("se", "tau", "alpha"))

        found = half_width(np.array(se), np.array(math.inf), alpha=alpha, tau=tau)

        assert found == pytest.approx(case.value * se**2, rel=1e-9), case.inputs
