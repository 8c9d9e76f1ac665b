import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logsumexp

from control_plane.guardrails.rates import log_e_above, log_e_below

LIMITS = st.floats(1e-5, 1 - 1e-5)
TRIALS = st.integers(1, 10_000_000)
PARTS = st.floats(0, 1)


def by_quadrature(hits: float, trials: int, limit: float, *, above: bool) -> float:
    """The mixture's integral by the trapezoidal rule in log space, on a grid dense at the limit and at the mean."""
    low, high = (limit, 1.0) if above else (0.0, limit)
    mean = min(max(hits / trials, 1e-12), 1 - 1e-12)
    spread = math.sqrt(max(mean * (1 - mean), 1 / trials) / trials)
    steps = np.geomspace(1e-12, 1, 30_001) * (high - low)
    around = mean + spread * np.linspace(-40, 40, 30_001)
    grid = np.unique(np.concatenate([np.linspace(low, high, 30_001), around, low + steps, high - steps]))
    rate_Q = grid[(grid >= low) & (grid <= high) & (grid > 0) & (grid < 1)]
    log_ratio_Q = hits * np.log(rate_Q / limit) + (trials - hits) * (np.log1p(-rate_Q) - math.log1p(-limit))
    near_Q, far_Q = (max(1.0, 1 / limit - 1) - 1) * np.log1p(-rate_Q), np.zeros_like(rate_Q)
    mixed = [
        _log_integral(rate_Q, log_ratio_Q + log_prior_Q) - _log_integral(rate_Q, log_prior_Q)
        for log_prior_Q in ((near_Q, far_Q) if above else (near_Q,))
    ]
    return float(logsumexp(mixed)) - math.log(len(mixed))


def _log_integral(rate_Q: NDArray[np.float64], log_value_Q: NDArray[np.float64]) -> float:
    log_width = np.log(np.diff(rate_Q)) - math.log(2)
    return float(logsumexp(np.concatenate([log_value_Q[1:] + log_width, log_value_Q[:-1] + log_width])))


@pytest.mark.parametrize("limit", [1e-4, 0.01, 0.3, 0.5, 0.95])
@pytest.mark.parametrize("trials", [1, 3_000, 200_000, 5_000_000])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.02, 3.0])
def test_both_sides_agree_with_quadrature(limit: float, trials: int, ratio: float) -> None:
    hits = min(trials * limit * ratio, float(trials))

    for log_e, above in ((log_e_above, True), (log_e_below, False)):
        expected = by_quadrature(hits, trials, limit, above=above)
        assert log_e(hits, trials, limit) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("trials", [1, 7, 400])
def test_hits_alone_against_a_half_have_a_closed_form(trials: int) -> None:
    expected = math.log(2 * (1 - 0.5 ** (trials + 1)) / (trials + 1)) + trials * math.log(2)

    assert log_e_above(trials, trials, 0.5) == pytest.approx(expected)
    assert log_e_below(0, trials, 0.5) == pytest.approx(expected)


@given(hits=PARTS, trials=st.integers(1, 3_000), limit=LIMITS)
def test_at_the_limit_the_next_trial_changes_nothing_on_average(hits: float, trials: int, limit: float) -> None:
    """The martingale that makes every look valid."""
    hits = hits * trials
    for log_e in (log_e_above, log_e_below):
        now, hit, missed = (
            log_e(hits, trials, limit),
            log_e(hits + 1, trials + 1, limit),
            log_e(hits, trials + 1, limit),
        )
        expected = np.logaddexp(hit + math.log(limit), missed + math.log1p(-limit))
        assert now == pytest.approx(expected, rel=1e-9, abs=1e-7)


@given(part=st.floats(0.001, 0.999), hits=PARTS, trials=st.integers(1, 3_000), limit=LIMITS)
def test_a_trial_that_hits_in_part_weighs_no_more_than_whole_ones_of_the_same_mean(
    part: float, hits: float, trials: int, limit: float
) -> None:
    hits = hits * trials
    for log_e in (log_e_above, log_e_below):
        missed, hit = log_e(hits, trials + 1, limit), log_e(hits + 1, trials + 1, limit)
        whole = np.logaddexp(missed + math.log1p(-part), hit + math.log(part))
        assert log_e(hits + part, trials + 1, limit) <= whole + 1e-7 * max(1, abs(whole))


@given(trials=TRIALS, limit=LIMITS, parts=st.tuples(PARTS, PARTS))
def test_more_hits_speak_more_for_above_and_less_for_below(
    trials: int, limit: float, parts: tuple[float, float]
) -> None:
    fewer, more = (part * trials for part in sorted(parts))
    slack = 1e-9 * trials

    assert log_e_above(fewer, trials, limit) <= log_e_above(more, trials, limit) + slack
    assert log_e_below(fewer, trials, limit) >= log_e_below(more, trials, limit) - slack


@example(trials=1_839_783_776_627_316_992, part=0.523167040006107, limit=0.523167040006107)
@given(trials=st.integers(0, 2**62), part=PARTS, limit=st.floats(0, 2))
def test_both_sides_are_finite_whatever_is_counted(trials: int, part: float, limit: float) -> None:
    assert math.isfinite(log_e_above(trials * part, trials, limit))
    assert math.isfinite(log_e_below(trials * part, trials, limit))


def test_where_nothing_is_allowed_one_hit_speaks_and_none_never_does() -> None:
    assert log_e_above(1, 100, 0.0) > math.log(1_000)
    assert log_e_above(0, 100, 0.0) < 0
    assert log_e_below(0, 100, 0.0) == 0


def test_where_everything_is_allowed_nothing_speaks_against_it() -> None:
    assert log_e_above(100, 100, 1.0) == 0
    assert log_e_below(99, 100, 1.0) > math.log(1_000)


def test_nothing_counted_says_nothing() -> None:
    assert log_e_above(0, 0, 0.5) == log_e_below(0, 0, 0.5) == 0.0


def test_rates_far_beyond_a_small_limit_are_found_by_a_handful_of_hits() -> None:
    """Four of 1 000 where a tenth of one is allowed: a prior of the limit's size alone gives 13."""
    assert log_e_above(4, 1_000, 1e-4) > math.log(150)
