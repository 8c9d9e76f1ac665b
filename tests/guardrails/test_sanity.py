from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from control_plane.domain.errors import InvalidMoments
from control_plane.domain.moments import Measure, Moments, PairMeasure, ServingCounts, Stratum
from control_plane.guardrails.sanity import check_moments, is_possible
from tests.guardrails.builders import empty_moments, plane, shadow_moments, simulated_moments


def some_moments() -> Moments:
    return simulated_moments(np.random.default_rng(1), shares_bp=(1_000, 2_500))


def with_sum(measure: Measure, value: int) -> Moments:
    moments = some_moments()
    plane(moments, measure)[1, 0, 1, 7] = value
    return moments


def with_pair(measure: PairMeasure, value: int) -> Moments:
    moments = shadow_moments(np.random.default_rng(1))
    moments.pairs_GKP[0, 3, measure] = value
    return moments


def with_draw(**overrides: Any) -> Moments:
    moments = some_moments()
    first, *others = moments.draws
    return replace(moments, draws=(replace(first, **overrides), *others))


def with_nan() -> Moments:
    moments = some_moments()
    broken: Any = moments.counts_MGSAK * np.nan
    return replace(moments, counts_MGSAK=broken)


def test_moments_of_every_kind_that_can_be_are_taken() -> None:
    for moments in (some_moments(), shadow_moments(np.random.default_rng(2)), empty_moments()):
        check_moments(moments)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: with_sum(Measure.IMPRESSIONS, -1), "counts_MGSAK"),
        (lambda: with_sum(Measure.CLICK, 10**7), "counts_MGSAK.CLICK"),
        (lambda: with_sum(Measure.MATURED_HIDE, 10**7), "counts_MGSAK.MATURED_HIDE"),
        (lambda: with_sum(Measure.SCORE, 10**14), "values_MGSAK.SCORE"),
        (lambda: with_sum(Measure.REVENUE, 2**62), "values_MGSAK"),
        (lambda: with_sum(Measure.IMPRESSIONS, 10**6), "counts_MGSAK.IMPRESSIONS"),
        (lambda: with_pair(PairMeasure.CLICK, 10**6), "pairs_GKP.CLICK"),
        (lambda: with_pair(PairMeasure.BRIER_STABLE, -1), "pairs_GKP"),
        (lambda: with_pair(PairMeasure.SCORE_CANDIDATE, 10**12), "pairs_GKP.SCORE_CANDIDATE"),
        (lambda: replace(some_moments(), segments=("grid", "*", "closeup")), "segments"),
        (lambda: replace(some_moments(), segments=("*", "grid", "grid")), "segments"),
        (lambda: replace(some_moments(), strata=some_moments().strata[::-1]), "strata"),
        (lambda: replace(some_moments(), strata=some_moments().strata[:1]), "counts_MGSAK"),
        (lambda: replace(some_moments(), users_A=(-1, 0)), "users_A"),
        (lambda: replace(some_moments(), users_A=(10, 10)), "draws"),
        (lambda: replace(some_moments(), draws=some_moments().draws[::-1]), "draws"),
        (lambda: with_draw(above_bp=1_000), "draws"),
        (lambda: with_draw(candidate_bp=2_000), "draws"),
        (lambda: with_draw(generation=7), "draws"),
        (lambda: with_draw(stable=-1), "draws"),
        (lambda: with_draw(candidate=0.5), "draws"),
        (lambda: replace(some_moments(), cross_exposed_users=10**9), "cross_exposed_users"),
        (lambda: with_nan(), "counts_MGSAK"),
        (lambda: replace(some_moments(), counts_MGSAK=some_moments().counts_MGSAK.astype(np.int64)), "counts_MGSAK"),
        (lambda: replace(some_moments(), pairs_GKP=some_moments().pairs_GKP[:, :9]), "pairs_GKP"),
    ],
)
def test_sums_no_log_can_have_are_refused_by_field(build: Callable[[], Any], field: str) -> None:
    with pytest.raises(InvalidMoments) as refused:
        check_moments(build())

    assert refused.value.field == field


def test_a_share_beyond_all_traffic_is_refused() -> None:
    with pytest.raises(InvalidMoments, match="candidate_bp"):
        check_moments(empty_moments(strata=(Stratum(day=1, generation=1, candidate_bp=10_001),)))


def test_a_log_ratio_of_scores_may_be_negative() -> None:
    check_moments(with_pair(PairMeasure.LOG_RATIO, -5_000_000))


def test_counts_below_nothing_are_impossible() -> None:
    assert is_possible(ServingCounts(requests=5, errors=5))
    assert not is_possible(ServingCounts(errors=-1))
