"""From moments to a verdict: the decision order of docs/statistics.md, steps 1 to 6, time and people left out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from control_plane.domain.moments import Health, Moments
from control_plane.domain.plan import Metric, OnMissing, RolloutPlan
from control_plane.domain.rollout import Phase, Stage
from control_plane.domain.verdict import Answer, Blame, Finding, Outcome, Rule, Verdict, percent
from control_plane.guardrails import wording
from control_plane.guardrails.drift import population_stability
from control_plane.guardrails.engagement import engagement_findings
from control_plane.guardrails.evalue import log_mean, rejected
from control_plane.guardrails.health import (
    HardStop,
    idle_stop,
    is_feed_stale,
    is_shadow_stale,
    served_calibration_stop,
    serving_stops,
    shadow_calibration_stop,
    stage_clicks,
    stage_impressions,
)
from control_plane.guardrails.look import Look
from control_plane.guardrails.novelty import novelty_objections
from control_plane.guardrails.sample_ratio import cross_exposure, log_e_sample_ratio
from control_plane.guardrails.sanity import check_moments, is_possible
from control_plane.guardrails.served_calibration import (
    CALIBRATION,
    calibration_findings,
    shadow_calibration_findings,
)
from control_plane.guardrails.shadow_entropy import (
    NORMALISED_ENTROPY,
    entropy_findings,
    entropy_gap,
    is_information_lost,
    surface_entropy_finding,
)


def judge(plan: RolloutPlan, stage: Stage, moments: Moments, health: Health) -> Verdict:
    """Say what the evidence allows: a pure function, to the last bit.

    A sound candidate is rolled back with probability at most `plan.judge.alpha_rollback` over the whole rollout,
    and one at a gate's safe margin passes that gate with probability at most `alpha_advance`, however often and
    whenever the judge is called. Both hold as far as bucket sums are normal at the evidence gates.

    Raises:
        InvalidMoments: no event log can have produced these sums.
    """
    check_moments(moments)
    look = Look(plan=plan, stage=stage, moments=moments)
    match stage.phase:
        case Phase.SHADOW:
            return _in_shadow(look, health)
        case Phase.RAMPING:
            return _in_ramp(look, health)
        case Phase.WATCHING:
            return _in_watch(look, health)
        case Phase.PENDING | Phase.WARMING | Phase.DONE | Phase.HELD | Phase.EXPIRED | Phase.ROLLED_BACK:
            return _verdict(look, (), _Ruling.hold(Rule.INSUFFICIENT, f"{stage.phase}: nothing to judge"))
        case phase:
            assert_never(phase)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ruling:
    """What was decided, before it is written out whole."""

    outcome: Outcome
    rule: Rule
    reason: str
    culprits: tuple[str, ...] = ()
    blame: Blame = Blame.NONE
    seconds: float | None = None
    psi: float | None = None

    @classmethod
    def hold(cls, rule: Rule, reason: str, *, seconds: float | None = None) -> "_Ruling":
        return cls(outcome=Outcome.HOLD, rule=rule, reason=reason, seconds=seconds)

    @classmethod
    def advance(cls, reason: str) -> "_Ruling":
        return cls(outcome=Outcome.ADVANCE, rule=Rule.SHOWN_SAFE, reason=reason)


def _in_shadow(look: Look, health: Health) -> Verdict:
    findings = (*entropy_findings(look), *shadow_calibration_findings(look))
    stops = [*serving_stops(look, health), *shadow_calibration_stop(look)]
    drift = population_stability(
        look.moments.score_bins_GAKB[0],
        alpha=look.plan.judge.alpha_advance,
        min_buckets=look.plan.judge.min_buckets,
    )
    ruling = (
        _hard_stop(look, findings, stops)
        or _harm(look, findings)
        or _broken_counts(health)
        or _stale(look)
        or _shadow_gap(look, findings)
        or _drift(look, drift)
        or _not_shown_safe(look, findings)
        or _Ruling.advance(wording.estimate(findings[0], look.moments.surface) + ", shown safe in the shadow")
    )
    return _verdict(look, findings, replace(ruling, psi=None if drift is None else drift[0]))


def _in_ramp(look: Look, health: Health) -> Verdict:
    findings = _served_findings(look)
    stops = [*serving_stops(look, health), *served_calibration_stop(look), *idle_stop(look)]
    ruling = (
        _hard_stop(look, findings, stops)
        or _sample_ratio(look)
        or _harm(look, findings)
        or _missing_evidence(look, findings)
        or _broken_counts(health)
        or _stale(look)
        or _insufficient(look, findings)
        or _not_shown_safe(look, findings)
        or _novelty(look)
        or _Ruling.advance(_shown_safe(look, findings))
    )
    return _verdict(look, findings, ruling)


def _in_watch(look: Look, health: Health) -> Verdict:
    """At full traffic no control is left: what engagement hypotheses knew stays, calibration goes on."""
    findings = _served_findings(look)
    stops = [*serving_stops(look, health), *served_calibration_stop(look), *idle_stop(look)]
    ruling = (
        _hard_stop(look, findings, stops)
        or _harm(look, findings)
        or _broken_counts(health)
        or _stale(look)
        or _nothing_watched(look)
        or _Ruling.advance("no harm seen at full traffic")
    )
    return _verdict(look, findings, ruling)


def _served_findings(look: Look) -> tuple[Finding, ...]:
    """The shadow's entropy goes on weighing in the rollback mean, but has no say in later gates."""
    entropy = replace(surface_entropy_finding(look), gates=False, missing="", seconds_to_resolve=None)
    return (*engagement_findings(look), *calibration_findings(look), entropy)


def _hard_stop(look: Look, findings: Sequence[Finding], stops: Sequence[HardStop]) -> _Ruling | None:
    if not stops:
        return None
    culprits = tuple(dict.fromkeys([*(stop.culprit for stop in stops), *_culprits(look, findings)]))
    return _Ruling(
        outcome=Outcome.ROLL_BACK,
        rule=Rule.HARD_STOP,
        reason="; ".join(stop.reason for stop in stops),
        culprits=culprits,
        blame=_blame(look, culprits),
    )


def _harm(look: Look, findings: Sequence[Finding]) -> _Ruling | None:
    if _log_e_rollback(findings) < -math.log(look.plan.judge.alpha_rollback):
        return None
    culprits = _culprits(look, findings)
    named = [finding for finding in _by_share(findings) if _key(finding) in culprits]
    return _Ruling(
        outcome=Outcome.ROLL_BACK,
        rule=Rule.HARM,
        reason="; ".join(wording.harm(finding, look.moments.surface) for finding in named[:3]),
        culprits=culprits,
        blame=_blame(look, culprits),
    )


def _culprits(look: Look, findings: Sequence[Finding]) -> tuple[str, ...]:
    """The largest part of the rollback mean if it crossed, and what e-BH rejects, the strongest first."""
    family = [finding for finding in _by_share(findings) if finding.weight > 0]
    if not family:
        return ()
    is_rejected = rejected([finding.log_e_harm for finding in family], num_hypotheses=_family_size(look))
    has_crossed = _log_e_rollback(findings) >= -math.log(look.plan.judge.alpha_rollback)
    return tuple(
        _key(finding) for index, finding in enumerate(family) if is_rejected[index] or (has_crossed and index == 0)
    )


def _family_size(look: Look) -> int:
    return round(0.5 / look.weights.surface + 0.5 / look.weights.rest)


def _blame(look: Look, culprits: Sequence[str]) -> Blame:
    """The calibrator where only calibration speaks, or entropy that a better calibrator would win back."""
    metrics = {culprit.split("/")[0] for culprit in culprits}
    if metrics <= {"idle"}:
        return Blame.NONE
    if metrics <= {CALIBRATION, NORMALISED_ENTROPY} and not is_information_lost(look):
        return Blame.CALIBRATOR
    return Blame.MODEL


def _sample_ratio(look: Look) -> _Ruling | None:
    judge_plan, moments = look.plan.judge, look.moments
    log_e = log_e_sample_ratio(moments.strata, moments.first_exposures_SA)
    if log_e >= math.log(judge_plan.sample_ratio_threshold):
        stable, candidate = moments.first_exposures_SA.sum(axis=0).tolist()
        split = f"{candidate} new users met the candidate and {stable} met stable"
        return _Ruling.hold(Rule.SAMPLE_RATIO, f"{split}, not what the split promised: the arms cannot be compared")
    allowed = judge_plan.max_cross_exposure * max(min(moments.users_A), judge_plan.min_users)
    if moments.cross_exposed_users > allowed:
        crossed = f"{moments.cross_exposed_users} users met both arms within one generation"
        limit = f"more than {percent(judge_plan.max_cross_exposure, signed=False)} of the smaller arm"
        return _Ruling.hold(Rule.SAMPLE_RATIO, f"{crossed}, {limit}: the arms cannot be compared")
    return None


def _missing_evidence(look: Look, findings: Sequence[Finding]) -> _Ruling | None:
    """A policy to roll back without evidence waits for the stage's bake time and the label's window."""
    for finding in findings:
        guardrail = look.plan.guardrail(Metric(finding.metric)) if finding.metric in set(Metric) else None
        if guardrail is None or not finding.gates or _policy(look, finding) is not OnMissing.ROLL_BACK:
            continue
        patience = look.plan.steps[look.stage.step].bake_seconds + guardrail.window_seconds
        if look.seconds_in_stage >= patience:
            reason = f"{wording.unproven(finding, look.moments.surface)}; the plan rolls back without evidence"
            return _Ruling(
                outcome=Outcome.ROLL_BACK, rule=Rule.MISSING_EVIDENCE, reason=reason, culprits=(_key(finding),)
            )
    return None


def _policy(look: Look, finding: Finding) -> OnMissing | None:
    """What the plan says of a guardrail without an answer; None where it has one."""
    if finding.answer not in (Answer.NO_DATA, Answer.INSUFFICIENT):
        return None
    guardrail = look.plan.guardrail(Metric(finding.metric)) if finding.metric in set(Metric) else None
    if guardrail is None:
        return OnMissing.EXTEND
    return guardrail.on_no_data if finding.answer is Answer.NO_DATA else guardrail.on_insufficient


def _broken_counts(health: Health) -> _Ruling | None:
    if is_possible(health.candidate) and is_possible(health.stable):
        return None
    return _Ruling.hold(Rule.ERROR, "a runtime reported counts that cannot be: negative or not whole")


def _stale(look: Look) -> _Ruling | None:
    limit = wording.about(look.plan.judge.stale_intervals * look.plan.check_seconds)
    if is_feed_stale(look):
        return _Ruling.hold(Rule.STALE, f"no event of {look.moments.surface} has arrived for more than {limit}")
    if look.stage.phase is Phase.SHADOW and is_shadow_stale(look):
        return _Ruling.hold(Rule.STALE, f"the shadow has scored nothing for more than {limit}")
    return None


def _shadow_gap(look: Look, findings: Sequence[Finding]) -> _Ruling | None:
    gap = entropy_gap(look)
    return _Ruling.hold(Rule.INSUFFICIENT, gap, seconds=findings[0].seconds_to_resolve) if gap else None


def _drift(look: Look, drift: tuple[float, float] | None) -> _Ruling | None:
    limit = look.plan.shadow.max_psi
    if drift is None or limit is None or drift[1] <= limit:
        return None
    bound = f"surely above {drift[1]:.2f}, the plan allows {limit:g}"
    return _Ruling.hold(Rule.DRIFT, f"the candidate's scores have moved from stable's: PSI {drift[0]:.2f}, {bound}")


def _insufficient(look: Look, findings: Sequence[Finding]) -> _Ruling | None:
    if (ruling := _no_stage_traffic(look)) is not None:
        return ruling
    broken = [finding for finding in findings if finding.gates and finding.answer is Answer.ERROR]
    if broken:
        return _Ruling.hold(Rule.ERROR, wording.unproven(broken[0], look.moments.surface))
    lacking = [
        finding
        for finding in findings
        if finding.gates and _policy(look, finding) in (OnMissing.EXTEND, OnMissing.HOLD)
    ]
    if lacking:
        return _waiting(look, lacking, Rule.INSUFFICIENT)
    users, wanted = look.moments.users_A[1], look.plan.judge.min_users
    if users < wanted:
        seconds = look.seconds_until_count(users, users, wanted)
        return _Ruling.hold(Rule.INSUFFICIENT, f"{users} of {wanted} users of the candidate", seconds=seconds)
    return None


def _no_stage_traffic(look: Look) -> _Ruling | None:
    if stage_impressions(look):
        return None
    weight = percent(look.stage.share_bp / 10_000, signed=False)
    return _Ruling.hold(Rule.INSUFFICIENT, f"no matured impression of the candidate yet under its weight of {weight}")


def _nothing_watched(look: Look) -> _Ruling | None:
    """A watch that saw next to nothing has not watched."""
    clicks, wanted = stage_clicks(look), look.plan.judge.min_conversions
    if clicks >= wanted:
        return None
    seconds = look.seconds_until_count(clicks, clicks, wanted)
    return _Ruling.hold(
        Rule.INSUFFICIENT, f"{clicks} of {wanted} matured clicks of the candidate at full traffic", seconds=seconds
    )


def _not_shown_safe(look: Look, findings: Sequence[Finding]) -> _Ruling | None:
    open_gates = [
        finding
        for finding in findings
        if finding.gates and finding.answer is not Answer.SAFE and _policy(look, finding) is not OnMissing.IGNORE
    ]
    return _waiting(look, open_gates, Rule.NOT_SHOWN_SAFE) if open_gates else None


def _waiting(look: Look, gates: Sequence[Finding], rule: Rule) -> _Ruling:
    """Waits for all of them, so for the slowest; the one that takes longest is named first."""
    slowest_first = sorted(gates, key=lambda finding: -_wait_of(finding))
    reason = wording.unproven(slowest_first[0], look.moments.surface)
    if len(gates) > 1:
        reason += f"; and {len(gates) - 1} more"
    longest = _wait_of(slowest_first[0])
    return _Ruling.hold(rule, reason, seconds=longest if math.isfinite(longest) else None)


def _wait_of(finding: Finding) -> float:
    return math.inf if finding.seconds_to_resolve is None else finding.seconds_to_resolve


def _novelty(look: Look) -> _Ruling | None:
    objection = next(novelty_objections(look), None)
    return None if objection is None else _Ruling.hold(Rule.NOVELTY, objection)


def _shown_safe(look: Look, findings: Sequence[Finding]) -> str:
    gates = [finding for finding in findings if finding.gates and finding.answer is Answer.SAFE]
    if not gates:
        return "no gate has data, and the plan ignores that"
    tightest = min(gates, key=lambda finding: finding.log_e_safe if finding.metric != CALIBRATION else math.inf)
    margin = wording.margin_text(tightest, tightest.safe_margin or 0.0)
    all_of_them = f"all {len(gates)} gates shown safe, the closest call: " if len(gates) > 1 else ""
    return f"{all_of_them}{wording.estimate(tightest, look.moments.surface)}, shown safe at the {margin} margin"


def _log_e_rollback(findings: Sequence[Finding]) -> float:
    return log_mean([finding.log_e_harm for finding in findings], [finding.weight for finding in findings])


def _by_share(findings: Sequence[Finding]) -> list[Finding]:
    """Heaviest part of the rollback mean first."""
    return sorted(findings, key=lambda f: -(f.log_e_harm + math.log(f.weight)) if f.weight > 0 else math.inf)


def _key(finding: Finding) -> str:
    return f"{finding.metric}/{finding.segment}"


def _verdict(look: Look, findings: Sequence[Finding], ruling: _Ruling) -> Verdict:
    moments, stage = look.moments, look.stage
    log_e_rollback = _log_e_rollback(findings)
    return Verdict(
        outcome=ruling.outcome,
        rule=ruling.rule,
        reason=ruling.reason,
        findings=tuple(_with_share(finding, log_e_rollback) for finding in findings),
        culprits=ruling.culprits,
        blame=ruling.blame,
        log_e_rollback=log_e_rollback,
        log_e_threshold=-math.log(look.plan.judge.alpha_rollback),
        log_e_sample_ratio=log_e_sample_ratio(moments.strata, moments.first_exposures_SA),
        cross_exposure=cross_exposure(moments.users_A, moments.cross_exposed_users),
        psi=ruling.psi,
        users_stable=int(moments.users_A[0]),
        users_candidate=int(moments.users_A[1]),
        window_start_ms=stage.started_at_ms if moments.newest_event_ms is not None else None,
        as_of_ms=int(moments.as_of_ms),
        phase=stage.phase.value,
        step=stage.step,
        share_bp=stage.share_bp,
        generation=stage.generation,
        seconds_to_resolve=ruling.seconds,
    )


def _with_share(finding: Finding, log_e_rollback: float) -> Finding:
    if finding.weight <= 0:
        return finding
    return replace(finding, e_share=math.exp(finding.log_e_harm + math.log(finding.weight) - log_e_rollback))
