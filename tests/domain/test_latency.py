from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.latency import LATENCY_BOUNDS_MS, NUM_LATENCY_BINS, latency_bin, quantile_ms, slower_than

BINS = st.lists(st.integers(0, 1_000), min_size=NUM_LATENCY_BINS, max_size=NUM_LATENCY_BINS)


def bins_of(*milliseconds: float) -> list[int]:
    bins = [0] * NUM_LATENCY_BINS
    for each in milliseconds:
        bins[latency_bin(each)] += 1
    return bins


def test_bounds_ascend_by_a_fourth_or_so_and_hold_the_limits_that_people_set() -> None:
    assert all(1.19 < above / below < 1.29 for below, above in pairwise(LATENCY_BOUNDS_MS))
    assert {1.0, 2.0, 5.0, 10.0, 20.0, 25.0, 40.0, 50.0, 100.0, 200.0, 250.0, 500.0, 1_000.0} <= set(LATENCY_BOUNDS_MS)


def test_what_took_longer_than_a_bound_is_counted_exactly() -> None:
    slower = slower_than(bins_of(39.0, 40.0, 40.001, 90.0), 40.0)

    assert (slower.surely, slower.possibly, slower.is_exact) == (2, 2, True)


def test_what_took_longer_than_a_limit_within_a_bin_lies_between_its_bounds() -> None:
    slower = slower_than(bins_of(24.0, 26.0, 31.0, 32.0), 30.0)

    assert (slower.surely, slower.possibly) == (1, 3)
    assert (slower.low_ms, slower.high_ms, slower.is_exact) == (25.0, 31.5, False)


def test_beyond_the_last_bound_nothing_is_surely_longer() -> None:
    slower = slower_than(bins_of(9_000.0, 50_000.0), 10_000.0)

    assert (slower.surely, slower.possibly, slower.low_ms, slower.high_ms) == (0, 2, 8_000.0, float("inf"))


@given(values=st.lists(st.floats(0, 1e5), max_size=60), limit=st.floats(0.01, 2e4))
def test_the_true_count_lies_between_what_is_surely_and_possibly_longer(values: list[float], limit: float) -> None:
    slower = slower_than(bins_of(*values), limit)

    assert slower.surely <= sum(value > limit for value in values) <= slower.possibly


@pytest.mark.parametrize(("share", "expected"), [(0.5, 10.0), (0.75, 40.0), (0.99, 100.0)])
def test_a_quantile_is_told_by_the_upper_bound_of_its_bin(share: float, expected: float) -> None:
    assert quantile_ms(bins_of(9.0, 10.0, 36.0, 99.0), share) == expected


def test_a_quantile_of_nothing_or_beyond_all_bounds_is_not_known() -> None:
    assert quantile_ms([0] * NUM_LATENCY_BINS, 0.5) is None
    assert quantile_ms((), 0.5) is None
    assert quantile_ms(bins_of(9_000.0), 0.5) is None


@given(bins=BINS, limit=st.sampled_from(LATENCY_BOUNDS_MS))
def test_a_quantile_is_at_most_a_bound_where_few_enough_took_longer(bins: list[int], limit: float) -> None:
    value = quantile_ms(bins, 0.99)
    if sum(bins):
        is_within = value is not None and value <= limit
        assert is_within == (slower_than(bins, limit).surely <= (1 - 0.99) * sum(bins) + 1e-9)
