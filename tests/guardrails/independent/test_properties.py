"""What must hold to the last bit of sums, effects and e-values, whatever the sums."""

import math
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from control_plane.domain.split import Arm
from control_plane.guardrails.calibration import Calibrations, calibrations
from control_plane.guardrails.estimate import LogRatios, log_ratios
from control_plane.guardrails.evalue import half_width, log_e, log_mean, rejected, z_of_t

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

TAUS, WEIGHTS = (0.03, 0.1, 0.4), (0.4, 0.4, 0.2)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def sums_2hsak(draw: st.DrawFn) -> IntArray:
    """Numerators and denominators, (2, H, S, A, K): from nearly empty to billions, some strata without an arm."""
    rng = np.random.default_rng(draw(SEEDS))
    hypotheses, strata = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    scale, rate = draw(st.sampled_from([1, 20, 10**4, 10**9])), draw(st.sampled_from([0.0, 0.001, 0.1, 0.9, 1.0]))
    denominator = rng.integers(0, scale, size=(hypotheses, strata, 2, 40), endpoint=True)
    denominator *= rng.random((hypotheses, strata, 2, 1)) < draw(st.sampled_from([0.5, 1.0]))
    return np.stack([rng.binomial(denominator, rate), denominator])


def estimated(sums: IntArray, unit: float = 1.0) -> LogRatios:
    return log_ratios(sums[0], sums[1], np.full(sums.shape[1], unit))


def assert_same_bits(left: LogRatios, right: LogRatios) -> None:
    for name in ("theta_H", "se_H", "buckets_H", "expected_H", "overlap_HS"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), strict=True)


@settings(max_examples=100, deadline=None)
@given(sums=sums_2hsak(), seed=SEEDS, parts=st.integers(2, 6))
def test_sums_merged_in_any_order_and_grouping_give_the_same_bits(sums: IntArray, seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.array([*rng.multinomial(1, np.full(parts, 1 / parts), size=sums.size).T]).reshape(parts, *sums.shape)
    partials = [rows[0] * sums + 7, *(row * sums for row in rows[1:-1]), rows[-1] * sums - 7]

    forwards = reduce(np.add, partials)
    shuffled = reduce(np.add, [partials[k] for k in rng.permutation(parts)])
    nested = partials[0] + reduce(np.add, partials[1:][::-1])

    assert_same_bits(estimated(forwards), estimated(sums))
    assert_same_bits(estimated(shuffled), estimated(sums))
    assert_same_bits(estimated(nested), estimated(sums))


@settings(max_examples=100, deadline=None)
@given(sums=sums_2hsak(), unit=st.sampled_from([1.0, 1e-6, 1e6, 0.37]))
def test_swapping_the_arms_flips_the_effect_exactly_though_sparse_huge_or_half_missing(
    sums: IntArray, unit: float
) -> None:
    found, flipped = estimated(sums, unit), estimated(sums[:, :, :, ::-1], unit)

    np.testing.assert_array_equal(flipped.theta_H, -found.theta_H)
    np.testing.assert_array_equal(flipped.se_H, found.se_H)
    np.testing.assert_array_equal(flipped.buckets_H, found.buckets_H)


@settings(max_examples=60, deadline=None)
@given(sums=sums_2hsak(), seed=SEEDS)
def test_how_buckets_are_numbered_leaves_the_effects_bits_alone(sums: IntArray, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(sums.shape[-1])

    found, renumbered = estimated(sums), estimated(sums[..., order])

    np.testing.assert_array_equal(renumbered.theta_H, found.theta_H)
    np.testing.assert_allclose(renumbered.se_H, found.se_H, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(sums=sums_2hsak(), empty_arm=st.sampled_from(Arm))
def test_a_stratum_that_only_one_arm_lives_in_changes_no_effect(sums: IntArray, empty_arm: Arm) -> None:
    more = np.concatenate([sums, sums[:, :, :1] + 1], axis=2)
    more[:, :, -1, empty_arm] = 0

    found, beside = estimated(sums), estimated(more)

    np.testing.assert_allclose(beside.theta_H, found.theta_H, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(beside.se_H, found.se_H, rtol=1e-9)
    np.testing.assert_array_equal(beside.buckets_H, found.buckets_H)
    assert not beside.overlap_HS[:, -1].any()


@settings(max_examples=60, deadline=None)
@given(sums=sums_2hsak(), at=st.integers(0, 3))
def test_an_empty_hypothesis_changes_no_bit_of_the_others(sums: IntArray, at: int) -> None:
    at = min(at, sums.shape[1])
    found, beside = estimated(sums), estimated(np.insert(sums, at, 0, axis=1))

    assert math.isnan(beside.theta_H[at])
    for name in ("theta_H", "se_H", "buckets_H", "expected_H", "overlap_HS"):
        np.testing.assert_array_equal(np.delete(getattr(beside, name), at, axis=0), getattr(found, name))


@settings(max_examples=60, deadline=None)
@given(sums=sums_2hsak(), scale=st.integers(2, 10**6), unit=st.integers(1, 10**3))
def test_a_currencys_scale_cancels_even_where_half_a_conversion_is_added(sums: IntArray, scale: int, unit: int) -> None:
    rescaled = np.stack([sums[0] * scale, sums[1]])

    found, other = estimated(sums, unit), estimated(rescaled, unit * scale)

    np.testing.assert_allclose(other.theta_H, found.theta_H, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(other.se_H, found.se_H, rtol=1e-7, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(sums=sums_2hsak(), power=st.integers(1, 12))
def test_a_scale_of_a_power_of_two_leaves_expected_conversions_exact(sums: IntArray, power: int) -> None:
    found, other = estimated(sums), estimated(np.stack([sums[0] << power, sums[1]]), float(1 << power))

    np.testing.assert_array_equal(other.expected_H, found.expected_H * (1 << power))
    np.testing.assert_array_equal(other.overlap_HS, found.overlap_HS)
    np.testing.assert_array_equal(np.isnan(other.theta_H), np.isnan(found.theta_H))


@settings(max_examples=60, deadline=None)
@given(sums=sums_2hsak(), at=st.integers(0, 3))
def test_an_empty_segments_calibration_changes_no_bit_of_the_others(sums: IntArray, at: int) -> None:
    matured, clicks = sums[1].sum(axis=(1, 2)), sums[0].sum(axis=(1, 2))
    columns = matured, clicks * 1_100_000, clicks
    at = min(at, len(matured))

    found = calibrations(*columns)
    beside = calibrations(*(np.insert(column, at, 0, axis=0) for column in columns))

    assert math.isnan(beside.log_ratio_H[at])
    for name in Calibrations.__dataclass_fields__:
        np.testing.assert_array_equal(np.delete(getattr(beside, name), at), getattr(found, name))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, size=st.integers(1, 70))
def test_an_e_value_is_the_same_to_the_last_bit_whatever_is_computed_beside_it(seed: int, size: int) -> None:
    """Vector units take numbers by eights and the rest by ones: neither may round differently."""
    rng = np.random.default_rng(seed)
    t, se = rng.standard_t(3, size=size) * 4, np.exp(rng.normal(-3, 3, size=size))
    degrees = rng.integers(29, 256, size=size).astype(np.float64)

    def numbers(rows: slice) -> FloatArray:
        z = z_of_t(t[rows], degrees[rows])
        return np.stack([z, log_e(z, se[rows], TAUS, WEIGHTS), half_width(se[rows], degrees[rows], alpha=0.05)])

    together = numbers(slice(None))

    alone = np.concatenate([numbers(slice(k, k + 1)) for k in range(size)], axis=1)
    np.testing.assert_array_equal(alone, together)


@given(se=st.floats(1e-9, 1e3), degrees=st.integers(29, 255))
def test_no_effect_is_no_evidence(se: float, degrees: int) -> None:
    """NaN stays NaN, which no threshold is below: it neither alarms nor opens a gate."""
    z = z_of_t(np.array(math.nan), np.array(float(degrees)))
    found = float(log_e(z, np.array(se), TAUS, WEIGHTS))

    assert math.isnan(found)
    assert not found >= -math.inf


@given(values=st.lists(st.floats(-50, 50), max_size=6), empty=st.integers(0, 6))
def test_hypotheses_without_data_are_worth_one_each_in_the_mean(values: list[float], empty: int) -> None:
    weight = 1 / 12

    named = log_mean([*values, *[0.0] * empty], [weight] * (len(values) + empty))

    assert named == pytest.approx(log_mean(values, [weight] * len(values)), abs=1e-12)


@given(values=st.lists(st.floats(-5, 12), min_size=1, max_size=8), empty=st.integers(1, 8))
def test_hypotheses_without_data_name_no_culprit_and_clear_none(values: list[float], empty: int) -> None:
    num_hypotheses = len(values) + empty

    found = rejected([*values, *[0.0] * empty], num_hypotheses=num_hypotheses)

    assert not found[len(values) :].any()
    np.testing.assert_array_equal(found[: len(values)], rejected(values, num_hypotheses=num_hypotheses))
