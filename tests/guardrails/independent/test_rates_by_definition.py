"""E-values of rare hits against their limit, by quadrature over the rates that the prior allows."""

import pytest

from control_plane.guardrails.rates import log_e_above, log_e_below
from tests.guardrails.independent.stored import cases


def test_the_e_value_above_a_limit_is_the_mixture_of_likelihood_ratios_over_higher_rates() -> None:
    for case in cases("mpmath", "rate above"):
        assert log_e_above(**case.inputs) == pytest.approx(case.value, rel=1e-9, abs=1e-7), case.inputs


def test_the_e_value_below_a_limit_is_the_mixture_of_likelihood_ratios_over_lower_rates() -> None:
    for case in cases("mpmath", "rate below"):
        assert log_e_below(**case.inputs) == pytest.approx(case.value, rel=1e-9, abs=1e-7), case.inputs
