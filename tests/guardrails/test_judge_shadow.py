from dataclasses import replace

import numpy as np
import pytest

from control_plane.domain.moments import Moments, PairMeasure
from control_plane.domain.rollout import Phase
from control_plane.domain.verdict import Answer, Blame, Outcome, Rule, Verdict
from control_plane.guardrails.judge import judge
from tests.guardrails.builders import DAY_MS, a_health, a_judged_plan, a_stage, empty_moments, shadow_moments


def judged(moments: Moments, *, health: dict[str, int] | None = None) -> Verdict:
    return judge(a_judged_plan(), a_stage(Phase.SHADOW), moments, a_health(**(health or {})))


def test_an_equal_model_leaves_the_shadow() -> None:
    verdict = judged(shadow_moments(np.random.default_rng(1), noise=0.02))

    assert (verdict.outcome, verdict.rule) == (Outcome.ADVANCE, Rule.SHOWN_SAFE)
    assert "shown safe in the shadow" in verdict.reason
    assert verdict.psi is not None


def test_the_very_same_scores_leave_the_shadow_though_their_difference_has_no_spread() -> None:
    assert judged(shadow_moments(np.random.default_rng(1))).outcome is Outcome.ADVANCE


def test_scrambled_scores_are_rolled_back_and_the_model_blamed() -> None:
    verdict = judged(shadow_moments(np.random.default_rng(2), ctr=0.2, noise=0.6))

    assert (verdict.outcome, verdict.rule, verdict.blame) == (Outcome.ROLL_BACK, Rule.HARM, Blame.MODEL)
    assert verdict.culprits == ("ne/*",)
    assert "normalised entropy on home_feed differs by +" in verdict.reason


def test_entropy_that_a_scale_alone_has_cost_blames_the_calibrator() -> None:
    verdict = judged(shadow_moments(np.random.default_rng(3), pairs=60_000, ctr=0.2, prediction=1.45))

    assert (verdict.outcome, verdict.blame) == (Outcome.ROLL_BACK, Blame.CALIBRATOR)


def test_predictions_off_by_a_factor_stop_in_the_shadow_already() -> None:
    verdict = judged(shadow_moments(np.random.default_rng(4), prediction=2.5))

    assert (verdict.outcome, verdict.rule, verdict.blame) == (Outcome.ROLL_BACK, Rule.HARD_STOP, Blame.CALIBRATOR)


def test_nonsense_off_by_a_factor_blames_the_model_all_the_same() -> None:
    verdict = judged(shadow_moments(np.random.default_rng(5), ctr=0.1, prediction=4.0, noise=1.0))

    assert (verdict.rule, verdict.blame) == (Rule.HARD_STOP, Blame.MODEL)


@pytest.mark.parametrize("counts", [{"bad_scores": 11}, {"distinct_scores": 1}])
def test_impossible_scores_stop_in_the_shadow_already(counts: dict[str, int]) -> None:
    assert judged(shadow_moments(np.random.default_rng(1)), health=counts).rule is Rule.HARD_STOP


def test_few_clicks_are_counted_in_words() -> None:
    moments = shadow_moments(np.random.default_rng(1), pairs=2_300)
    clicks = int(moments.pairs_GKP[0, :, PairMeasure.CLICK].sum())

    verdict = judged(moments)

    assert (verdict.outcome, verdict.rule) == (Outcome.HOLD, Rule.INSUFFICIENT)
    assert verdict.reason == f"{clicks} of 200 matured clicks"
    assert verdict.seconds_to_resolve == pytest.approx(
        (200 - clicks) / clicks * 23 * 3_600
    )  # no click of the last hour matured


def test_few_pairs_are_counted_in_words() -> None:
    assert judged(shadow_moments(np.random.default_rng(1), pairs=600)).reason == (
        "600 of 1000 matured shadow-scored impressions"
    )


def test_no_pairs_at_all_are_no_data() -> None:
    verdict = judged(replace(empty_moments(), newest_event_ms=empty_moments().as_of_ms))

    assert (verdict.outcome, verdict.rule) == (Outcome.HOLD, Rule.INSUFFICIENT)
    assert verdict.findings[0].answer is Answer.NO_DATA


def test_a_shadow_that_stopped_scoring_is_stale_though_stable_serves_on() -> None:
    moments = shadow_moments(np.random.default_rng(1))
    later = moments.as_of_ms + 3 * DAY_MS

    verdict = judged(replace(moments, as_of_ms=later, newest_event_ms=later - 1))

    assert (verdict.outcome, verdict.rule) == (Outcome.HOLD, Rule.STALE)
    assert "the shadow has scored nothing" in verdict.reason


def test_scores_that_moved_hold_but_never_roll_back() -> None:
    moments = shadow_moments(np.random.default_rng(1), prediction=1.05)
    moments.score_bins_GAKB[:, 1] = np.roll(moments.score_bins_GAKB[:, 1], 2, axis=2)

    verdict = judged(moments)

    assert (verdict.outcome, verdict.rule) == (Outcome.HOLD, Rule.DRIFT)
    assert verdict.psi is not None
    assert verdict.psi > 0.25


def test_a_model_that_may_be_worse_is_not_shown_safe() -> None:
    verdict = judged(shadow_moments(np.random.default_rng(1), pairs=6_000, noise=0.25))

    assert (verdict.outcome, verdict.rule) == (Outcome.HOLD, Rule.NOT_SHOWN_SAFE)


def test_calibration_is_told_in_the_shadow_but_weighs_nothing() -> None:
    verdict = judged(shadow_moments(np.random.default_rng(6), pairs=100_000, prediction=1.15))

    told = [found for found in verdict.findings if found.metric == "calibration"]

    assert [found.answer for found in told] == [Answer.MONITORED] * 3
    assert told[0].effect == pytest.approx(0.15, abs=0.05)
    assert all(found.weight == 0.0 for found in told)
