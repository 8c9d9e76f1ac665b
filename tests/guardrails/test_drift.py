import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from control_plane.domain.moments import FIXED_POINT, NUM_COARSE_BUCKETS, NUM_SCORE_BINS, Moments, PairMeasure
from control_plane.domain.rollout import Phase
from control_plane.domain.split import NUM_BUCKETS, Arm
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.drift import drift_alarm, drift_findings
from control_plane.guardrails.finding_names import DRIFT
from control_plane.guardrails.look import Look
from control_plane.guardrails.rank_agreement import rank_agreement
from control_plane.guardrails.score_distances import score_distances
from tests.guardrails.builders import a_judged_plan, a_stage, empty_moments, shadow_moments
from tests.guardrails.independent.stored import Case, cases

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def psi_of(moments: Moments) -> Finding:
    return by_metric(look_at(moments))["psi"]


def test_equal_scores_have_not_drifted() -> None:
    psi = psi_of(shadow_moments(np.random.default_rng(1)))

    assert psi.effect == pytest.approx(0.0, abs=1e-6)
    assert psi.lower == 0.0


def test_scores_twice_as_high_have_drifted_for_sure() -> None:
    psi = psi_of(shadow_moments(np.random.default_rng(2), prediction=2.0))

    assert psi.lower is not None
    assert psi.effect is not None
    assert 0.25 < psi.lower < psi.effect


def test_few_users_who_differ_are_not_taken_for_drift() -> None:
    """Each user brings one score of their own many times over: naive PSI is large, and all of it is noise."""
    rng = np.random.default_rng(3)
    moments = empty_moments(buckets=40)
    bins = moments.score_bins_GAKB[0]
    for arm in Arm:
        bins[arm, np.arange(40), rng.integers(10, 20, size=40)] = 1_000
    share_AB = (bins.sum(axis=1) + 0.5) / (bins.sum(axis=1) + 0.5).sum(axis=1, keepdims=True)
    naive = ((share_AB[1] - share_AB[0]) * np.log(share_AB[1] / share_AB[0])).sum()

    assert naive > 0.25
    assert (psi_of(moments).lower or 0.0) < 0.25


def test_a_few_scores_beyond_all_of_stable_s_are_no_group_of_their_own() -> None:
    """One in a hundred lies a bin higher than stable ever scores: of that tenth it is a tenth."""
    moments = empty_moments(view_types=())
    stable_KB, candidate_KB = moments.score_bins_GAKB[0]
    stable_KB[:, 10:15] = candidate_KB[:, 10:15] = 20
    candidate_KB[:, 14], candidate_KB[:, 15] = 19, 1

    assert psi_of(moments).effect == pytest.approx(0.0, abs=1e-9)


def test_pairs_without_a_joint_table_or_ratios_leave_those_measures_without_an_estimate() -> None:
    moments = empty_moments()
    moments.score_bins_GAKB[0, :, :, 10:14] = 5

    found = by_metric(look_at(moments))

    assert found["psi"].effect is not None
    assert found["rank_agreement"].effect is found["mean_log_ratio"].effect is None


def dealt(rng: np.random.Generator, case: Case) -> IntArray:
    """A stored case's counts by bin, its impressions dealt to user buckets; (A, K, B)."""
    found = np.zeros((2, NUM_BUCKETS, NUM_SCORE_BINS), dtype=np.int64)
    for arm, name in enumerate(("stable", "candidate")):
        found[arm] = rng.multinomial(case.inputs["counts"][name], np.full(NUM_BUCKETS, 1 / NUM_BUCKETS)).T
    return found


@pytest.mark.parametrize("index", range(4))
def test_distances_are_scipy_s_and_nannyml_s_but_for_the_bias_that_is_taken_off(index: int) -> None:
    """They have the distance in base 2 and its root, and the width of a bin is their unit."""
    rng = np.random.default_rng(index)
    for package, js_name in (("scipy", "jensen_shannon"), ("nannyml", "jensen_shannon")):
        case = cases(package, "drift of bin indices")[index]
        found = score_distances(dealt(rng, case))
        expected = {
            "js": case.value[js_name] ** 2 * math.log(2.0),
            "wasserstein": case.value["wasserstein"] * 0.5,
            "ks": case.value["kolmogorov_smirnov"],
        }

        for name, value in expected.items():
            distance = getattr(found, name)
            assert distance.value <= value + 1e-12
            assert distance.value == pytest.approx(value, abs=5 * distance.se)


@pytest.mark.parametrize("name", ["wasserstein", "ks"])
def test_where_no_half_of_the_users_contradicts_the_other_nothing_is_taken_off(name: str) -> None:
    """All scores half a logit higher: the sign is the same wherever one looks."""
    bins = np.zeros((2, NUM_BUCKETS, NUM_SCORE_BINS), dtype=np.int64)
    bins[Arm.STABLE, :, 12], bins[Arm.CANDIDATE, :, 13] = 7, 7

    assert getattr(score_distances(bins), name).value == pytest.approx({"wasserstein": 0.5, "ks": 1.0}[name])


def spread_pairs(rng: np.random.Generator, pairs_BB: IntArray) -> NDArray[np.int32]:
    """A stored joint table, its impressions dealt to coarse buckets."""
    share = np.full(NUM_COARSE_BUCKETS, 1 / NUM_COARSE_BUCKETS)
    return np.moveaxis(rng.multinomial(pairs_BB, share), -1, 0).astype(np.int32)


@pytest.mark.parametrize("index", range(4))
def test_rank_agreement_is_scipy_s_kendall_tau_b(index: int) -> None:
    case = cases("scipy", "agreement of paired bin indices")[index]

    found = rank_agreement(spread_pairs(np.random.default_rng(1), np.array(case.inputs["pairs"])))

    assert found.tau_b == pytest.approx(case.value["kendall_tau_b"], rel=1e-9)


def test_its_error_is_that_of_leaving_out_each_coarse_bucket_in_turn() -> None:
    case = cases("scipy", "agreement of paired bin indices")[3]
    pairs = spread_pairs(np.random.default_rng(2), np.array(case.inputs["pairs"]))
    without = np.array([rank_agreement(np.delete(pairs, k, axis=0)).tau_b for k in range(NUM_COARSE_BUCKETS)])

    expected = math.sqrt(31 / 32 * np.square(without - without.mean()).sum())

    assert rank_agreement(pairs).se == pytest.approx(expected, rel=1e-6)


def test_a_version_that_scores_all_alike_has_no_order_to_agree_with() -> None:
    pairs = np.zeros((NUM_COARSE_BUCKETS, NUM_SCORE_BINS, NUM_SCORE_BINS), dtype=np.int32)
    without_any = pairs.copy()
    pairs[:, 10, 8:14] = 5

    assert math.isnan(rank_agreement(pairs).tau_b)
    assert math.isnan(rank_agreement(without_any).tau_b)


def shadow_of(
    rng: np.random.Generator, stable_N: FloatArray, candidate_N: FloatArray, bucket_N: IntArray, *, into: Moments
) -> Moments:
    """Pairs of logits, in bins of half a logit around bin 14, added to `into`."""
    bins = [np.clip(np.floor(14 + 2 * x), 0, NUM_SCORE_BINS - 1).astype(np.int64) for x in (stable_N, candidate_N)]
    for arm in Arm:
        np.add.at(into.score_bins_GAKB[0, arm], (bucket_N, bins[arm]), 1)
    np.add.at(into.score_pairs_CBB, (bucket_N // 8, bins[0], bins[1]), 1)
    np.add.at(into.pairs_GKP[0, :, PairMeasure.PAIRS], bucket_N, 1)
    log_ratio_N = np.rint((candidate_N - stable_N) * FIXED_POINT).astype(np.int64)
    np.add.at(into.pairs_GKP[0, :, PairMeasure.LOG_RATIO], bucket_N, log_ratio_N)
    return into


def drawn(
    seed: int, *, users: int = 4_000, each: int = 10, shift: float = 0.0, scale: float = 1.0, agreement: float = 0.9
) -> Moments:
    """A user's logit under stable and under the candidate, of one distribution but for `shift` and `scale`."""
    rng = np.random.default_rng(seed)
    stable_U = rng.normal(size=users)
    candidate_U = agreement * stable_U + math.sqrt(1 - agreement**2) * rng.normal(size=users)
    bucket_N = np.repeat(rng.integers(NUM_BUCKETS, size=users), each)
    moved_N = np.repeat(candidate_U * scale + shift, each)
    return shadow_of(rng, np.repeat(stable_U, each), moved_N, bucket_N, into=empty_moments(view_types=()))


def look_at(moments: Moments, **limits: Any) -> Look:
    plan = a_judged_plan()
    return Look(plan=replace(plan, shadow=replace(plan.shadow, **limits)), stage=a_stage(Phase.SHADOW), moments=moments)


def by_metric(look: Look) -> dict[str, Finding]:
    return {finding.metric: finding for finding in drift_findings(look)}


def test_every_measure_finds_scores_that_lie_higher_and_ranks_that_stay() -> None:
    found = by_metric(look_at(drawn(1, shift=1.0, agreement=0.99)))

    assert tuple(found) == DRIFT
    assert found["wasserstein"].effect == pytest.approx(1.0, abs=0.05)
    assert found["mean_log_ratio"].effect == pytest.approx(1.0, abs=0.02)
    assert all((finding.lower or 0.0) > 0.0 for finding in found.values())
    assert (found["rank_agreement"].effect or 0.0) > 0.8
    assert not any(finding.gates or finding.weight for finding in found.values())


def test_ranks_may_be_lost_while_no_distribution_moves() -> None:
    found = by_metric(look_at(drawn(2, agreement=0.0), min_rank_agreement=0.5))

    assert found["rank_agreement"].effect == pytest.approx(0.0, abs=0.05)
    assert all((found[metric].lower or 0.0) == 0.0 for metric in ("psi", "js", "wasserstein", "ks"))


@pytest.mark.parametrize(
    ("limit", "value", "metric"),
    [
        ("max_psi", 0.25, "psi"),
        ("max_js", 0.05, "js"),
        ("max_wasserstein", 0.5, "wasserstein"),
        ("max_ks", 0.2, "ks"),
        ("max_mean_log_ratio", 0.5, "mean_log_ratio"),
        ("min_rank_agreement", 0.7, "rank_agreement"),
    ],
)
def test_a_limit_surely_crossed_is_an_alarm_and_one_kept_is_safe(limit: str, value: float, metric: str) -> None:
    limits = {"max_psi": None, limit: value}
    calm, moved = look_at(drawn(3, agreement=0.999), **limits), look_at(drawn(3, shift=-1.0, agreement=0.5), **limits)

    assert by_metric(calm)[metric].answer is Answer.SAFE
    assert drift_alarm(calm) is None
    assert by_metric(moved)[metric].answer is Answer.UNDECIDED
    alarm = drift_alarm(moved)
    assert alarm is not None
    assert alarm.count("the plan's limit") == 1


def test_the_surest_alarm_is_named_first() -> None:
    look = look_at(drawn(4, shift=1.0, agreement=0.999), max_psi=0.6, max_mean_log_ratio=0.1)

    alarm = drift_alarm(look, drift_findings(look))

    assert alarm is not None
    assert alarm.index("in geometric mean") < alarm.index("PSI")


def test_without_a_limit_drift_is_only_told() -> None:
    look = look_at(drawn(5, shift=2.0), max_psi=None)

    assert {finding.answer for finding in drift_findings(look)} == {Answer.MONITORED}
    assert drift_alarm(look) is None


def test_few_or_no_users_are_a_named_answer_and_no_alarm() -> None:
    few = look_at(drawn(6, users=15, shift=3.0))
    none = look_at(empty_moments())

    assert {(f.answer, f.effect, f.missing[:8]) for f in drift_findings(few)} == {
        (Answer.INSUFFICIENT, None, "users in")
    }
    assert {finding.answer for finding in drift_findings(none)} == {Answer.NO_DATA}
    assert drift_alarm(few) is drift_alarm(none) is None


def iid_alarm(bins_AKB: NDArray[np.int32]) -> bool:
    """PSI of stable's tenths against the 95 % quantile of χ²₉·(1/n + 1/m), the theory for impressions of strangers."""
    count_AB = bins_AKB.sum(axis=1).astype(np.float64)
    cumulative_B = np.cumsum(count_AB[0]) - count_AB[0]
    group_B = np.minimum(cumulative_B * 10 // count_AB[0].sum(), 9).astype(np.int64)
    grouped = np.stack([np.bincount(group_B, weights=row, minlength=10) for row in count_AB]) + 0.5
    share = grouped / grouped.sum(axis=1, keepdims=True)
    psi = ((share[1] - share[0]) * np.log(share[1] / share[0])).sum()
    return bool(psi > 16.92 * (1 / count_AB[0].sum() + 1 / count_AB[1].sum()))


@pytest.mark.slow
@pytest.mark.parametrize("users", [300, 3_000])
def test_users_who_come_back_are_no_drift_though_theory_for_strangers_says_so_nearly_always(users: int) -> None:
    """Scores of one distribution; each of 20 looks adds impressions of old users and new ones. All limits are nil."""
    runs, looks = 200, 20
    alarms, iid = dict.fromkeys(DRIFT[:4] + DRIFT[5:], 0), 0
    for run in range(runs):
        rng = np.random.default_rng([run, users])
        stable_U, candidate_U = rng.normal(size=(2, users))
        home_U, moments = rng.integers(NUM_BUCKETS, size=users), empty_moments(view_types=())
        crossed, iid_crossed = set[str](), False
        for look in range(looks):
            known = max(users // 4, users * (look + 1) // looks)
            seen_N = np.repeat(np.arange(known), rng.poisson(3.0, size=known))
            moments = shadow_of(rng, stable_U[seen_N], candidate_U[seen_N], home_U[seen_N], into=moments)
            nil = {"max_psi": 0.0, "max_js": 0.0, "max_wasserstein": 0.0, "max_ks": 0.0, "max_mean_log_ratio": 0.0}
            found = drift_findings(look_at(moments, **nil))
            crossed |= {f.metric for f in found if f.lower is not None and max(f.lower, -(f.upper or 0.0)) > 0.0}
            iid_crossed |= iid_alarm(moments.score_bins_GAKB[0])
        iid += iid_crossed
        for metric in crossed & set(alarms):
            alarms[metric] += 1
    print(f"{users} users, {runs} runs × {looks} looks: false alarms {alarms}, by i.i.d. theory {iid}")

    assert iid > 0.9 * runs
    assert max(alarms.values()) <= 0.05 * runs


@pytest.mark.slow
def test_what_is_taken_off_centres_each_distance_on_nothing() -> None:
    """Before clipping at 0 no estimate can be seen; after it, its mean is a fraction of the raw distance's."""
    raw, ours = [], []
    for run in range(200):
        bins = drawn(run, users=500, each=20, agreement=0.0).score_bins_GAKB[0].astype(np.int64)
        share = bins.sum(axis=1) / bins.sum(axis=(1, 2))[:, None]
        ahead = np.abs(np.cumsum(share[0] - share[1]))
        found = score_distances(bins)
        raw.append((0.5 * ahead.sum(), ahead.max()))
        ours.append((found.wasserstein.value, found.ks.value))
    print(f"mean without drift: raw {np.mean(raw, axis=0)}, debiased {np.mean(ours, axis=0)}")

    assert (np.mean(ours, axis=0) < 0.45 * np.mean(raw, axis=0)).all()
    assert (np.mean(np.array(ours) == 0.0, axis=0) > 0.3).all()
