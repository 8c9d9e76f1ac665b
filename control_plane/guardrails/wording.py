"""How findings are said to people."""

from control_plane.domain.moments import WHOLE_SURFACE
from control_plane.domain.plan import DIRECTION_OF, Metric, OperationalMetric
from control_plane.domain.verdict import Answer, Finding, percent
from control_plane.guardrails import operational_wording, told_wording
from control_plane.guardrails.finding_names import CALIBRATION_BY_SCORE, RANK_AGREEMENT, TOLD
from control_plane.guardrails.served_calibration import CALIBRATION
from control_plane.guardrails.shadow_entropy import NORMALISED_ENTROPY

THE_SURFACE = "the surface"  # where its name is not known: a verdict does not hold it
METRIC_NAMES = {
    Metric.CTR.value: "CTR",
    Metric.GOOD_CLICK_RATE.value: "good-click rate",
    Metric.HIDE_RATE.value: "hide rate",
    Metric.REVENUE_PER_IMPRESSION.value: "revenue per impression",
    CALIBRATION: "calibration",
    NORMALISED_ENTROPY: "normalised entropy",
    **told_wording.NAMES,
}


def place(finding: Finding, surface: str) -> str:
    """'home_feed', 'home_feed/grid', 'home_feed in decile 10 (scores from 12 %)'; 'view type grid' of no named one."""
    if finding.segment == WHOLE_SURFACE:
        return surface
    if finding.metric == CALIBRATION_BY_SCORE:
        return f"{surface} in {finding.segment}"
    return f"view type {finding.segment}" if surface == THE_SURFACE else f"{surface}/{finding.segment}"


def metric_name(finding: Finding) -> str:
    return METRIC_NAMES.get(finding.metric, finding.metric)


def estimate(finding: Finding, surface: str) -> str:
    """'CTR on home_feed is 3.1 % lower (interval -5.0 % to -1.2 %)'."""
    where = place(finding, surface)
    if finding.metric in TOLD:
        return told_wording.sentence(finding, where)
    if finding.effect is None or finding.lower is None or finding.upper is None:
        return f"{metric_name(finding)} on {where} has no estimate yet"
    if finding.metric == NORMALISED_ENTROPY:
        interval = f"(interval {finding.lower:+.4f} to {finding.upper:+.4f})"
        return f"normalised entropy on {where} differs by {finding.effect:+.4f} {interval}"
    interval = f"(interval {percent(finding.lower)} to {percent(finding.upper)})"
    if finding.metric == CALIBRATION:
        side = "above" if finding.effect >= 0 else "below"
        return f"predicted clicks on {where} are {_size(finding.effect)} {side} observed {interval}"
    side = "higher" if finding.effect >= 0 else "lower"
    return f"{metric_name(finding)} on {where} is {_size(finding.effect)} {side} {interval}"


def sentence(finding: Finding, surface: str) -> str:
    """Of a metric that is compared with a fixed limit, and of any other."""
    if finding.metric in set(OperationalMetric):
        return operational_wording.sentence(finding)
    return finding.detail or estimate(finding, surface)


def harm(finding: Finding, surface: str) -> str:
    if finding.harm_margin is None:
        return sentence(finding, surface)
    return f"{estimate(finding, surface)}, beyond the {margin_text(finding, finding.harm_margin)} margin"


def unproven(finding: Finding, surface: str) -> str:
    """Why a gate has not opened."""
    if finding.role and (finding.limit is not None or finding.detail):
        return sentence(finding, surface)
    if finding.answer in (Answer.NO_DATA, Answer.INSUFFICIENT, Answer.STALE):
        return f"{metric_name(finding)} on {place(finding, surface)}: {finding.missing or 'no data to compare yet'}"
    if finding.safe_margin is None:
        return estimate(finding, surface)
    if finding.metric == CALIBRATION:
        return f"{estimate(finding, surface)}, not yet shown within ±{margin_text(finding, finding.safe_margin)}"
    side = "higher" if is_harmful_upwards(finding) else "lower"
    margin = margin_text(finding, finding.safe_margin)
    return f"{estimate(finding, surface)}, not yet shown to be less than {margin} {side}"


def is_harmful_upwards(finding: Finding) -> bool:
    if finding.metric in (CALIBRATION, NORMALISED_ENTROPY, *TOLD):
        return finding.metric != RANK_AGREEMENT
    return DIRECTION_OF[Metric(finding.metric)] < 0


def about(seconds: float) -> str:
    """A duration as people say it: '40 minutes', '3.2 days'."""
    for size, unit in ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{max(1.0, seconds):.0f} seconds"


def _size(effect: float) -> str:
    return percent(abs(effect), signed=False)


def margin_text(finding: Finding, margin: float) -> str:
    """In the metric's unit; relative ones in per cent."""
    if finding.metric in TOLD:
        return told_wording.limit_text(finding, margin)
    return f"{margin:.3g}" if finding.metric == NORMALISED_ENTROPY else f"{margin * 100:.3g} %"
