import numpy as np
import pytest

from control_plane.domain.moments import Measure, Moments
from control_plane.domain.rollout import Stage
from control_plane.domain.split import Arm
from control_plane.domain.verdict import Outcome, Rule, Verdict
from control_plane.guardrails.judge import judge
from tests.guardrails.builders import a_health, a_judged_plan, a_stage, plane, simulated_moments

WEEK = (2_500,) * 7  # Monday to Sunday
WEEKEND = (5, 6)
LATEST_COMPLETE = (3, 4, 5)  # Sunday has ended, but its labels have not matured
LAST_GATE: Stage = a_stage(advances_left=2)


def week(seed: int = 1) -> Moments:
    return simulated_moments(np.random.default_rng(seed), impressions=1_400_000, shares_bp=WEEK)


def without_candidate_clicks(moments: Moments, days: tuple[int, ...], part: float) -> Moments:
    rng = np.random.default_rng(2)
    for day in days:
        clicks = plane(moments, Measure.CLICK)[1:, day, Arm.CANDIDATE]
        clicks[:] = rng.binomial(clicks, 1 - part)
        good = plane(moments, Measure.GOOD_CLICK)[1:, day, Arm.CANDIDATE]
        good[:] = np.minimum(good, clicks)
    moments.counts_MGSAK[:, 0] = moments.counts_MGSAK[:, 1:].sum(axis=1)
    return moments


def judged(moments: Moments, *, stage: Stage = LAST_GATE, novelty_days: int = 3) -> Verdict:
    plan = a_judged_plan(
        judge={"loss_budget": 0.05, "novelty_days": novelty_days, "alpha_rollback": 1e-9},
        calibration={"role": "monitor"},
    )
    return judge(plan, stage, moments, a_health())


def test_a_lasting_effect_passes_the_last_gates() -> None:
    assert judged(week()).outcome is Outcome.ADVANCE


def test_an_effect_that_wore_off_in_the_last_days_holds() -> None:
    faded = without_candidate_clicks(week(), LATEST_COMPLETE, 0.12)

    verdict = judged(faded)

    assert (verdict.outcome, verdict.rule) == (Outcome.HOLD, Rule.NOVELTY)
    assert "over the last 3 complete days" in verdict.reason


def test_a_weekend_unlike_the_weekdays_holds() -> None:
    weekend = without_candidate_clicks(week(), WEEKEND, 0.12)

    verdict = judged(weekend)

    assert (verdict.outcome, verdict.rule) == (Outcome.HOLD, Rule.NOVELTY)
    assert "on weekends and" in verdict.reason


@pytest.mark.parametrize(("stage", "novelty_days"), [(a_stage(advances_left=3), 3), (LAST_GATE, 0)])
def test_the_question_is_asked_at_the_last_gates_only_and_may_be_turned_off(stage: Stage, novelty_days: int) -> None:
    faded = without_candidate_clicks(week(), WEEKEND, 0.12)

    assert judged(faded, stage=stage, novelty_days=novelty_days).outcome is Outcome.ADVANCE


def test_before_a_complete_day_has_passed_there_is_nothing_to_ask() -> None:
    one_day = simulated_moments(np.random.default_rng(1), impressions=1_000_000)

    assert judged(one_day).outcome is Outcome.ADVANCE
