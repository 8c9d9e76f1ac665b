import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from control_plane.domain.moments import (
    FIXED_POINT,
    NUM_COARSE_BUCKETS,
    NUM_SCORE_BINS,
    SCORE_BIN_LOGIT_MIN,
    SCORE_BIN_LOGIT_WIDTH,
    Measure,
    Moments,
    ReliabilityMeasure,
)
from control_plane.domain.rollout import Phase
from control_plane.domain.split import Arm
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.calibration_error import calibration_error
from control_plane.guardrails.estimate import log_ratios
from control_plane.guardrails.look import Look
from control_plane.guardrails.score_calibration import (
    calibration_by_score,
    calibration_error_findings,
    calibration_shifts,
    score_calibration_findings,
)
from tests.guardrails.builders import (
    a_judged_plan,
    a_stage,
    empty_moments,
    packed_sums,
    simulated_moments,
    sums_of,
    with_sums,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def scored(
    rng: np.random.Generator,
    *,
    users: int = 4_000,
    impressions: int = 20,
    ctr: float = 0.05,
    spread: float = 0.8,
    prediction: float = 1.0,
) -> tuple[IntArray, FloatArray, IntArray]:
    """Coarse bucket, score and click of every impression; users' rates differ, scores are `prediction` times them."""
    shape = spread**-2
    truth_U = np.clip(rng.gamma(shape, ctr / shape, size=users), 1e-4, 0.9)
    truth_N = np.repeat(truth_U, impressions)
    click_N = (rng.random(truth_N.size) < truth_N).astype(np.int64)
    bucket_N = np.repeat(rng.integers(NUM_COARSE_BUCKETS, size=users), impressions)
    return bucket_N, np.clip(truth_N * prediction, 1e-4, 0.95), click_N


def table_of(bucket_N: IntArray, score_N: FloatArray, click_N: IntArray) -> IntArray:
    table_CBR = np.zeros((NUM_COARSE_BUCKETS, NUM_SCORE_BINS, len(ReliabilityMeasure)), dtype=np.int64)
    cell = (bucket_N, bin_of(score_N))
    np.add.at(table_CBR[..., ReliabilityMeasure.IMPRESSIONS], cell, 1)
    np.add.at(table_CBR[..., ReliabilityMeasure.SCORE], cell, np.rint(score_N * FIXED_POINT).astype(np.int64))
    np.add.at(table_CBR[..., ReliabilityMeasure.CLICK], cell, click_N)
    return table_CBR


def bin_of(score_N: FloatArray) -> IntArray:
    logit_N = np.log(score_N) - np.log1p(-score_N)
    return np.clip((logit_N - SCORE_BIN_LOGIT_MIN) / SCORE_BIN_LOGIT_WIDTH, 0, NUM_SCORE_BINS - 1).astype(np.int64)


def moments_of(table_CBR: IntArray, *, is_shadow: bool = False) -> Moments:
    """Both arms served, or scored in the shadow, the same table; stable's shadow scores are its own."""
    moments = empty_moments()
    table_GACBR = moments.shadow_reliability_GACBR if is_shadow else moments.reliability_GACBR
    table_GACBR[0] = table_CBR
    moments.score_bins_GAKB[0, Arm.STABLE, 0] = table_CBR[..., ReliabilityMeasure.IMPRESSIONS].sum(axis=0)
    return moments


def look_at(moments: Moments, phase: Phase = Phase.RAMPING, **overrides: Any) -> Look:
    return Look(plan=a_judged_plan(**overrides), stage=a_stage(phase), moments=moments)


def test_a_model_that_predicts_too_much_of_high_scores_is_seen_to_in_those_deciles_alone() -> None:
    bucket_N, score_N, click_N = scored(np.random.default_rng(1), users=30_000)
    is_high_N = score_N > 0.1
    wrong_N = np.where(is_high_N, score_N * 1.3, score_N)
    look = look_at(moments_of(table_of(bucket_N, wrong_N, click_N)))

    found = calibration_by_score([look])[0]

    high, low = found[-1], found[0]
    assert high.lower is not None
    assert 0.1 < high.lower < 0.3 < (high.upper or 0.0)
    assert low.lower is not None
    assert low.lower < 0.0 < (low.upper or 0.0)
    assert all(finding.answer is Answer.MONITORED and not finding.gates and not finding.weight for finding in found)


def test_deciles_name_the_scores_they_hold_and_cover_all_of_them() -> None:
    (found,) = calibration_by_score([look_at(moments_of(table_of(*scored(np.random.default_rng(2)))))])

    assert found[0].segment.startswith("decile")
    assert "scores below" in found[0].segment
    assert "scores from" in found[-1].segment
    named = [finding.segment.removeprefix("deciles ").removeprefix("decile ").split(" ")[0] for finding in found]
    bounds = [name.split("–") for name in named]
    assert bounds[0][0] == "1"
    assert bounds[-1][-1] == "10"
    assert [int(bound[0]) for bound in bounds[1:]] == [int(bound[-1]) + 1 for bound in bounds[:-1]]
    assert sum(finding.impressions_candidate for finding in found) == 4_000 * 20


def test_a_bin_that_holds_everything_is_all_deciles_in_one() -> None:
    table = np.zeros((NUM_COARSE_BUCKETS, NUM_SCORE_BINS, 3), dtype=np.int64)
    table[:, 12] = [1_000, 50 * FIXED_POINT, 50]

    (finding,) = calibration_by_score([look_at(moments_of(table))])[0]

    assert finding.segment == "deciles 1–10 (all scores)"
    assert finding.effect == pytest.approx(0.0)


def test_the_shadow_s_deciles_stay_while_what_is_served_moves() -> None:
    rng = np.random.default_rng(3)
    early, late = table_of(*scored(rng)), table_of(*scored(rng, prediction=2.0))
    moments = moments_of(early)
    moved = replace(moments, reliability_GACBR=moments.reliability_GACBR * 0 + late)

    before, after = (calibration_by_score([look_at(seen)])[0] for seen in (moments, moved))

    assert [finding.segment for finding in before] == [finding.segment for finding in after]


def test_without_a_shadow_the_deciles_are_those_of_what_stable_served() -> None:
    moments = moments_of(table_of(*scored(np.random.default_rng(4))))
    without = replace(moments, score_bins_GAKB=np.zeros_like(moments.score_bins_GAKB))

    assert calibration_by_score([look_at(without)])[0] == calibration_by_score([look_at(moments)])[0]


def test_the_shadow_is_told_by_its_own_pairs() -> None:
    moments = moments_of(table_of(*scored(np.random.default_rng(5))), is_shadow=True)

    assert any(finding.effect is not None for finding in calibration_by_score([look_at(moments, Phase.SHADOW)])[0])
    assert all(finding.effect is None for finding in calibration_by_score([look_at(moments, Phase.RAMPING)])[0])


def test_no_data_at_all_is_told_as_nothing() -> None:
    look = look_at(empty_moments())

    assert calibration_by_score([look])[0] == ()
    assert calibration_shifts([look])[0] == ()
    assert [finding.effect for finding in calibration_error_findings([look])[0]] == [None, None]


def shift_of(moments: Moments) -> Finding:
    (finding,) = calibration_shifts([look_at(moments)])[0]
    return finding


def test_the_shift_is_what_prediction_changes_beside_stable() -> None:
    finding = shift_of(simulated_moments(np.random.default_rng(6), impressions=2_000_000, prediction=1.1))

    assert finding.effect == pytest.approx(0.1, abs=0.02)
    assert finding.lower is not None
    assert 0.0 < finding.lower < 0.1 < (finding.upper or 0.0)


def test_the_shift_is_the_difference_of_two_mantel_haenszel_log_ratios() -> None:
    moments = simulated_moments(np.random.default_rng(7), shares_bp=(500, 2_500, 5_000), prediction=1.1)
    shown = moments.sums_of(Measure.MATURED_CLICK)[:1]
    by_score, by_click = (
        log_ratios(moments.sums_of(measure)[:1], shown, np.ones(1)).theta_H[0]
        for measure in (Measure.SCORE, Measure.CLICK)
    )

    assert math.log1p(shift_of(moments).effect or 0.0) == pytest.approx(by_score - by_click, rel=1e-9)


def test_its_error_is_that_of_leaving_each_bucket_out_of_both_arms() -> None:
    moments = simulated_moments(np.random.default_rng(8), shares_bp=(500, 2_500), impressions=50_000)
    sums = sums_of(moments)
    without = []
    for bucket in range(sums.shape[3]):
        kept = sums.copy()
        kept[:, :, :, bucket] = 0
        without.append(math.log1p(shift_of(with_sums(moments, kept)).effect or 0.0))
    buckets = len(without)

    expected = math.sqrt((buckets - 1) / buckets * np.square(np.array(without) - np.mean(without)).sum())

    assert shift_of(moments).standard_error == pytest.approx(expected, rel=1e-6)


def test_a_weekend_that_surprises_both_versions_is_no_shift() -> None:
    """Clicks double on the day on which the candidate has ten times the share: pooled, it would look at fault."""
    moments = simulated_moments(np.random.default_rng(9), shares_bp=(500, 5_000), impressions=2_000_000)
    sums = sums_of(moments)
    sums[:, 1, :, :, Measure.SCORE] //= 2
    totals_AM = sums[0].sum(axis=(0, 2))
    c_A = np.log(totals_AM[:, Measure.SCORE] / FIXED_POINT / totals_AM[:, Measure.CLICK])

    finding = shift_of(replace(moments, **packed_sums(sums)))

    assert c_A[Arm.CANDIDATE] - c_A[Arm.STABLE] < -0.1
    assert finding.lower is not None
    assert finding.lower < 0.0 < (finding.upper or 0.0)
    assert abs(finding.effect or 0.0) < 0.03


def test_only_a_ramp_has_a_shift() -> None:
    moments = simulated_moments(np.random.default_rng(10))

    def metrics(phase: Phase) -> set[str]:
        return {finding.metric for finding in score_calibration_findings([look_at(moments, phase)])[0]}

    assert "calibration_shift" in metrics(Phase.RAMPING)
    assert "calibration_shift" not in metrics(Phase.SHADOW) | metrics(Phase.WATCHING)


def plain_error(table_CBR: IntArray) -> float:
    """Expected calibration error as usual, Σ share·|mean score − click rate|, relative to the click rate."""
    _, score, click = table_CBR.sum(axis=0).T
    return float(np.abs(score / FIXED_POINT - click).sum() / click.sum())


def plain_square(table_CBR: IntArray) -> float:
    """The same as a mean square."""
    shown, score, click = (column[table_CBR[..., 0].sum(axis=0) > 0] for column in table_CBR.sum(axis=0).T)
    return float(((score / FIXED_POINT - click) ** 2 / shown).sum() * shown.sum() / click.sum() ** 2)


def kumar_square(table_CBR: IntArray) -> float:
    """Definition 5.1 of Kumar et al. 2019: Σ p_b [(s_b − y_b)² − y_b(1 − y_b)/(n_b − 1)]."""
    shown, score, click = (column[table_CBR[..., 0].sum(axis=0) > 1] for column in table_CBR.sum(axis=0).T)
    rate, mean = click / shown, score / FIXED_POINT / shown
    return float((shown / shown.sum() * ((mean - rate) ** 2 - rate * (1 - rate) / (shown - 1))).sum())


def test_a_perfect_model_of_200_users_has_an_error_of_a_quarter_of_the_click_rate_and_debiased_next_to_none() -> None:
    rng, plain, plain_squares, squares = np.random.default_rng(11), [], [], []
    for _ in range(400):
        table = table_of(*scored(rng, users=200, ctr=0.02))
        found = calibration_error(table, alpha=0.05)
        assert found is not None
        plain.append(plain_error(table))
        plain_squares.append(plain_square(table))
        squares.append(found.square)
    noise = np.std(squares) / math.sqrt(len(squares))
    print(f"plain error {np.mean(plain):.3f} of the click rate, its mean square {np.mean(plain_squares):.4f}")
    print(f"debiased mean square {np.mean(squares):.4f} ± {noise:.4f}")

    assert np.mean(plain) == pytest.approx(0.25, abs=0.05)
    assert abs(np.mean(squares)) < 3 * noise < 0.25 * np.mean(plain_squares)
    assert np.median(squares) <= 0.0


@pytest.mark.parametrize("prediction", [1.0, 1.2])
def test_on_impressions_of_strangers_it_is_kumar_s_estimator(prediction: float) -> None:
    """Both estimates of the same tables, on average over them; each user comes once."""
    rng, ours, theirs = np.random.default_rng(12), [], []
    for _ in range(60):
        table = table_of(*scored(rng, users=40_000, impressions=1, prediction=prediction))
        found = calibration_error(table, alpha=0.05)
        assert found is not None
        rate = table[..., ReliabilityMeasure.CLICK].sum() / table[..., ReliabilityMeasure.IMPRESSIONS].sum()
        ours.append(found.value)
        theirs.append(math.sqrt(max(0.0, kumar_square(table))) / rate)

    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.1, abs=0.01)


def test_users_who_come_back_a_lot_are_no_miscalibration_though_kumar_s_estimator_takes_them_for_one() -> None:
    """Each user's clicks lie off their score by chance, in all their impressions alike."""
    rng, ours, theirs = np.random.default_rng(13), [], []
    for _ in range(60):
        score_U = np.clip(rng.gamma(4.0, 0.05 / 4.0, size=1_000), 1e-3, 0.5)
        true_U = np.clip(score_U * rng.gamma(2.0, 0.5, size=1_000), 0, 0.95)
        click_N = (rng.random(50_000) < np.repeat(true_U, 50)).astype(np.int64)
        table = table_of(np.repeat(rng.integers(NUM_COARSE_BUCKETS, size=1_000), 50), np.repeat(score_U, 50), click_N)
        found = calibration_error(table, alpha=0.05)
        assert found is not None
        rate = click_N.mean()
        ours.append(found.value)
        theirs.append(math.sqrt(max(0.0, kumar_square(table))) / rate)

    assert np.median(ours) < 0.03
    assert np.median(theirs) > 2 * max(0.01, float(np.median(ours)))


@pytest.mark.slow
@pytest.mark.parametrize("prediction", [1.0, 1.25])
def test_its_interval_covers_the_truth(prediction: float) -> None:
    rng, covered = np.random.default_rng(14), 0
    for _ in range(100):
        found = calibration_error(table_of(*scored(rng, users=2_000, prediction=prediction)), alpha=0.05)
        assert found is not None
        covered += found.lower <= _truth(prediction) <= found.upper

    print(f"{covered} of 100 intervals hold the truth at a prediction of {prediction} times it")
    assert covered >= 95


def _truth(prediction: float) -> float:
    """The error of the crowd itself: many users, whose clicks are their rates."""
    rng = np.random.default_rng(15)
    _, score_N, _ = scored(rng, users=400_000, impressions=1, prediction=prediction)
    bins = bin_of(score_N)
    truth_N = score_N / prediction
    shown, score, rate = (np.bincount(bins, weights=w) for w in (np.ones_like(score_N), score_N, truth_N))
    square = np.divide((score - rate) ** 2, shown, out=np.zeros_like(shown), where=shown > 0).sum()
    return float(math.sqrt(square * shown.sum()) / rate.sum())
