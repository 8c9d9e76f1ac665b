import math
from typing import Any

import pytest

from control_plane.admin import metrics
from control_plane.domain.verdict import Answer, Finding
from tests.builders import a_plan, a_verdict


def a_finding(metric: str = "ctr", **overrides: Any) -> Finding:
    fields: dict[str, Any] = {
        "metric": metric,
        "segment": "*",
        "answer": Answer.UNDECIDED,
        "gates": True,
        "effect": -0.004,
        "lower": -0.02,
        "upper": 0.012,
        "harm_margin": 0.01,
        "safe_margin": 0.03,
        "weight": 0.25,
    }
    return Finding(**{**fields, **overrides})


def test_margins_lie_below_zero_for_what_is_better_high() -> None:
    margins = metrics.margins_of(a_finding("ctr"))

    assert (margins.harm, margins.safe, margins.is_two_sided) == (-0.01, -0.03, False)


def test_margins_lie_above_zero_for_what_is_better_low_as_far_off_in_logs() -> None:
    margins = metrics.margins_of(a_finding("hide_rate", harm_margin=0.03, safe_margin=0.08))

    assert margins.harm is not None
    assert math.log1p(margins.harm) == pytest.approx(-math.log1p(-0.03))


def test_more_entropy_is_worse_and_calibration_is_wrong_both_ways() -> None:
    assert metrics.margins_of(a_finding("ne", harm_margin=0.005)).harm == 0.005
    assert metrics.margins_of(a_finding("calibration")).is_two_sided


def test_gates_come_first_and_view_types_apart() -> None:
    verdict = a_verdict(
        findings=(
            a_finding("hide_rate", gates=False),
            a_finding("ctr"),
            a_finding("ctr", segment="grid"),
        )
    )

    assert [tile.metric for tile in metrics.tiles(verdict, [], a_plan())] == ["ctr", "hide_rate"]
    assert [row.segment for row in metrics.segment_rows(verdict)] == ["grid"]


def test_harm_of_a_light_hypothesis_needs_more_evidence_to_roll_back_alone() -> None:
    verdict = a_verdict(findings=(a_finding(weight=0.25),), log_e_threshold=3.0)

    tile = metrics.tiles(verdict, [], a_plan())[0]

    assert tile.harm_words == f"log E 0.0 of {3.0 + math.log(4):.1f}"


def test_a_metric_without_data_is_a_dash_and_no_number() -> None:
    silent = a_finding(answer=Answer.NO_DATA, effect=None, lower=None, upper=None, missing="0 of 100 clicks")

    tile = metrics.tiles(a_verdict(findings=(silent,)), [], a_plan())[0]

    assert (tile.effect, tile.interval, tile.chip.words, tile.missing) == ("–", "", "no data", "0 of 100 clicks")


def test_a_trend_follows_the_same_metric_over_earlier_verdicts() -> None:
    looks = [(at, a_verdict(findings=(a_finding(effect=at / 1_000),))) for at in range(5)]

    tile = metrics.tiles(looks[-1][1], looks, a_plan())[0]

    assert "over 5 looks: from +0.0 % to +0.4 %" in tile.trend


def test_a_monitored_metric_of_no_weight_shows_no_way_to_a_rollback() -> None:
    verdict = a_verdict(findings=(a_finding(gates=False, weight=0.0, answer=Answer.MONITORED),))

    assert metrics.tiles(verdict, [], a_plan())[0].harm_words == ""
