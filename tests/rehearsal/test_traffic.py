import math
from dataclasses import replace

import numpy as np
import pytest

from control_plane.domain.events import Label
from control_plane.domain.moments import (
    NUM_COARSE_BUCKETS,
    Measure,
    Moments,
    PairMeasure,
    ReliabilityMeasure,
)
from control_plane.domain.plan import DAY
from control_plane.domain.split import NUM_BUCKETS, Arm
from control_plane.guardrails.sample_ratio import log_e_sample_ratio
from control_plane.guardrails.sanity import check_moments
from control_plane.rehearsal.audience import DAY_MS, Audience, Effects, Faults
from control_plane.rehearsal.traffic import SPARE_DAYS, Traffic
from tests.builders import a_plan
from tests.guardrails.builders import sums_of
from tests.rehearsal.user_by_user import simulate, splits_of

MONDAY = 20_003
AUDIENCE = Audience(users=5_000, ctr=0.1, impressions_per_day=3.0)
PLAN = a_plan(guardrails=[{"metric": "ctr"}, {"metric": "good_click_rate", "window": "2h"}])


def some_traffic(
    effects: Effects | None = None,
    faults: Faults | None = None,
    *,
    seed: int = 1,
    audience: Audience = AUDIENCE,
    **plan: object,
) -> Traffic:
    started = a_plan(**plan) if plan else PLAN
    return Traffic(started, audience, effects or Effects(), faults, seed=seed, started_at_ms=MONDAY * DAY_MS)


def served(
    effects: Effects | None = None,
    faults: Faults | None = None,
    *,
    seed: int = 1,
    days: int = 4,
    share_bp: int = 5_000,
    shadow_bp: int = 10_000,
) -> Moments:
    traffic = some_traffic(effects, faults, seed=seed)
    traffic.serve(until_ms=(MONDAY + 1) * DAY_MS, generation=1, candidate_bp=0, shadow_bp=shadow_bp)
    traffic.serve(until_ms=(MONDAY + 1 + days) * DAY_MS, generation=2, candidate_bp=share_bp)
    return traffic.moments()


def rate(moments: Moments, arm: Arm, measure: Measure, over: Measure = Measure.MATURED_CLICK) -> float:
    sums_M = sums_of(moments)[0, :, arm].sum(axis=(0, 1))
    return float(sums_M[measure] / sums_M[over])


def test_simulated_sums_are_sums_that_can_be() -> None:
    check_moments(served(Effects(ctr=-0.1, prediction=0.3, score_noise=0.2, novelty=0.1)))


def test_before_anyone_came_there_is_nothing() -> None:
    moments = some_traffic().moments()

    check_moments(moments)
    assert moments.strata == ()
    assert moments.newest_event_ms is None


def test_equal_seeds_are_equal_traffic() -> None:
    first, again, other = served(), served(), served(seed=2)

    np.testing.assert_array_equal(sums_of(first), sums_of(again))
    np.testing.assert_array_equal(first.reliability_GACBR, again.reliability_GACBR)
    assert not np.array_equal(sums_of(first), sums_of(other))


def test_every_day_and_generation_is_a_stratum_of_its_own() -> None:
    strata = served(days=2).strata

    assert [(s.day - MONDAY, s.generation, s.candidate_bp) for s in strata] == [(0, 1, 0), (1, 2, 5_000), (2, 2, 5_000)]


def test_users_come_back_and_stay_in_their_arm() -> None:
    moments = served()

    newcomers = AUDIENCE.users * AUDIENCE.new_users_per_day * 5.5
    assert sum(draw.stable + draw.candidate for draw in moments.draws) <= AUDIENCE.users + 1.5 * newcomers
    assert moments.sums_of(Measure.IMPRESSIONS)[0].sum() > 2 * AUDIENCE.users
    assert moments.cross_exposed_users == 0


def test_view_types_together_are_the_surface() -> None:
    moments = served()

    np.testing.assert_array_equal(sums_of(moments)[0], sums_of(moments)[1:].sum(axis=0))
    np.testing.assert_array_equal(moments.pairs_GKP[0], moments.pairs_GKP[1:].sum(axis=0))


def test_the_injected_effect_is_what_the_candidate_does() -> None:
    moments = served(Effects(ctr=-0.3), days=8)

    stable, candidate = (rate(moments, arm, Measure.CLICK) for arm in Arm)
    assert candidate / stable == pytest.approx(0.7, abs=0.05)


def test_an_effect_on_one_view_type_leaves_the_others_alone() -> None:
    moments = served(Effects(by_view_type={"grid": Effects(ctr=-0.5)}), days=8)

    sums_MGA = sums_of(moments).sum(axis=(1, 3))[..., [Measure.CLICK, Measure.MATURED_CLICK]]
    ratio_G = sums_MGA[:, 1, 0] / sums_MGA[:, 1, 1] / (sums_MGA[:, 0, 0] / sums_MGA[:, 0, 1])
    assert ratio_G[1] == pytest.approx(0.5, abs=0.05)
    assert ratio_G[2:] == pytest.approx([1.0, 1.0], abs=0.15)


def test_the_injected_prediction_is_beyond_what_comes() -> None:
    moments = served(Effects(ctr=-0.2, prediction=0.25), days=8)

    over = rate(moments, Arm.CANDIDATE, Measure.SCORE, Measure.CLICK) / 1e6

    assert over == pytest.approx(1.25, abs=0.05)


def test_a_candidate_that_foresees_nothing_predicts_what_stable_would_get() -> None:
    moments = served(Effects(ctr=-1.0, is_foreseen=False))

    stable, candidate = (rate(moments, arm, Measure.SCORE) for arm in Arm)
    assert rate(moments, Arm.CANDIDATE, Measure.CLICK) == 0
    assert candidate == pytest.approx(stable, rel=0.03)


def test_novelty_wears_off_for_each_user_from_the_day_they_met_the_candidate() -> None:
    effects = Effects(ctr=-0.5, novelty=1.0, novelty_half_life_days=1.0)
    traffic = some_traffic(effects)
    for day in range(12):
        traffic.serve(
            until_ms=(MONDAY + day + 1) * DAY_MS, generation=1 + (day >= 6), candidate_bp=2_500 if day < 6 else 5_000
        )
    sums_SAM = sums_of(traffic.moments())[0].sum(axis=2)
    ctr_SA = sums_SAM[..., Measure.CLICK] / sums_SAM[..., Measure.MATURED_CLICK]

    effect_S = ctr_SA[:, 1] / ctr_SA[:, 0] - 1
    assert effect_S[0] == pytest.approx(-0.5 + 0.5**0.5, abs=0.15)
    assert effect_S[5] == pytest.approx(-0.5, abs=0.12)
    assert effect_S[6] == pytest.approx(-0.5 + 0.5 * 0.5**0.5, abs=0.12)  # half of its users are fresh


def test_weekends_are_busier_and_click_less() -> None:
    moments = served(days=6, share_bp=0)  # Tuesday to Sunday

    sums_SM = sums_of(moments)[0].sum(axis=(1, 2))
    friday, saturday = sums_SM[4], sums_SM[5]
    assert saturday[Measure.IMPRESSIONS] / friday[Measure.IMPRESSIONS] == pytest.approx(1.25, abs=0.05)


def test_labels_count_on_impressions_as_old_as_their_window() -> None:
    traffic = some_traffic(guardrails=[{"metric": "ctr"}, {"metric": "hide_rate", "window": "7h"}])
    for hour in range(0, 24, 6):
        traffic.serve(until_ms=MONDAY * DAY_MS + (hour + 6) * DAY_MS // 24, generation=1, candidate_bp=0)
    sums_M = sums_of(traffic.moments())[0].sum(axis=(0, 1, 2))

    shown = sums_M[Measure.IMPRESSIONS]
    assert sums_M[Measure.MATURED_CLICK] / shown == pytest.approx(23 / 24, abs=0.01)
    assert sums_M[Measure.MATURED_HIDE] / shown == pytest.approx(17 / 24, abs=0.01)


def test_labels_that_come_late_never_count_and_are_not_predicted() -> None:
    slow = replace(AUDIENCE, click_delay_seconds=3_600.0, weekend_ctr_factor=1.0)
    traffic = some_traffic(audience=slow)
    traffic.serve(until_ms=(MONDAY + 5) * DAY_MS, generation=1, candidate_bp=0)
    moments = traffic.moments()

    assert rate(moments, Arm.STABLE, Measure.CLICK) == pytest.approx(0.1 * (1 - np.exp(-1)), rel=0.06)
    assert rate(moments, Arm.STABLE, Measure.SCORE, Measure.CLICK) / 1e6 == pytest.approx(1.0, abs=0.05)


def test_revenue_is_winsorised_click_by_click() -> None:
    traffic = some_traffic(guardrails=[{"metric": "ctr"}], revenue_cap=0.25)
    traffic.serve(until_ms=(MONDAY + 3) * DAY_MS, generation=1, candidate_bp=0)
    sums_M = sums_of(traffic.moments())[0].sum(axis=(0, 1, 2))

    paid = sums_M[Measure.CLICK] * (1 - np.exp(-1))  # within an hour at a mean delay of one
    assert sums_M[Measure.REVENUE] / 1e6 / paid == pytest.approx(0.5 * (1 - np.exp(-0.5)), rel=0.06)


def test_the_shadow_pairs_both_models_on_what_stable_served() -> None:
    pairs_P = served(Effects(prediction=0.25)).pairs_GKP[0].sum(axis=0)

    assert pairs_P[PairMeasure.PAIRS] > 1_000
    assert pairs_P[PairMeasure.SCORE_CANDIDATE] / pairs_P[PairMeasure.SCORE_STABLE] == pytest.approx(1.25, rel=1e-3)
    assert pairs_P[PairMeasure.LOG_LOSS_CANDIDATE] > pairs_P[PairMeasure.LOG_LOSS_STABLE]


def test_a_shadow_sees_the_share_it_is_given() -> None:
    all_of_it, a_fifth = served(), served(shadow_bp=2_000)

    ratio = a_fifth.pairs_GKP[0, :, PairMeasure.PAIRS].sum() / all_of_it.pairs_GKP[0, :, PairMeasure.PAIRS].sum()
    assert ratio == pytest.approx(0.2, abs=0.01)


def test_sums_by_score_agree_with_the_sums_by_bucket() -> None:
    moments = served(Effects(ctr=-0.1, prediction=0.1, score_noise=0.3))

    score_GAK = moments.sums_of(Measure.SCORE).sum(axis=1)
    clicks_GAK = moments.sums_of(Measure.CLICK).sum(axis=1)
    coarse = (*score_GAK.shape[:2], NUM_COARSE_BUCKETS, NUM_BUCKETS // NUM_COARSE_BUCKETS)
    reliability_GACR = moments.reliability_GACBR.sum(axis=3)
    np.testing.assert_array_equal(
        reliability_GACR[..., ReliabilityMeasure.SCORE], score_GAK.reshape(coarse).sum(axis=3)
    )
    np.testing.assert_array_equal(
        reliability_GACR[..., ReliabilityMeasure.CLICK], clicks_GAK.reshape(coarse).sum(axis=3)
    )
    shadow_GAR = moments.shadow_reliability_GACBR.sum(axis=(2, 3))
    pairs_GP = moments.pairs_GKP.sum(axis=1)
    np.testing.assert_array_equal(shadow_GAR[:, 0, ReliabilityMeasure.SCORE], pairs_GP[:, PairMeasure.SCORE_STABLE])
    np.testing.assert_array_equal(shadow_GAR[:, 1, ReliabilityMeasure.SCORE], pairs_GP[:, PairMeasure.SCORE_CANDIDATE])
    np.testing.assert_array_equal(moments.score_pairs_CBB.sum(axis=(0, 2)), moments.score_bins_GAKB[0, 0].sum(axis=0))
    np.testing.assert_array_equal(moments.score_pairs_CBB.sum(axis=(0, 1)), moments.score_bins_GAKB[0, 1].sum(axis=0))


def test_a_stopped_feed_brings_nothing_and_goes_on_afterwards() -> None:
    traffic = some_traffic(faults=Faults(feed_stops_at_day=1.0, feed_stops_for_days=0.5))
    traffic.serve(until_ms=round((MONDAY + 1.25) * DAY_MS), generation=1, candidate_bp=0)
    stopped = traffic.moments()
    traffic.serve(until_ms=(MONDAY + 2) * DAY_MS, generation=1, candidate_bp=0)
    after = traffic.moments()

    assert stopped.newest_event_ms == (MONDAY + 1) * DAY_MS - 1
    shown_S = after.sums_of(Measure.IMPRESSIONS)[0].sum(axis=(1, 2))
    assert shown_S[1] / shown_S[0] == pytest.approx(0.5, abs=0.03)


def test_lost_users_are_missing_from_the_candidate_alone() -> None:
    whole, lost = served(share_bp=5_000), served(faults=Faults(lost_users=0.2), share_bp=5_000)

    ratio_A = [lost.users_A[arm] / whole.users_A[arm] for arm in Arm]
    assert ratio_A == pytest.approx([1.0, 0.8], abs=0.03)


def test_users_known_from_the_shadow_are_counted_once_for_each_weight_that_tells_of_their_slot() -> None:
    traffic = some_traffic(audience=replace(AUDIENCE, new_users_per_day=0.0, activity_spread=0.1))
    shares = (0, 1_000, 1_000, 2_500)
    for day, share in enumerate(shares):
        traffic.serve(until_ms=(MONDAY + 3 * (1 + day)) * DAY_MS, generation=1 + day, candidate_bp=share)
    moments = traffic.moments()

    check_moments(moments)
    by_place = {(draw.generation, draw.above_bp): (draw.stable, draw.candidate) for draw in moments.draws}
    assert sum(by_place.get((3, 0), (0, 0))) < 0.01 * AUDIENCE.users
    assert sum(by_place[2, 0]) == pytest.approx(AUDIENCE.users, rel=0.01)
    assert by_place[2, 0][1] / AUDIENCE.users == pytest.approx(0.1, abs=0.02)
    assert sum(by_place[4, 1_000]) == pytest.approx(by_place[2, 0][0], rel=0.01)
    assert by_place[4, 1_000][1] / sum(by_place[4, 1_000]) == pytest.approx(1 / 6, abs=0.02)


@pytest.mark.parametrize(("lost_users", "is_found"), [(0.0, False), (0.1, True)])
def test_users_lost_after_a_shadow_that_met_most_of_them_break_the_split(lost_users: float, is_found: bool) -> None:
    for seed in range(5):
        audience = Audience(users=60_000, impressions_per_day=20.0)
        traffic = some_traffic(faults=Faults(lost_users=lost_users), seed=seed, audience=audience)
        traffic.serve(until_ms=MONDAY * DAY_MS + DAY_MS // 4, generation=1, candidate_bp=0)
        known = traffic.moments().users_A[Arm.STABLE]
        for day, share in enumerate((500, 2_500)):
            traffic.serve(until_ms=(MONDAY + 1 + day) * DAY_MS, generation=2 + day, candidate_bp=share)

        assert known > 0.8 * audience.users
        assert (log_e_sample_ratio(traffic.moments().draws) >= math.log(1_000)) == is_found


def test_the_days_before_the_start_are_summed_by_the_arms_of_the_present_split() -> None:
    steps = [{"share": "20%"}, {"share": "100%"}]
    traffic = some_traffic(guardrails=[{"metric": "ctr"}], steps=steps, judge={"pre_period_days": 10})
    traffic.serve(until_ms=(MONDAY + 1) * DAY_MS, generation=1, candidate_bp=2_000)
    moments = traffic.moments()

    check_moments(moments)
    assert moments.before_MGAK is not None
    shown_GA = moments.before_MGAK[Measure.IMPRESSIONS].sum(axis=-1)
    assert shown_GA[0].sum() == pytest.approx(10 * AUDIENCE.users * AUDIENCE.impressions_per_day, rel=0.06)
    assert shown_GA[0, 1] / shown_GA[0].sum() == pytest.approx(0.2, abs=0.03)
    before_K, during_K = (
        moments.before_MGAK[Measure.IMPRESSIONS, 0].sum(axis=0),
        moments.counts_MGSAK[0, 0].sum(axis=(0, 1)),
    )
    assert np.corrcoef(before_K, during_K)[0, 1] > 0.7  # the same users


@pytest.mark.slow
def test_cells_follow_the_law_of_single_users() -> None:
    """Means within four standard errors and spreads within a fifth of a user-by-user simulation's."""
    audience = Audience(
        users=120, new_users_per_day=0.05, impressions_per_day=1.5, ctr=0.2, view_types={"grid": 0.7, "list": 0.3},
        hide_rate=0.05, click_delay_seconds=1_200.0, revenue_delay_seconds=3_600.0,
    )  # fmt: skip
    effects = Effects(ctr=-0.2, good_click_rate=-0.1, hide_rate=0.3, revenue_per_click=0.2)
    windows = dict.fromkeys(Label, DAY_MS // 24) | {Label.HIDE: DAY_MS // 4}
    plan = a_plan(guardrails=[{"metric": "ctr"}, {"metric": "hide_rate", "window": "6h"}])
    shares, friday, runs = [0, 0, 2_000, 5_000], MONDAY + 4, 700
    entry_days = round(plan.max_total_seconds / DAY) + SPARE_DAYS
    cells = [_cell_sums(plan_seed, plan, audience, effects, shares, friday) for plan_seed in range(runs)]
    rng = np.random.default_rng(5)
    users = [
        simulate(
            rng, audience, effects, windows, first_day=friday, days=4, entry_days=entry_days, shares_bp=shares
        )
        for _ in range(runs)
    ]  # fmt: skip

    for name in users[0]:
        drawn, expected = (np.array([sums[name] for sums in some]) for some in (cells, users))
        error = np.hypot(drawn.std(ddof=1), expected.std(ddof=1)) / np.sqrt(runs)
        print(f"{name:16} {drawn.mean():9.2f} {expected.mean():9.2f}  sd {drawn.std():8.2f} {expected.std():8.2f}")
        assert abs(drawn.mean() - expected.mean()) < 4 * error, name
        assert drawn.std() / expected.std() == pytest.approx(1.0, abs=0.2), name


def _cell_sums(
    seed: int, plan: object, audience: Audience, effects: Effects, shares: list[int], first_day: int
) -> dict[str, float]:
    traffic = Traffic(plan, audience, effects, seed=seed, started_at_ms=first_day * DAY_MS)  # type: ignore[arg-type]
    for day, share in enumerate(shares):
        traffic.serve(until_ms=(first_day + day + 1) * DAY_MS, generation=1 + day, candidate_bp=share)
    moments = traffic.moments()
    sums_AM = sums_of(moments)[0].sum(axis=(0, 2))
    sums_M = sums_AM.sum(axis=0)
    return {
        "stable": sums_AM[0, Measure.IMPRESSIONS],
        "candidate": sums_AM[1, Measure.IMPRESSIONS],
        "stable_clicks": sums_AM[0, Measure.CLICK],
        "candidate_clicks": sums_AM[1, Measure.CLICK],
        "good": sums_M[Measure.GOOD_CLICK],
        "hides": sums_M[Measure.HIDE],
        "revenue": sums_M[Measure.REVENUE] / 1e6,
        "score": sums_M[Measure.SCORE] / 1e6,
        "users_stable": moments.users_A[0],
        "users_candidate": moments.users_A[1],
        **{f"{arm}_{split}": 0.0 for split in splits_of(shares) for arm in ("stable", "candidate")},
        **{f"stable_{draw.above_bp}_{draw.candidate_bp}": draw.stable for draw in moments.draws},
        **{f"candidate_{draw.above_bp}_{draw.candidate_bp}": draw.candidate for draw in moments.draws},
    }
