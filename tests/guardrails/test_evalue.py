import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from control_plane.guardrails.evalue import MAX_Z, half_width, log_e, log_mean, rejected, z_of_t

TAUS, WEIGHTS = (0.03, 0.1, 0.4), (0.4, 0.4, 0.2)


def one_log_e(z: float, se: float) -> float:
    return float(log_e(np.array(z), np.array(se), TAUS, WEIGHTS))


def by_integration(z: float, se: float) -> float:
    """The mixture as it is defined: likelihood ratios under half-normal effects."""

    def integrand(effect: float, tau: float) -> float:
        prior = 2 * stats.norm.pdf(effect / tau) / tau
        return float(prior * math.exp(z * effect / se - effect**2 / (2 * se**2)))

    parts = [integrate.quad(integrand, 0, 12 * tau, args=(tau,), limit=400, points=[abs(z) * se])[0] for tau in TAUS]
    return float(np.dot(parts, WEIGHTS))


@pytest.mark.parametrize("se", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("z", [-3.0, 0.0, 1.5, 4.0])
def test_log_e_is_the_mixture_of_likelihood_ratios(z: float, se: float) -> None:
    assert one_log_e(z, se) == pytest.approx(math.log(by_integration(z, se)), abs=1e-5)


@pytest.mark.parametrize("se", [0.003, 0.03, 0.3])
def test_the_expected_e_value_at_the_null_is_one(se: float) -> None:
    z = np.linspace(-12, 12 * max(TAUS) / se + 12, 400_001)

    density = np.exp(stats.norm.logpdf(z) + log_e(z, np.full(z.shape, se), TAUS, WEIGHTS))

    assert integrate.trapezoid(density, z) == pytest.approx(1.0, abs=1e-4)


@given(low=st.floats(-37, 37), high=st.floats(-37, 37), se=st.floats(1e-9, 1e3))
def test_log_e_is_finite_and_grows_with_the_score(low: float, high: float, se: float) -> None:
    less, more = one_log_e(min(low, high), se), one_log_e(max(low, high), se)

    assert math.isfinite(less)
    assert math.isfinite(more)
    assert less <= more + 1e-9


@pytest.mark.parametrize("t", [-6.0, -1.0, 0.0, 0.3, 2.0, 8.0])
def test_z_has_the_same_tail_as_t(t: float) -> None:
    z = float(z_of_t(np.array(t), np.array(29.0)))

    assert stats.norm.logsf(abs(z)) == pytest.approx(stats.t.logsf(abs(t), 29), rel=1e-9)
    assert np.sign(z) == np.sign(t)


@given(t=st.floats(-1e12, 1e12), degrees=st.integers(29, 255))
def test_z_is_odd_in_t_and_clipped(t: float, degrees: int) -> None:
    z, mirrored = z_of_t(np.array([t, -t]), np.full(2, float(degrees)))

    assert z == -mirrored
    assert abs(z) <= min(abs(t) + 1e-9, MAX_Z)


def test_half_width_is_the_confidence_sequence_of_robbins_for_many_buckets() -> None:
    se, alpha, tau = 0.02, 0.05, 0.05
    ratio = tau**2 / se**2

    width = half_width(np.array(se), np.array(1e9), alpha=alpha, tau=tau)

    assert width == pytest.approx(se * math.sqrt((1 + 1 / ratio) * math.log((1 + ratio) / alpha**2)), rel=1e-4)


@pytest.mark.parametrize("se", [1e-9, 1e-3, 0.1, 10.0, 1e6])
def test_half_width_is_positive_finite_and_wider_with_fewer_buckets(se: float) -> None:
    few, many = half_width(np.full(2, se), np.array([29.0, 255.0]), alpha=0.05)

    assert 0 < many < few < math.inf


def test_log_mean_averages_and_counts_missing_weight_as_one() -> None:
    found = log_mean([math.log(10.0), math.log(0.5)], [0.2, 0.3])

    assert found == pytest.approx(math.log(0.2 * 10 + 0.3 * 0.5 + 0.5))


def test_log_mean_survives_values_no_double_can_hold() -> None:
    assert log_mean([5_000.0, -5_000.0], [0.5, 0.5]) == pytest.approx(5_000 + math.log(0.5))


def test_log_mean_of_nothing_is_certainty_of_nothing() -> None:
    assert log_mean([], []) == 0.0


@given(values=st.lists(st.floats(-5, 12), min_size=1, max_size=8), extra=st.integers(0, 5))
def test_rejected_is_the_step_up_rule_of_e_bh(values: list[float], extra: int) -> None:
    num_hypotheses = len(values) + extra
    ranked = sorted(values, reverse=True)
    passing = [k for k, value in enumerate(ranked, 1) if value >= math.log(num_hypotheses / 0.1) - math.log(k)]

    found = rejected(values, num_hypotheses=num_hypotheses)

    assert found.sum() == (sum(value >= ranked[passing[-1] - 1] for value in values) if passing else 0)
