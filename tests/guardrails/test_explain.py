from dataclasses import replace

import numpy as np

from control_plane.domain.moments import FIXED_POINT, Moments
from control_plane.domain.rollout import Phase
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.drift import drift_findings
from control_plane.guardrails.explain import explain
from control_plane.guardrails.finding_names import TOLD
from control_plane.guardrails.judge import judge
from control_plane.guardrails.look import Look
from control_plane.guardrails.paired_brier import brier_findings
from control_plane.guardrails.score_calibration import score_calibration_findings
from control_plane.guardrails.wording import about
from tests.builders import a_verdict
from tests.guardrails.builders import a_health, a_judged_plan, a_stage, empty_moments, shadow_moments, simulated_moments


def explained(moments: Moments, phase: Phase = Phase.RAMPING) -> str:
    return explain(judge(a_judged_plan(), a_stage(phase), moments, a_health()))


def test_a_rollback_says_what_was_compared_and_what_is_to_blame() -> None:
    text = explained(simulated_moments(np.random.default_rng(1), impressions=600_000, effect=-0.15))

    assert text.startswith("ROLL BACK (rule: harm): CTR on home_feed is ")
    assert "ramping, step 2, candidate at 25.0 %, generation 1" in text
    assert "served from 2024-10-07 00:00:00 UTC to 2024-10-08 00:00:00 UTC" in text
    assert "culprits: ctr/*" in text
    assert "(blamed: model)" in text
    assert "acts at (e 20)" in text


def test_a_hold_says_what_is_missing_and_for_about_how_long() -> None:
    text = explained(simulated_moments(np.random.default_rng(1), impressions=4_000))

    assert "missing: " in text
    assert "of 100 matured clicks on candidate, about " in text
    assert "waiting:  about " in text


def test_a_shadow_is_explained_by_entropy_and_drift() -> None:
    text = explained(shadow_moments(np.random.default_rng(1), noise=0.02), Phase.SHADOW)

    assert text.startswith("may advance (rule: shown_safe): normalised entropy on home_feed differs by ")
    assert "PSI " in text


def test_what_decides_is_told_in_full_and_what_is_only_told_in_a_line_each() -> None:
    moments = shadow_moments(np.random.default_rng(1), noise=0.3)
    moments.shadow_reliability_GACBR[0, :, :, 12:18] = [2_000, 100 * FIXED_POINT, 100]
    look = Look(plan=a_judged_plan(), stage=a_stage(Phase.SHADOW), moments=moments)
    verdict = judge(look.plan, look.stage, moments, a_health())
    told = (*drift_findings(look), *score_calibration_findings([look])[0], *brier_findings(look))
    kept = [finding for finding in verdict.findings if finding.metric not in TOLD]

    lines = explain(replace(verdict, findings=(*kept, *told))).splitlines()

    drift = lines.index("  score drift on 20000 shadow-scored impressions (may hold, never rolls back):")
    assert lines[drift + 1].startswith("    PSI 0.")
    assert lines[drift + 1].endswith(", limit 0.25: surely within it")
    by_score = lines.index("  calibration by score, predicted against observed clicks (decides nothing):")
    assert lines[by_score + 1].startswith("    decile")
    besides = lines.index("  told besides (decides nothing):")
    assert any("Brier score on view type grid" in line for line in lines[besides:])
    assert "        compared: both versions' predictions of the same impressions, in the shadow" in lines[:drift]
    assert max(len(line) for line in lines) < 220


def test_a_policy_for_the_lack_of_an_answer_is_said() -> None:
    silent = Finding(metric="ctr", segment="*", answer=Answer.NO_DATA, gates=True, role="gate", policy="hold")

    text = explain(a_verdict(findings=(silent,)))

    assert "without an answer the plan says: hold for a person" in text


def test_nothing_at_all_is_explained_too() -> None:
    text = explained(replace(empty_moments(), newest_event_ms=None), Phase.WARMING)

    assert text.startswith("hold (rule: insufficient): warming: nothing to judge")
    assert "for how long is not known" in text


def test_durations_are_said_as_people_say_them() -> None:
    assert [about(seconds) for seconds in (0.2, 45, 600, 7_200, 40_000, 400_000, 4e7)] == [
        "1 seconds",
        "45 seconds",
        "10 minutes",
        "2.0 hours",
        "11 hours",
        "4.6 days",
        "463 days",
    ]


def test_a_verdict_of_an_adaptive_plan_says_what_the_loss_budget_allows() -> None:
    moments = simulated_moments(np.random.default_rng(1), impressions=2_000_000, shares_bp=(500,))
    verdict = judge(a_judged_plan(adaptive=True), a_stage(share_bp=500, next_share_bp=2_500), moments, a_health())

    assert verdict.safe_share_bp
    assert f"budget:   surely kept to at up to {verdict.safe_share_bp / 100:g} % of the traffic" in explain(verdict)
    assert "surely kept to at no raise" in explain(replace(verdict, safe_share_bp=0))
    assert "budget:" not in explain(replace(verdict, safe_share_bp=None))
