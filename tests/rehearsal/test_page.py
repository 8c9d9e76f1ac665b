import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from control_plane.rehearsal import plots
from control_plane.rehearsal.audience import Effects
from control_plane.rehearsal.page import page
from control_plane.rehearsal.rehearse import rehearse
from control_plane.rehearsal.report import Report
from control_plane.rehearsal.scenarios import Scenario
from tests.rehearsal.builders import AUDIENCE, EQUAL, a_scenario, a_trial


def a_report(*scenarios: Scenario, runs: int = 2, view_type: str = "grid") -> Report:
    trial = a_trial(replace(AUDIENCE, view_types={view_type: 1.0}))
    return Report(trial=trial, results=rehearse(trial, [EQUAL, *scenarios], runs=runs), command="surefoot rehearse")


def drawn(report: Report) -> dict[str, str]:
    results = report.results
    return {
        "outcomes": plots.outcomes(results),
        "ramp": plots.ramp(results),
        "delays": plots.delays(results),
        "costs": plots.costs(results, days=30),
    }


def test_every_plot_is_sound_svg_and_the_same_each_time() -> None:
    report = a_report(a_scenario(Effects(ctr=-0.4)))
    first, again = drawn(report), drawn(report)

    assert first == again
    for svg in first.values():
        assert ElementTree.fromstring(svg).tag.endswith("svg")


@pytest.mark.parametrize("runs", [1, 2])
def test_an_equal_candidate_alone_makes_a_page_too(runs: int) -> None:
    report = a_report(runs=runs)
    plots_by_name = drawn(report)

    html = page(report, plots_by_name)

    assert plots_by_name["delays"] == plots_by_name["costs"] == ""
    assert "How long harm lasts" not in html
    assert "An equal candidate reaches 100 %" in html


def test_names_that_look_like_markup_stay_text() -> None:
    report = a_report(view_type="<script>alert(1)</script>")

    html = page(report, drawn(report))

    assert "<script" not in html
    assert "&lt;script&gt;" in html
