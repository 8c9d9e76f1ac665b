from typing import Any

import pytest

from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails import told_wording, wording
from control_plane.guardrails.finding_names import TOLD


def told(metric: str, effect: float | None = 0.1, **overrides: Any) -> Finding:
    ends = {} if effect is None else {"lower": effect - 0.02, "upper": effect + 0.03}
    fields: dict[str, Any] = {"segment": "*", "answer": Answer.MONITORED, "gates": False, "standard_error": 0.01}
    return Finding(metric=metric, **{**fields, "effect": effect, **ends, **overrides})


@pytest.mark.parametrize(
    ("finding", "sentence"),
    [
        (
            told("psi", 0.31),
            "the candidate's scores on home_feed are spread differently from stable's: "
            "PSI 0.310 (interval 0.290 to 0.340)",
        ),
        (
            told("js", 0.01, lower=0.0),
            "the candidate's scores on home_feed are not shown to be spread differently from stable's: "
            "Jensen–Shannon divergence 0.0100 nats (interval 0.0000 to 0.0400)",
        ),
        (
            told("wasserstein", 0.2),
            "the candidate's scores on home_feed lie 0.200 logits from stable's on average (interval 0.180 to 0.230)",
        ),
        (
            told("ks", 0.2),
            "the candidate's scores on home_feed are spread differently from stable's: "
            "Kolmogorov–Smirnov distance 0.200 (interval 0.180 to 0.230)",
        ),
        (
            told("rank_agreement", 0.71),
            "the candidate ranks impressions on home_feed differently from stable: "
            "rank agreement 0.71 (interval 0.69 to 0.74)",
        ),
        (
            told("rank_agreement", 0.99, upper=1.0),
            "the candidate ranks impressions on home_feed as stable does, as far as can be told: "
            "rank agreement 0.99 (interval 0.97 to 1.00)",
        ),
        (
            told("mean_log_ratio", -0.1),
            "the candidate's scores on home_feed are 9.5 % lower than stable's in geometric mean "
            "(interval -11.3 % to -6.8 %)",
        ),
        (
            told("brier", -0.01, segment="grid"),
            "the candidate's Brier score on home_feed/grid is 1.00 % lower than stable's (interval -3.00 % to +2.00 %)",
        ),
        (
            told("calibration_by_score", segment="decile 10 (scores from 12 %)"),
            "the candidate's predicted clicks on home_feed in decile 10 (scores from 12 %) are 10.0 % above observed "
            "(interval +8.0 % to +13.0 %)",
        ),
        (
            told("calibration_shift", -0.1),
            "the candidate predicts 10.0 % fewer clicks for one that comes on home_feed than stable does "
            "(interval -12.0 % to -7.0 %)",
        ),
        (
            told("calibration_error_of_stable", 0.02),
            "stable's scores on home_feed are off by 2.0 % of the click rate within a score bin "
            "(interval 0.0 % to 5.0 %)",
        ),
    ],
)
def test_what_is_told_says_direction_size_unit_and_interval(finding: Finding, sentence: str) -> None:
    assert wording.estimate(finding, "home_feed") == sentence


@pytest.mark.parametrize("metric", TOLD)
def test_everything_told_has_a_name_and_can_be_said_without_an_estimate(metric: str) -> None:
    finding = told(metric, None)

    assert wording.metric_name(finding) != metric
    assert wording.estimate(finding, "home_feed") == f"{wording.metric_name(finding)} on home_feed has no estimate yet"
    assert told_wording.short(finding) in (f"{wording.metric_name(finding)}: no estimate yet", "*: no estimate yet")


@pytest.mark.parametrize(
    ("metric", "limit", "text"),
    [
        ("psi", 0.25, "0.25"),
        ("js", 0.03, "0.03 nats"),
        ("wasserstein", 0.5, "0.5 logits"),
        ("rank_agreement", 0.8, "0.8"),
        ("mean_log_ratio", 0.1, "±10.5 %"),
        ("ctr", 0.03, "3 %"),
        ("ne", 0.005, "0.005"),
    ],
)
def test_a_margin_is_said_in_its_metric_s_unit(metric: str, limit: float, text: str) -> None:
    assert wording.margin_text(told(metric), limit) == text


@pytest.mark.parametrize(
    ("metric", "effect", "limit", "says"),
    [
        ("psi", 0.4, 0.25, "surely beyond it"),
        ("psi", 0.26, 0.25, "not sure to be within it"),
        ("rank_agreement", 0.5, 0.8, "surely beyond it"),
        ("rank_agreement", 0.9, 0.8, "not sure to be within it"),
        ("mean_log_ratio", -0.4, 0.25, "surely beyond it"),
        ("mean_log_ratio", 0.1, 0.25, "not sure to be within it"),
    ],
)
def test_a_limit_is_said_with_the_side_on_which_the_whole_interval_lies(
    metric: str, effect: float, limit: float, says: str
) -> None:
    finding = told(metric, effect, safe_margin=limit, answer=Answer.UNDECIDED)

    assert told_wording.short(finding).endswith(says)
    assert told_wording.is_beyond_limit(finding) is (says == "surely beyond it")


def test_of_a_verdict_that_does_not_know_its_surface_a_view_type_is_called_one() -> None:
    assert wording.place(told("ctr", segment="grid"), wording.THE_SURFACE) == "view type grid"
