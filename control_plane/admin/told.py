"""What a verdict tells beside its gates: drift, calibration by score, the Brier score, serving."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from control_plane.admin import charts, wording
from control_plane.admin.charts import GroupPoint
from control_plane.admin.wording import Chip
from control_plane.domain.moments import WHOLE_SURFACE
from control_plane.domain.plan import OperationalMetric
from control_plane.domain.verdict import Answer, Finding, Verdict
from control_plane.guardrails import told_wording
from control_plane.guardrails import wording as guardrails_wording
from control_plane.guardrails.external import EXTERNAL
from control_plane.guardrails.finding_names import (
    BRIER,
    CALIBRATION_BY_SCORE,
    CALIBRATION_ERROR,
    CALIBRATION_SHIFT,
    DRIFT,
    STABLE_CALIBRATION_ERROR,
)

SEGMENT = re.compile(r"deciles? (?P<tenths>\S+) \((?:scores )?(?P<scores>.*)\)")
MEANS = {
    "psi": "how differently scores are spread over tenths of stable’s; above 0.25 is usually called a shift",
    "js": "the same over all score bins, 0 to 0.69",
    "wasserstein": "how far scores lie apart on average, as log odds",
    "ks": "the largest difference of the shares of scores below any point",
    "rank_agreement": "Kendall’s τ: 1 is the same order of impressions, 0 none in common",
    "mean_log_ratio": "how much higher the candidate scores the same impressions, in geometric mean",
    BRIER: "squared error of the same impressions, in the shadow; less is better",
    CALIBRATION_SHIFT: "the candidate’s predicted over observed clicks beside stable’s, on the same days",
    CALIBRATION_ERROR: "how far predictions are off within a score bin, as part of the click rate",
    STABLE_CALIBRATION_ERROR: "the same of stable’s predictions",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ToldRow:
    """One measure; `limit` is empty where the plan has none."""

    name: str
    means: str
    value: str
    interval: str
    limit: str
    chip: Chip


@dataclass(frozen=True, kw_only=True, slots=True)
class DecileRow:
    tenths: str
    scores: str
    value: str
    interval: str
    impressions: int
    clicks: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitedRow:
    role: str
    chip: Chip
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """Each part is empty where the verdict says nothing of it."""

    drift: tuple[ToldRow, ...]
    drift_pairs: int
    figures: tuple[ToldRow, ...]  # calibration beside the deciles, and the Brier score
    deciles: tuple[DecileRow, ...]
    plot: Markup
    limited: tuple[LimitedRow, ...]


def told_of(verdict: Verdict) -> Told:
    surface = [finding for finding in verdict.findings if finding.segment == WHOLE_SURFACE]
    drift = [finding for finding in surface if finding.metric in DRIFT]
    deciles = [finding for finding in verdict.findings if finding.metric == CALIBRATION_BY_SCORE]
    return Told(
        drift=tuple(_row(finding) for finding in drift),
        drift_pairs=drift[0].impressions_candidate if drift else 0,
        figures=_rows(surface, (CALIBRATION_SHIFT, CALIBRATION_ERROR, STABLE_CALIBRATION_ERROR, BRIER)),
        deciles=tuple(_decile_row(finding) for finding in deciles),
        plot=charts.by_group(_points(deciles), name="Predicted over observed clicks of the candidate"),
        limited=tuple(_limited_row(finding) for finding in surface if is_limited(finding)),
    )


def is_limited(finding: Finding) -> bool:
    """Whether it is compared with a fixed limit: how the candidate serves, or a number of another system."""
    return finding.metric in set(OperationalMetric) or finding.metric.startswith(f"{EXTERNAL}:")


def _limited_row(finding: Finding) -> LimitedRow:
    sentence = guardrails_wording.sentence(finding, guardrails_wording.THE_SURFACE)
    return LimitedRow(role=finding.role, chip=wording.answer_chip(finding.answer), sentence=sentence)


def _rows(findings: Sequence[Finding], metrics: Sequence[str]) -> tuple[ToldRow, ...]:
    """In the order of `metrics`, only what has an estimate."""
    known = {finding.metric: finding for finding in findings if finding.effect is not None}
    return tuple(_row(known[metric]) for metric in metrics if metric in known)


def _row(finding: Finding) -> ToldRow:
    limit = "" if finding.safe_margin is None else told_wording.limit_text(finding, finding.safe_margin)
    side = "at least " if finding.metric == "rank_agreement" else "at most "
    return ToldRow(
        name=wording.metric_name(finding.metric),
        means=MEANS[finding.metric],
        value=_figure(finding, finding.effect),
        interval=_interval(finding),
        limit="" if not limit else limit if limit.startswith("±") else side + limit,
        chip=_chip(finding),
    )


def _chip(finding: Finding) -> Chip:
    if told_wording.is_beyond_limit(finding):
        return Chip(words="beyond the limit", colour="warn", icon="alert")
    if finding.answer is Answer.SAFE:
        return Chip(words="within the limit", colour="good", icon="check")
    return wording.answer_chip(finding.answer)


def _decile_row(finding: Finding) -> DecileRow:
    tenths, scores = _named(finding.segment)
    return DecileRow(
        tenths=tenths,
        scores=scores,
        value=_figure(finding, finding.effect),
        interval=_interval(finding),
        impressions=finding.impressions_candidate,
        clicks=finding.conversions_candidate,
    )


def _points(deciles: Sequence[Finding]) -> list[GroupPoint]:
    return [
        GroupPoint(label=_named(f.segment)[0], effect=f.effect, lower=f.lower, upper=f.upper)
        for f in deciles
        if f.effect is not None and f.lower is not None and f.upper is not None
    ]


def _named(segment: str) -> tuple[str, str]:
    found = SEGMENT.fullmatch(segment)
    return (found["tenths"], found["scores"]) if found else (segment, "")


def _interval(finding: Finding) -> str:
    if finding.lower is None or finding.upper is None:
        return ""
    lower = _figure(finding, finding.lower).removesuffix(told_wording.UNITS.get(finding.metric, ""))
    return f"{lower} to {_figure(finding, finding.upper)}"


def _figure(finding: Finding, value: float | None) -> str:
    return wording.NOTHING if value is None else told_wording.figure(finding, value).replace("-", "−")
