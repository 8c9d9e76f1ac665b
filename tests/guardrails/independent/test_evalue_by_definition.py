"""E-values against quadrature, urns and root-finding: the definitions, as mpmath computes them."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.guardrails.evalue import CULPRIT_FDR, MAX_Z, half_width, log_e, log_mean, rejected, z_of_t
from control_plane.guardrails.sample_ratio import log_e_sample_ratio
from tests.guardrails.builders import a_draw
from tests.guardrails.independent import by_definition
from tests.guardrails.independent.stored import Case, cases

NEARLY_ALL_BP = 9_900


def test_z_has_ts_tail_to_thirteen_digits_as_far_as_either_is_told_from_none() -> None:
    for case in cases("mpmath", "z of t"):
        t, degrees = np.array([case.inputs["t"], -case.inputs["t"]]), np.full(2, float(case.inputs["degrees"]))

        upper, lower = z_of_t(t, degrees)

        assert upper == pytest.approx(min(case.value, MAX_Z), rel=1e-12, abs=1e-15), case.inputs
        assert lower == -upper


def test_log_e_is_the_integral_over_half_normal_effects_whatever_the_information() -> None:
    for case in cases("mpmath", "mixture"):
        z, se = np.array(case.inputs["z"]), np.array(case.inputs["se"])

        found = log_e(z, se, case.inputs["taus"], case.inputs["weights"])

        assert found == pytest.approx(case.value, rel=1e-12, abs=1e-12), case.inputs


def test_half_width_is_where_the_two_sided_mixture_reaches_one_in_alpha() -> None:
    for case in cases("mpmath", "half width, normal"):
        se, alpha, tau = (case.inputs[name] for name in ("se", "alpha", "tau"))

        assert half_width(np.array(se), np.array(math.inf), alpha=alpha, tau=tau) == pytest.approx(
            case.value, rel=1e-12
        )


def test_with_few_buckets_half_width_is_at_the_t_quantile_of_the_same_tail() -> None:
    for case in cases("mpmath", "half width, t"):
        se, alpha, tau, degrees = (case.inputs[name] for name in ("se", "alpha", "tau", "degrees"))

        found = half_width(np.array(se), np.array(float(degrees)), alpha=alpha, tau=tau)

        assert found == pytest.approx(case.value, rel=1e-10), case.inputs


@pytest.mark.parametrize(("share_bp", "concentration"), [(5_000, 1_000), (2_500, 1_000), (100, 10_000)])
def test_the_split_is_tested_by_the_product_of_what_an_urn_foretells_whatever_the_order(
    share_bp: int, concentration: int
) -> None:
    share, rng = Fraction(share_bp, 10_000), np.random.default_rng(share_bp)
    arrivals = (rng.random(400) < 1.3 * share_bp / 10_000).tolist()

    in_order, reversed_ = (
        by_definition.predictive_product(share, concentration, users) for users in (arrivals, arrivals[::-1])
    )
    draw = a_draw(share_bp, arrivals.count(False), arrivals.count(True))

    assert in_order == reversed_
    assert log_e_sample_ratio([draw]) == pytest.approx(math.log(in_order), abs=1e-10)


def test_the_splits_log_e_loses_no_digit_that_matters_with_a_billion_users() -> None:
    """Differences of log-gammas near 2e10: at 1e9 users rounding is a few millionths; the threshold is log 1000."""
    for case in cases("mpmath", "split"):
        if case.inputs["share_bp"] != NEARLY_ALL_BP:
            assert_split(case)


def test_a_stable_of_one_per_cent_is_tested_like_a_candidate_of_one_per_cent() -> None:
    for case in cases("mpmath", "split"):
        if case.inputs["share_bp"] == NEARLY_ALL_BP:
            assert_split(case)


@given(
    halves=st.lists(st.integers(0, 4_000), min_size=1, max_size=10),
    extra=st.integers(0, 6),
)
def test_e_bh_by_its_definition_in_exact_fractions(halves: list[int], extra: int) -> None:
    """Bars are K·10/k; odd halves keep the values off them, where a logarithm's last bit would decide."""
    e_values = [Fraction(2 * half + 1, 2 * 7_919) * 1_000 for half in halves]
    num_hypotheses = len(halves) + extra

    found = rejected([math.log(e) for e in e_values], num_hypotheses=num_hypotheses)

    fdr = Fraction(CULPRIT_FDR).limit_denominator(1_000)
    assert found.tolist() == by_definition.e_bh(e_values, num_hypotheses, fdr)


@given(values=st.lists(st.fractions(0, 10**6).filter(lambda e: e > 0), max_size=8))
def test_the_mean_of_e_values_is_a_mean(values: list[Fraction]) -> None:
    weight = Fraction(1, 10)

    expected = sum((weight * e for e in values), start=1 - weight * len(values))

    found = log_mean([math.log(e) for e in values], [0.1] * len(values))
    assert found == pytest.approx(math.log(expected), abs=1e-12)


def assert_split(case: Case) -> None:
    users = case.inputs["users"]

    found = log_e_sample_ratio([a_draw(case.inputs["share_bp"], *users)])

    assert found == pytest.approx(case.value, rel=1e-12, abs=max(1e-10, 1e-14 * sum(users))), case.inputs
