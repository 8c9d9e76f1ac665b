import re
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from control_plane.admin import charts
from control_plane.admin.charts import EffectPoint, GroupPoint, Margins, ReliabilityPoint

DROP = Margins(harm=-0.01, safe=-0.03)  # of a rate that is better high
BAND = Margins(harm=0.02, safe=0.05, is_two_sided=True)


def test_a_traffic_bar_is_as_wide_as_the_shares() -> None:
    bar = elements(charts.traffic_bar(2_500))

    stable, candidate = (float(rect.attrib["width"]) for rect in bar.iter("rect"))
    assert candidate == pytest.approx(25)
    assert stable == pytest.approx(75, abs=0.5)
    assert bar.attrib["aria-label"] == "stable 75 %, candidate 25 %"


def test_one_basis_point_is_still_seen() -> None:
    candidate = list(elements(charts.traffic_bar(1)).iter("rect"))[1]

    assert float(candidate.attrib["width"]) >= 0.5


@pytest.mark.parametrize("scale", [0.001, 0.05, 3.0, 900.0])
def test_a_band_keeps_its_parts_in_order_and_on_the_canvas(scale: float) -> None:
    band = elements(
        charts.interval_band(effect=-scale / 2, lower=-scale, upper=scale / 4, margins=DROP, name="Click rate")
    )

    points = [float(circle.attrib["cx"]) for circle in band.iter("circle")]
    ends = [float(line.attrib["x1"]) for line in band.iter("line")]
    assert len(points) == 1
    assert all(0 <= x <= charts.TILE_WIDTH for x in [*points, *ends])


def test_the_harmful_side_lies_left_of_safe_for_what_is_better_high() -> None:
    band = elements(charts.interval_band(effect=0.0, lower=-0.01, upper=0.01, margins=DROP, name="Click rate"))

    zone = next(rect for rect in band.iter("rect") if rect.attrib.get("class") == "c-zone-bad")
    zero = next(line for line in band.iter("line") if line.attrib["class"] == "c-zero")
    assert float(zone.attrib["x"]) + float(zone.attrib["width"]) < float(zero.attrib["x1"])


def test_calibration_is_wrong_on_either_side() -> None:
    band = elements(charts.interval_band(effect=0.0, lower=-0.01, upper=0.01, margins=BAND, name="Calibration"))

    zones = [rect for rect in band.iter("rect") if rect.attrib.get("class") == "c-zone-bad"]
    assert len(zones) == 2
    assert len([line for line in band.iter("line") if line.attrib["class"] == "c-margin-safe"]) == 2


def test_an_interval_that_runs_off_ends_in_an_arrow() -> None:
    band = str(charts.interval_band(effect=0.0, lower=-5.0, upper=0.01, margins=DROP, name="Click rate"))

    assert len(re.findall(r'<polyline class="c-interval"', band)) == 1


def test_a_band_without_an_estimate_says_so() -> None:
    band = elements(charts.interval_band(effect=None, lower=None, upper=None, margins=DROP, name="Click rate"))

    assert band.attrib["aria-label"] == "Click rate: no estimate yet"
    assert list(band.iter("circle")) == []


def test_a_chart_tells_those_who_cannot_see_it() -> None:
    band = elements(charts.interval_band(effect=-0.02, lower=-0.05, upper=0.01, margins=DROP, name="Click rate"))

    assert band.attrib["role"] == "img"
    assert band.attrib["aria-label"].startswith(
        "Click rate: effect −2.0 %, interval −5.0 % to +1.0 %; harm margin −1.0 %"
    )


@pytest.mark.parametrize(("value", "width"), [(-4.0, 0), (0.0, 0), (1.5, 50), (3.0, 100), (400.0, 100)])
def test_progress_ends_at_the_threshold(value: float, width: float) -> None:
    bar = elements(charts.progress_bar(value, 3.0, kind="safe", words="evidence"))

    assert float(list(bar.iter("rect"))[1].attrib["width"]) == pytest.approx(width)


def test_one_look_is_no_line_yet() -> None:
    point = EffectPoint(at_ms=0, effect=0.01, lower=-0.1, upper=0.1)

    assert charts.effect_over_time([point], margins=DROP, name="Click rate") == ""
    assert charts.effect_over_time([point, point], margins=DROP, name="Click rate") != ""


def test_a_line_keeps_on_its_canvas_however_wide_the_first_interval_was() -> None:
    points = [EffectPoint(at_ms=at, effect=0.5 / at, lower=-9.0 / at, upper=900.0 / at) for at in range(1, 50)]

    line = elements(charts.effect_over_time(points, margins=DROP, name="Click rate"))

    drawn = next(iter(line.iter("polygon"))).attrib["points"]
    assert all(0 <= float(y) <= 48 for y in re.findall(r",([-\d.]+)", drawn))


def test_reliability_leaves_out_bins_that_say_nothing() -> None:
    many = ReliabilityPoint(predicted=0.05, observed=0.04, impressions=500)
    few = ReliabilityPoint(predicted=0.9, observed=1.0, impressions=3)
    silent = ReliabilityPoint(predicted=0.001, observed=0.0, impressions=500)

    plot = elements(charts.reliability_plot([many], [many, few, silent]))

    assert len(list(plot.iter("circle"))) == 1
    assert len([rect for rect in plot.iter("rect") if rect.attrib["class"] == "c-dot-stable"]) == 1


def test_reliability_without_data_is_no_plot() -> None:
    assert charts.reliability_plot([], []) == ""


def test_groups_of_scores_stand_side_by_side_on_the_canvas_however_wide_one_interval_is() -> None:
    points = [
        GroupPoint(label=str(at), effect=0.1 / at, lower=-0.2, upper=90.0 if at == 1 else 0.2) for at in range(1, 8)
    ]

    plot = elements(charts.by_group(points, name="Predicted over observed"))

    circles = list(plot.iter("circle"))
    xs = [float(circle.attrib["cx"]) for circle in circles]
    assert xs == sorted(xs)
    assert len(circles) == 7
    whiskers = [line for line in plot.iter("line") if line.attrib["class"] == "c-interval"]
    assert all(0 <= float(line.attrib[end]) <= 260 for line in whiskers for end in ("y1", "y2"))
    heights = [float(line.attrib["y2"]) - float(line.attrib["y1"]) for line in whiskers[1:]]
    assert min(heights) > 50
    assert plot.attrib["aria-label"].startswith("Predicted over observed in 7 groups")


@pytest.mark.parametrize(("reach", "top"), [(0.004, "+1.0 %"), (0.03, "+4 %"), (0.19, "+20 %"), (2.3, "+400 %")])
def test_an_axis_of_groups_ends_at_a_round_value_beyond_its_intervals(reach: float, top: str) -> None:
    plot = elements(charts.by_group([GroupPoint(label="1", effect=0.0, lower=-reach, upper=reach)], name="x"))

    ticks = [text.text for text in plot.iter("text") if text.attrib["class"] == "c-tick"]
    assert ticks[4] == top
    assert ticks[2] == "0 %"


def test_no_groups_are_no_plot() -> None:
    assert charts.by_group([], name="x") == ""


def test_names_cannot_break_out_of_a_chart() -> None:
    band = charts.interval_band(effect=None, lower=None, upper=None, margins=DROP, name='"><script>')

    assert "<script>" not in band


def elements(chart: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(str(chart))
