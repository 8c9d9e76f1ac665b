from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from control_plane.admin import metrics
from control_plane.admin.told import told_of
from control_plane.domain.moments import FIXED_POINT
from control_plane.domain.rollout import Phase
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.drift import drift_findings
from control_plane.guardrails.look import Look
from control_plane.guardrails.paired_brier import brier_findings
from control_plane.guardrails.replay import pack
from control_plane.guardrails.score_calibration import score_calibration_findings
from control_plane.registry import evidence
from tests.admin.site import Site
from tests.builders import a_plan, a_verdict
from tests.guardrails.builders import a_health, a_judged_plan, a_stage, shadow_moments


def a_told(metric: str, effect: float | None, **overrides: Any) -> Finding:
    ends = {} if effect is None else {"lower": effect - 0.02, "upper": effect + 0.03}
    fields: dict[str, Any] = {"segment": "*", "answer": Answer.MONITORED, "gates": False, "standard_error": 0.01}
    return Finding(metric=metric, **{**fields, "effect": effect, **ends, **overrides})


def test_drift_names_its_limit_and_which_side_of_it_the_scores_surely_are() -> None:
    told = told_of(
        a_verdict(
            findings=(
                a_told("psi", 0.41, safe_margin=0.25, answer=Answer.UNDECIDED, impressions_candidate=5_000),
                a_told("wasserstein", 0.1, safe_margin=0.5, answer=Answer.SAFE),
                a_told("rank_agreement", 0.9, safe_margin=0.8, answer=Answer.UNDECIDED),
                a_told("ks", 0.1),
            )
        )
    )

    assert told.drift_pairs == 5_000
    assert [(row.value, row.interval, row.limit, row.chip.words) for row in told.drift] == [
        ("0.410", "0.390 to 0.440", "at most 0.25", "beyond the limit"),
        ("0.100 logits", "0.080 to 0.130 logits", "at most 0.5 logits", "within the limit"),
        ("0.90", "0.88 to 0.93", "at least 0.8", "undecided"),
        ("0.100", "0.080 to 0.130", "", "monitored"),
    ]


def test_deciles_are_rows_and_those_with_an_estimate_points() -> None:
    told = told_of(
        a_verdict(
            findings=(
                a_told("calibration_by_score", None, segment="decile 1 (scores below 0.8 %)"),
                a_told("calibration_by_score", -0.05, segment="deciles 2–10 (scores from 0.8 %)"),
            )
        )
    )

    assert [(row.tenths, row.scores, row.value) for row in told.deciles] == [
        ("1", "below 0.8 %", "–"),
        ("2–10", "from 0.8 %", "−5.0 %"),
    ]
    assert told.plot.count("<circle") == 1


def test_figures_without_an_estimate_are_left_out() -> None:
    findings = (a_told("calibration_error", None), a_told("brier", 0.001), a_told("brier", 0.002, segment="grid"))

    assert [(row.name, row.value) for row in told_of(a_verdict(findings=findings)).figures] == [
        ("Brier score", "+0.10 %")
    ]


def test_what_has_a_fixed_limit_is_said_in_its_own_words_and_is_no_tile() -> None:
    finding = a_told("external:depth", None, role="hold", answer=Answer.HARM, detail="depth is 2, below 3", value=2.0)
    verdict = a_verdict(findings=(finding,))

    assert [(row.role, row.chip.words, row.sentence) for row in told_of(verdict).limited] == [
        ("hold", "harm", "depth is 2, below 3")
    ]
    assert metrics.tiles(verdict, [], a_plan()) == ()


def test_what_is_told_is_neither_tile_nor_view_type() -> None:
    findings = (a_told("psi", 0.1), a_told("calibration_by_score", 0.1, segment="decile 1 (scores below 1 %)"))
    verdict = a_verdict(findings=findings)

    assert metrics.tiles(verdict, [], a_plan()) == ()
    assert metrics.segment_rows(verdict) == ()


@pytest.mark.parametrize("path", ["/rollouts/{rollout_id}", "/verdicts/1"])
def test_a_page_shows_drift_deciles_and_figures(site: Site, path: str) -> None:
    moments = shadow_moments(np.random.default_rng(1), noise=0.5)
    moments.shadow_reliability_GACBR[0, :, :, 12:18] = [2_000, 110 * FIXED_POINT, 100]
    look = Look(plan=a_judged_plan(), stage=a_stage(Phase.SHADOW), moments=moments)
    findings = (*drift_findings(look), *score_calibration_findings([look])[0], *brier_findings(look))
    verdict = a_verdict(findings=findings, phase=Phase.SHADOW.value)
    site.command("start")
    with site.showcase.sessions.writing() as session:
        evidence.record_verdict(
            session,
            site.rollout_id,
            verdict,
            pack(look.plan, look.stage, moments, a_health()),
            now=site.showcase.now + timedelta(seconds=1),
            next_check_at=None,
        )

    page = site.read(path.format(rollout_id=site.rollout_id))

    assert "Score drift" in page
    assert "Kolmogorov–Smirnov distance" in page
    assert page.count('class="chart by-group"') == 1
    assert "+10.0 %" in page
    assert "Brier score" in page
    assert page.count("<circle") > 6
