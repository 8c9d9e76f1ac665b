"""Findings as tiles and rows, and the calibration plot from what the judge looked at."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from control_plane.admin import charts, wording
from control_plane.admin.charts import EffectPoint, Margins, ReliabilityPoint
from control_plane.admin.told import is_limited
from control_plane.admin.wording import Chip
from control_plane.domain.moments import FIXED_POINT, WHOLE_SURFACE, Moments, ReliabilityMeasure
from control_plane.domain.plan import DIRECTION_OF, Metric, RolloutPlan
from control_plane.domain.rollout import Phase
from control_plane.domain.split import Arm
from control_plane.domain.verdict import Finding, Verdict
from control_plane.guardrails.finding_names import BRIER, CALIBRATION_BY_SCORE, TOLD

CALIBRATION = "calibration"
ENTROPY = "ne"
MAX_LOOKS = 200  # of an effect over time: more are not seen at a tile's width


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One metric of the whole surface. `alone_at` is the log e-value at which its harm alone would roll back."""

    metric: str
    name: str
    role: str
    counts: str  # what its conversions are
    chip: Chip
    effect: str
    interval: str
    effect_means: str
    band: Markup
    trend: Markup
    safe_bar: Markup
    safe_words: str
    safe_when: str
    harm_bar: Markup
    harm_words: str
    impressions: tuple[int, int]
    conversions: tuple[float, float]
    missing: str
    resolves: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentRow:
    """One metric on one view type."""

    segment: str
    name: str
    chip: Chip
    role: str
    effect: str
    interval: str
    band: Markup
    impressions: tuple[int, int]
    conversions: tuple[float, float]
    missing: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BinRow:
    """One score bin of one arm."""

    arm: str
    predicted: float
    observed: float
    impressions: int


def tiles(verdict: Verdict, earlier: Sequence[tuple[int, Verdict]], plan: RolloutPlan) -> tuple[Tile, ...]:
    """Gates first. `earlier` holds (ms since the epoch, verdict), oldest first, this one included."""
    whole = [f for f in verdict.findings if f.segment == WHOLE_SURFACE and f.metric not in TOLD and not is_limited(f)]
    ordered = sorted(whole, key=lambda finding: not finding.gates)
    return tuple(_tile(finding, verdict, earlier, plan) for finding in ordered)


def segment_rows(verdict: Verdict) -> tuple[SegmentRow, ...]:
    found = [f for f in verdict.findings if f.segment != WHOLE_SURFACE and f.metric != CALIBRATION_BY_SCORE]
    return tuple(_segment_row(finding) for finding in sorted(found, key=lambda finding: finding.segment))


def reliability(moments: Moments, *, is_shadow: bool) -> tuple[Markup, tuple[BinRow, ...]]:
    """The whole surface's calibration plot and its numbers: of what each arm served, or of the shadow's pairs."""
    table_GACBR = moments.shadow_reliability_GACBR if is_shadow else moments.reliability_GACBR
    table_ABR = table_GACBR[moments.segments.index(WHOLE_SURFACE)].sum(axis=1)
    bins = [*_bins(table_ABR, Arm.STABLE), *_bins(table_ABR, Arm.CANDIDATE)]
    by_arm = {
        arm: [
            ReliabilityPoint(predicted=row.predicted, observed=row.observed, impressions=row.impressions)
            for row in bins
            if row.arm == arm
        ]
        for arm in ("stable", "candidate")
    }
    return charts.reliability_plot(by_arm["stable"], by_arm["candidate"]), tuple(bins)


def margins_of(finding: Finding) -> Margins:
    """Where the margins lie on the axis of the relative effect, as the judge tests them."""
    harm, safe = finding.harm_margin, finding.safe_margin
    if finding.metric == CALIBRATION:
        return Margins(harm=harm, safe=safe, is_two_sided=True)
    if finding.metric == ENTROPY:
        return Margins(harm=harm, safe=safe)
    if finding.metric in TOLD:
        return Margins(harm=None, safe=None)
    is_better_high = finding.metric not in list(Metric) or DIRECTION_OF[Metric(finding.metric)] > 0
    if is_better_high:
        return Margins(harm=None if harm is None else -harm, safe=None if safe is None else -safe)
    return Margins(harm=_risen(harm), safe=_risen(safe))


def _risen(margin: float | None) -> float | None:
    """The rise of a rate that is better low, whose log is as far from 0 as that of a fall by `margin`."""
    return None if margin is None or margin >= 1 else 1 / (1 - margin) - 1


def _tile(finding: Finding, verdict: Verdict, earlier: Sequence[tuple[int, Verdict]], plan: RolloutPlan) -> Tile:
    name, margins = wording.metric_name(finding.metric), margins_of(finding)
    safe_at = math.log(1 / plan.judge.alpha_advance)
    harm_at = verdict.log_e_threshold - math.log(finding.weight) if finding.weight > 0 else math.inf
    safe_words = f"log E {wording.number(finding.log_e_safe)} of {wording.number(safe_at)}"
    harm_words = f"log E {wording.number(finding.log_e_harm)} of {wording.number(harm_at)}"
    return Tile(
        metric=finding.metric,
        name=name,
        role=_role(finding),
        counts=wording.COUNT_NAMES.get(finding.metric, "Clicks"),
        chip=wording.answer_chip(finding.answer),
        effect=wording.percent(finding.effect, digits=_digits(finding)),
        interval=_interval(finding),
        effect_means=_effect_means(finding.metric, is_shadow=verdict.phase is Phase.SHADOW),
        band=_band(finding, name),
        trend=charts.effect_over_time(_points(finding, earlier), margins=margins, name=name),
        safe_bar=charts.progress_bar(
            finding.log_e_safe, safe_at, kind="safe", words=f"evidence for safe: {safe_words}"
        ),
        safe_words=safe_words if finding.gates and finding.metric != CALIBRATION else "",
        safe_when=f"the interval lies within ±{_unsigned(finding.safe_margin)}"
        if finding.metric == CALIBRATION
        else "",
        harm_bar=charts.progress_bar(finding.log_e_harm, harm_at, kind="harm", words=f"evidence of harm: {harm_words}"),
        harm_words=harm_words if math.isfinite(harm_at) else "",
        impressions=(finding.impressions_stable, finding.impressions_candidate),
        conversions=(finding.conversions_stable, finding.conversions_candidate),
        missing=finding.missing,
        resolves="" if finding.seconds_to_resolve is None else f"in {wording.duration(finding.seconds_to_resolve)}",
    )


def _segment_row(finding: Finding) -> SegmentRow:
    name = wording.metric_name(finding.metric)
    return SegmentRow(
        segment=finding.segment,
        name=name,
        chip=wording.answer_chip(finding.answer),
        role=_role(finding),
        effect=wording.percent(finding.effect, digits=_digits(finding)),
        interval=_interval(finding),
        band=_band(finding, f"{name} on {finding.segment}", is_small=True),
        impressions=(finding.impressions_stable, finding.impressions_candidate),
        conversions=(finding.conversions_stable, finding.conversions_candidate),
        missing=finding.missing,
    )


def _role(finding: Finding) -> str:
    """As the plan has it; 'told' where a finding decides nothing."""
    if finding.role or finding.gates:
        return finding.role or "gate"
    return "guard" if finding.weight else "told"


def _band(finding: Finding, name: str, *, is_small: bool = False) -> Markup:
    return charts.interval_band(
        effect=finding.effect,
        lower=finding.lower,
        upper=finding.upper,
        margins=margins_of(finding),
        name=name,
        is_small=is_small,
    )


def _interval(finding: Finding) -> str:
    if finding.lower is None or finding.upper is None:
        return ""
    digits = _digits(finding)
    return f"{wording.percent(finding.lower, digits=digits)} to {wording.percent(finding.upper, digits=digits)}"


def _digits(finding: Finding) -> int:
    return 2 if finding.metric in (ENTROPY, BRIER) else 1


def _unsigned(margin: float | None) -> str:
    return wording.NOTHING if margin is None else wording.percent(margin).lstrip("+")


def _effect_means(metric: str, *, is_shadow: bool) -> str:
    """Each compares other impressions, which is why their counts differ."""
    match metric:
        case "calibration":
            return f"predicted against observed clicks, wherever it {'was asked' if is_shadow else 'answered'}"
        case "ne":
            return "both on the same impressions, in the shadow"
        case _:
            return "candidate against stable, while both answered"


def _points(finding: Finding, earlier: Sequence[tuple[int, Verdict]]) -> list[EffectPoint]:
    same = [
        (at_ms, found)
        for at_ms, verdict in earlier[-MAX_LOOKS:]
        for found in verdict.findings
        if (found.metric, found.segment) == (finding.metric, finding.segment)
    ]
    return [
        EffectPoint(at_ms=at_ms, effect=found.effect, lower=found.lower, upper=found.upper)
        for at_ms, found in same
        if found.effect is not None and found.lower is not None and found.upper is not None
    ]


def _bins(table_ABR: NDArray[np.int64], arm: Arm) -> list[BinRow]:
    return [
        BinRow(
            arm=arm.name.lower(),
            predicted=row[ReliabilityMeasure.SCORE] / FIXED_POINT / row[ReliabilityMeasure.IMPRESSIONS],
            observed=row[ReliabilityMeasure.CLICK] / row[ReliabilityMeasure.IMPRESSIONS],
            impressions=row[ReliabilityMeasure.IMPRESSIONS],
        )
        for row in table_ABR[arm].tolist()
        if row[ReliabilityMeasure.IMPRESSIONS]
    ]
