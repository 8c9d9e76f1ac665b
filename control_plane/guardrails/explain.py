"""A verdict as a person wants to read it: what was compared, what came out, what is missing and for how long."""

from collections.abc import Iterator
from datetime import UTC, datetime

from control_plane.domain.verdict import Answer, Finding, Outcome, Verdict, percent
from control_plane.guardrails import wording

SURFACE = "the surface"
OUTCOME_WORDS = {
    Outcome.ADVANCE: "may advance",
    Outcome.HOLD: "hold",
    Outcome.ROLL_BACK: "ROLL BACK",
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
    if verdict.findings:
        yield "  evidence:"
    for finding in verdict.findings:
        yield from _finding_lines(finding)
    bar = _evidence(verdict.log_e_threshold)
    yield f"  rollback: evidence for harm {_evidence(verdict.log_e_rollback)}, acts at {bar}"
    yield f"  split:    evidence for a wrong split {_evidence(verdict.log_e_sample_ratio)}"
    if verdict.psi is not None:
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


def _finding_lines(finding: Finding) -> Iterator[str]:
    role = "gate" if finding.gates else "guard"
    yield f"    [{finding.answer}] {wording.estimate(finding, SURFACE)} ({role})"
    impressions = f"{finding.impressions_candidate} candidate"
    conversions = f"{finding.conversions_candidate:.10g}"
    if finding.impressions_stable:
        impressions += f" and {finding.impressions_stable} stable"
        conversions += f" and {finding.conversions_stable:.10g}"
    yield f"        matured: {impressions} impressions with {conversions} {_labels(finding)}"
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
