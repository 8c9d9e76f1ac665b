"""From moments to a verdict: the decision order of docs/statistics.md, steps 1 to 6, time and people left out."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import assert_never

from control_plane.domain.moments import Health, Moments
from control_plane.domain.plan import JudgePlan, RolloutPlan
from control_plane.domain.readings import Reading
from control_plane.domain.rollout import Phase, Stage
from control_plane.domain.verdict import Finding, Rule, Verdict
from control_plane.guardrails import rulings, wording
from control_plane.guardrails.drift import drift_alarm, drift_findings
from control_plane.guardrails.engagement import engagement_findings
from control_plane.guardrails.external import external_findings
from control_plane.guardrails.finding_names import PSI
from control_plane.guardrails.health import (
    idle_stop,
    served_calibration_stop,
    serving_stops,
    shadow_calibration_stop,
)
from control_plane.guardrails.look import Look
from control_plane.guardrails.operational import operational_findings
from control_plane.guardrails.paired_brier import brier_findings
from control_plane.guardrails.policies import policy_of
from control_plane.guardrails.rulings import Evidence, Ruling
from control_plane.guardrails.safe_share import largest_safe_share_bp
from control_plane.guardrails.sample_ratio import cross_exposure
from control_plane.guardrails.sanity import check_moments, check_plan
from control_plane.guardrails.score_calibration import score_calibration_findings
from control_plane.guardrails.served_calibration import calibration_findings, shadow_calibration_findings
from control_plane.guardrails.shadow_entropy import entropy_findings, weighing_entropy_findings

SERVING = frozenset({Phase.RAMPING, Phase.WATCHING})
COMPARABLE = frozenset({Rule.NOT_SHOWN_SAFE, Rule.SHOWN_SAFE})  # rules that leave nothing else to be settled first
BLOCK = 32  # cases: enough that a call of numpy costs little next to what it does, few enough to be in memory together


def judge(
    plan: RolloutPlan, stage: Stage, moments: Moments, health: Health, readings: Sequence[Reading] = ()
) -> Verdict:
    """Say what the evidence allows: a pure function, to the last bit.

    A sound candidate is rolled back with probability at most `plan.judge.alpha_rollback` over the whole rollout,
    and one at a gate's safe margin passes that gate with probability at most `alpha_advance`, however often and
    whenever the judge is called. Both hold as far as bucket sums are normal at the evidence gates, and for what
    has an e-value: limits on gauges and external metrics are compared as they stand.

    Raises:
        InvalidPlan: the plan could not have been armed.
        InvalidMoments: no event log can have produced these sums.
    """
    (verdict,) = judge_all([Case(plan=plan, stage=stage, moments=moments, health=health, readings=readings)])
    return verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What `judge` is given."""

    plan: RolloutPlan
    stage: Stage
    moments: Moments
    health: Health
    readings: Sequence[Reading] = ()


def judge_all(cases: Iterable[Case]) -> Iterator[Verdict]:
    """What `judge` says of each case, in their order, to the same bit: many at a time cost less than one by one.

    Takes `BLOCK` cases at a time, whose moments are in memory together.
    """
    looked_at = ((case, _look_at(case)) for case in cases)
    while block := list(islice(looked_at, BLOCK)):
        looks = [look for _, look in block]
        compared = _compared(looks)
        for place, (case, look) in enumerate(block):
            yield _verdict_of(look, case, compared.get(place, ()))


def _look_at(case: Case) -> Look:
    check_plan(case.plan)
    check_moments(case.moments)
    look = Look(plan=case.plan, stage=case.stage, moments=case.moments)
    if look.stage.phase in SERVING:
        look.sum_up()
    return look


def _compared(looks: Sequence[Look]) -> dict[int, tuple[Finding, ...]]:
    """What needs arithmetic on users, of the looks that serve, by their place; alike ones are computed together."""
    alike: dict[tuple[JudgePlan, int], list[int]] = {}
    for place, look in enumerate(looks):
        if look.stage.phase in SERVING:
            alike.setdefault((look.plan.judge, look.moments.counts_MGSAK.shape[-1]), []).append(place)
    found: dict[int, tuple[Finding, ...]] = {}
    for places in alike.values():
        together = [looks[place] for place in places]
        columns = zip(
            places,
            engagement_findings(together),
            calibration_findings(together),
            weighing_entropy_findings(together),
            score_calibration_findings(together),
            strict=True,
        )
        for place, engagement, calibration, entropy, told in columns:
            found[place] = (*engagement, *calibration, entropy, *told)
    return found


def _verdict_of(look: Look, case: Case, compared: tuple[Finding, ...]) -> Verdict:
    match look.stage.phase:
        case Phase.SHADOW:
            return _in_shadow(look, case.health, case.readings)
        case Phase.RAMPING:
            return _in_ramp(look, case, compared)
        case Phase.WATCHING:
            return _in_watch(look, case, compared)
        case Phase.QUEUED | Phase.PENDING | Phase.WARMING | Phase.DONE | Phase.HELD | Phase.EXPIRED | Phase.ROLLED_BACK:
            nothing = Evidence(look=look, findings=())
            return _verdict(nothing, Ruling.hold(Rule.INSUFFICIENT, f"{look.stage.phase}: nothing to judge"))
        case phase:
            assert_never(phase)


def _in_shadow(look: Look, health: Health, readings: Sequence[Reading]) -> Verdict:
    drifts = drift_findings(look)
    evidence = Evidence(
        look=look,
        findings=(
            *entropy_findings(look),
            *shadow_calibration_findings(look),
            *brier_findings(look),
            *drifts,
            *score_calibration_findings([look])[0],
            *_limited_findings(look, health, readings),
        ),
    )
    ruling = (
        rulings.hard_stop(evidence, [*serving_stops(look, health), *shadow_calibration_stop(look)])
        or rulings.beyond_limit(evidence)
        or rulings.harm(evidence)
        or rulings.missing_evidence(evidence)
        or rulings.broken_counts(health)
        or rulings.stale(evidence)
        or rulings.shadow_gap(evidence)
        or rulings.drift(drift_alarm(look, drifts))
        or rulings.not_shown_safe(evidence)
        or Ruling.advance(wording.estimate(evidence.findings[0], look.moments.surface) + ", shown safe in the shadow")
    )
    return _verdict(evidence, ruling)


def _in_ramp(look: Look, case: Case, compared: tuple[Finding, ...]) -> Verdict:
    evidence = Evidence(look=look, findings=_served_findings(look, case, compared))
    stops = [*serving_stops(look, case.health), *served_calibration_stop(look), *idle_stop(look)]
    ruling = (
        rulings.hard_stop(evidence, stops)
        or rulings.sample_ratio(evidence)
        or rulings.beyond_limit(evidence)
        or rulings.harm(evidence)
        or rulings.missing_evidence(evidence)
        or rulings.broken_counts(case.health)
        or rulings.stale(evidence)
        or rulings.insufficient(evidence)
        or rulings.not_shown_safe(evidence)
        or rulings.novelty(evidence)
        or rulings.shown_safe(evidence)
    )
    safe_bp = None
    if look.plan.is_adaptive:
        safe_bp = largest_safe_share_bp(look, evidence.findings) if ruling.rule in COMPARABLE else 0
    return _verdict(evidence, ruling, safe_share_bp=safe_bp)


def _in_watch(look: Look, case: Case, compared: tuple[Finding, ...]) -> Verdict:
    """At full traffic no control is left: what engagement hypotheses knew stays, calibration goes on."""
    evidence = Evidence(look=look, findings=_served_findings(look, case, compared))
    stops = [*serving_stops(look, case.health), *served_calibration_stop(look), *idle_stop(look)]
    ruling = (
        rulings.hard_stop(evidence, stops)
        or rulings.beyond_limit(evidence)
        or rulings.harm(evidence)
        or rulings.missing_evidence(evidence)
        or rulings.broken_counts(case.health)
        or rulings.stale(evidence)
        or rulings.nothing_watched(evidence)
        or rulings.still_open(evidence)
        or Ruling.advance("no harm seen at full traffic")
    )
    return _verdict(evidence, ruling)


def _served_findings(look: Look, case: Case, compared: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return (*compared, *_limited_findings(look, case.health, case.readings))


def _limited_findings(look: Look, health: Health, readings: Sequence[Reading]) -> Iterator[Finding]:
    """What is compared with limits: the serving itself, and numbers of other systems."""
    found = operational_findings(look, health, look.weights.rest)
    for entry, finding in zip(look.plan.operational, found, strict=True):
        yield replace(finding, role=entry.role.value, policy=policy_of(entry, finding.answer))
    yield from external_findings(look, readings)


def _verdict(evidence: Evidence, ruling: Ruling, *, safe_share_bp: int | None = None) -> Verdict:
    look, moments, stage = evidence.look, evidence.look.moments, evidence.look.stage
    return Verdict(
        outcome=ruling.outcome,
        rule=ruling.rule,
        reason=ruling.reason,
        findings=evidence.findings,
        culprits=ruling.culprits,
        blame=ruling.blame,
        log_e_rollback=evidence.log_e_rollback,
        log_e_threshold=-math.log(look.plan.judge.alpha_rollback),
        log_e_sample_ratio=evidence.log_e_sample_ratio,
        cross_exposure=cross_exposure(moments.users_A, moments.cross_exposed_users),
        psi=next((finding.effect for finding in evidence.findings if finding.metric == PSI), None),
        users_stable=int(moments.users_A[0]),
        users_candidate=int(moments.users_A[1]),
        window_start_ms=stage.started_at_ms if moments.newest_event_ms is not None else None,
        as_of_ms=int(moments.as_of_ms),
        phase=stage.phase.value,
        step=stage.step,
        share_bp=stage.share_bp,
        generation=stage.generation,
        seconds_to_resolve=ruling.seconds,
        needs_person=ruling.needs_person,
        safe_share_bp=safe_share_bp,
    )
