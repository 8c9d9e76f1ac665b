import numpy as np
import pytest

from control_plane.domain.moments import Measure, Moments, PairMeasure
from control_plane.domain.split import Arm
from control_plane.guardrails.sanity import check_moments
from control_plane.rehearsal.traffic import DAY_MS, Audience, Effects, Traffic
from tests.guardrails.builders import sums_of

MONDAY = 20_003
AUDIENCE = Audience(users=5_000, ctr=0.1)


def served(effects: Effects | None = None, *, seed: int = 1, days: int = 4, share_bp: int = 5_000) -> Moments:
    traffic = Traffic(AUDIENCE, effects or Effects(), seed=seed, started_at_ms=MONDAY * DAY_MS)
    traffic.serve(until_ms=(MONDAY + 1) * DAY_MS, generation=1, candidate_bp=0, shadow_bp=10_000)
    traffic.serve(until_ms=(MONDAY + 1 + days) * DAY_MS, generation=2, candidate_bp=share_bp)
    return traffic.moments()


def rate(moments: Moments, arm: Arm, measure: Measure, over: Measure = Measure.IMPRESSIONS) -> float:
    sums_M = sums_of(moments)[0, :, arm].sum(axis=(0, 1))
    return float(sums_M[measure] / sums_M[over])


def test_simulated_sums_are_sums_that_can_be() -> None:
    check_moments(served(Effects(ctr=-0.1, prediction=0.3, score_noise=0.2)))


def test_before_anyone_came_there_is_nothing() -> None:
    moments = Traffic(AUDIENCE, Effects(), seed=1, started_at_ms=0).moments()

    check_moments(moments)
    assert moments.strata == ()
    assert moments.newest_event_ms is None


def test_equal_seeds_are_equal_traffic() -> None:
    first, again, other = served(), served(), served(seed=2)

    np.testing.assert_array_equal(sums_of(first), sums_of(again))
    assert not np.array_equal(sums_of(first), sums_of(other))


def test_every_day_and_generation_is_a_stratum_of_its_own() -> None:
    strata = served(days=2).strata

    assert [(s.day - MONDAY, s.generation, s.candidate_bp) for s in strata] == [(0, 1, 0), (1, 2, 5_000), (2, 2, 5_000)]


def test_users_come_back_and_stay_in_their_arm() -> None:
    moments = served()

    assert sum(moments.users_A) <= AUDIENCE.users + min(moments.users_A)
    assert moments.first_exposures_SA.sum() <= AUDIENCE.users
    assert moments.sums_of(Measure.IMPRESSIONS)[0].sum() > 5 * AUDIENCE.users
    assert moments.cross_exposed_users == 0


def test_view_types_together_are_the_surface() -> None:
    moments = served()

    np.testing.assert_array_equal(sums_of(moments)[0], sums_of(moments)[1:].sum(axis=0))
    np.testing.assert_array_equal(moments.pairs_GKP[0], moments.pairs_GKP[1:].sum(axis=0))


def test_the_injected_effect_is_what_the_candidate_does() -> None:
    moments = served(Effects(ctr=-0.3), days=8)

    assert rate(moments, Arm.CANDIDATE, Measure.CLICK) / rate(moments, Arm.STABLE, Measure.CLICK) == pytest.approx(
        0.7, abs=0.07
    )


def test_the_injected_prediction_is_beyond_what_comes() -> None:
    moments = served(Effects(ctr=-0.2, prediction=0.25), days=8)

    over = rate(moments, Arm.CANDIDATE, Measure.SCORE, Measure.CLICK) / 1e6

    assert over == pytest.approx(1.25, abs=0.08)


def test_the_shadow_pairs_both_models_on_what_stable_served() -> None:
    pairs_P = served(Effects(prediction=0.25)).pairs_GKP[0].sum(axis=0)

    assert pairs_P[PairMeasure.PAIRS] > 1_000
    assert pairs_P[PairMeasure.SCORE_CANDIDATE] / pairs_P[PairMeasure.SCORE_STABLE] == pytest.approx(1.25, rel=1e-3)
    assert pairs_P[PairMeasure.LOG_LOSS_CANDIDATE] > pairs_P[PairMeasure.LOG_LOSS_STABLE]
