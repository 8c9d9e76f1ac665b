"""A verdict as a person wants to read it: what was compared, what came out, what is missing and for how long."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from control_plane.domain.plan import Metric, OnMissing
from control_plane.domain.verdict import Answer, Finding, Outcome, Verdict, percent
from control_plane.guardrails import told_wording, wording
from control_plane.guardrails.finding_names import (
    CALIBRATION_BY_SCORE,
    CALIBRATION_ERROR,
    CALIBRATION_SHIFT,
    DRIFT,
    PSI,
    STABLE_CALIBRATION_ERROR,
    TOLD,
)
from control_plane.guardrails.served_calibration import CALIBRATION
from control_plane.guardrails.shadow_entropy import NORMALISED_ENTROPY

OUTCOME_WORDS = {
    Outcome.ADVANCE: "may advance",
    Outcome.HOLD: "hold",
    Outcome.ROLL_BACK: "ROLL BACK",
}

CALIBRATION_MEASURES = (CALIBRATION_BY_SCORE, CALIBRATION_SHIFT, CALIBRATION_ERROR, STABLE_CALIBRATION_ERROR)
COMPARED = {
    **{metric.value: "candidate's users with stable's, within each day and split" for metric in Metric},
    CALIBRATION: "the candidate's predicted with its observed clicks",
    NORMALISED_ENTROPY: "both versions' predictions of the same impressions, in the shadow",
}
POLICY_WORDS = {
    OnMissing.EXTEND: "wait and look again",
    OnMissing.HOLD: "hold for a person",
    OnMissing.IGNORE: "go on without it",
    OnMissing.ROLL_BACK: "roll back",
}


def explain(verdict: Verdict) -> str:
    """Plain text of some twenty lines, complete without the plan or the moments."""
    return "\n".join(_lines(verdict)) + "\n"


def _lines(verdict: Verdict) -> Iterator[str]:
    yield f"{OUTCOME_WORDS[verdict.outcome]} (rule: {verdict.rule}): {verdict.reason}"
    where = f"{verdict.phase}, step {verdict.step + 1}" if verdict.step >= 0 else verdict.phase
    share = percent(verdict.share_bp / 10_000, signed=False)
    yield f"  at:       {where}, candidate at {share}, generation {verdict.generation}"
    yield f"  compared: candidate with stable, users {_window(verdict)}"
    yield f"  users:    {verdict.users_candidate} candidate, {verdict.users_stable} stable" + _crossed(verdict)
    yield from _evidence_lines(verdict)
    bar = _evidence(verdict.log_e_threshold)
    yield f"  rollback: evidence for harm {_evidence(verdict.log_e_rollback)}, acts at {bar}"
    yield f"  split:    evidence for a wrong split {_evidence(verdict.log_e_sample_ratio)}"
    if verdict.safe_share_bp is not None:
        allowed = f"up to {verdict.safe_share_bp / 100:g} % of the traffic" if verdict.safe_share_bp else "no raise"
        yield f"  budget:   surely kept to at {allowed}, as far as evidence goes"
    if verdict.psi is not None and not any(finding.metric == PSI for finding in verdict.findings):
        yield f"  drift:    PSI of the scores {verdict.psi:.3f}"
    if verdict.culprits:
        yield f"  culprits: {', '.join(verdict.culprits)} (blamed: {verdict.blame})"
    if verdict.outcome is Outcome.HOLD:
        yield f"  waiting:  {_wait(verdict.seconds_to_resolve)}"


def _window(verdict: Verdict) -> str:
    if verdict.window_start_ms is None:
        return f"(none seen by {_time(verdict.as_of_ms)})"
    return f"served from {_time(verdict.window_start_ms)} to {_time(verdict.as_of_ms)}"


def _crossed(verdict: Verdict) -> str:
    return f"; {percent(verdict.cross_exposure, signed=False)} met both" if verdict.cross_exposure else ""


def _evidence_lines(verdict: Verdict) -> Iterator[str]:
    """What decides in full, what is told in a line each, like by like."""
    decisive = [finding for finding in verdict.findings if not _is_told(finding)]
    if decisive:
        yield "  evidence:"
    for finding in decisive:
        yield from _finding_lines(finding)
    told = [finding for finding in verdict.findings if _is_told(finding)]
    drift = [finding for finding in told if finding.metric in DRIFT]
    by_score = [finding for finding in told if finding.metric in CALIBRATION_MEASURES]
    others = [finding for finding in told if finding.metric not in (*DRIFT, *CALIBRATION_MEASURES)]
    if drift:
        scored = f"{drift[0].impressions_candidate} shadow-scored impressions"
        yield f"  score drift on {scored} (may hold, never rolls back):"
        yield from (f"    {told_wording.short(finding)}{_lacks(finding)}" for finding in drift)
    if by_score:
        yield f"  calibration by score{_of(by_score)} (decides nothing):"
        yield from (f"    {told_wording.short(finding)}{_matured(finding)}" for finding in by_score)
    if others:
        yield "  told besides (decides nothing):"
        yield from (f"    {_said(finding)}{_matured(finding)}" for finding in others)


def _is_told(finding: Finding) -> bool:
    return finding.metric in TOLD or (
        finding.answer is Answer.MONITORED and not finding.gates and not finding.weight and not finding.role
    )


def _of(findings: Sequence[Finding]) -> str:
    return ", predicted against observed clicks" if findings[0].metric == CALIBRATION_BY_SCORE else ""


def _lacks(finding: Finding) -> str:
    return f" ({finding.missing})" if finding.missing else ""


def _matured(finding: Finding) -> str:
    """'; 1204 clicks on 48100 impressions', of the candidate where both served."""
    impressions = finding.impressions_candidate or finding.impressions_stable
    conversions = finding.conversions_candidate if finding.impressions_candidate else finding.conversions_stable
    return f"; {conversions:.10g} {_labels(finding)} on {impressions} impressions" if impressions else ""


def _said(finding: Finding) -> str:
    """Under a limit in its own words, in effects otherwise."""
    return wording.sentence(finding, wording.THE_SURFACE)


def _finding_lines(finding: Finding) -> Iterator[str]:
    role = finding.role or ("gate" if finding.gates else "guard")
    yield f"    [{finding.answer}] {_said(finding)} ({role})"
    compared = COMPARED.get(finding.metric, "")
    if compared:
        yield f"        compared: {compared}"
    if finding.impressions_candidate or finding.impressions_stable or not finding.detail:
        yield f"        matured: {_both_matured(finding)}"
    if finding.harm_margin is not None and finding.safe_margin is not None:
        harm, safe = (
            wording.margin_text(finding, finding.harm_margin),
            wording.margin_text(finding, finding.safe_margin),
        )
        harm, safe = f"{harm} {_evidence(finding.log_e_harm)}", f"{safe} {_safe(finding)}".rstrip()
        yield f"        margins: harm beyond {harm}, safe within {safe}"
    if finding.missing:
        yield f"        missing: {finding.missing}{_after(finding.seconds_to_resolve)}"
    elif finding.answer is Answer.UNDECIDED:
        yield f"        missing: more impressions{_after(finding.seconds_to_resolve)}"
    if finding.policy:
        yield f"        without an answer the plan says: {POLICY_WORDS[OnMissing(finding.policy)]}"


def _both_matured(finding: Finding) -> str:
    impressions = f"{finding.impressions_candidate} candidate"
    conversions = f"{finding.conversions_candidate:.10g}"
    if finding.impressions_stable:
        impressions += f" and {finding.impressions_stable} stable"
        conversions += f" and {finding.conversions_stable:.10g}"
    return f"{impressions} impressions with {conversions} {_labels(finding)}"


def _labels(finding: Finding) -> str:
    return {
        "good_click_rate": "good clicks",
        "hide_rate": "hides",
        "revenue_per_impression": "revenue",
    }.get(finding.metric, "clicks")


def _safe(finding: Finding) -> str:
    return "" if finding.metric == "calibration" else _evidence(finding.log_e_safe)


def _evidence(log_e: float) -> str:
    """Odds as far as they are readable, powers of ten beyond."""
    if abs(log_e) < 9.0:
        return f"(e {2.718281828459045**log_e:.3g})"
    return f"(e 10^{log_e / 2.302585092994046:.0f})"


def _after(seconds: float | None) -> str:
    return "" if seconds is None else f", about {wording.about(seconds)} more"


def _wait(seconds: float | None) -> str:
    return "for how long is not known" if seconds is None else f"about {wording.about(seconds)} more at this pace"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
