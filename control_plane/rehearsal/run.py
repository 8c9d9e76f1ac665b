"""One rollout under one plan, from the shadow to its end, by the judge and the decisions that will run it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol, Self, assert_never

from control_plane.domain.decision import Readiness, decide
from control_plane.domain.moments import Moments
from control_plane.domain.plan import DAY, RolloutPlan
from control_plane.domain.rollout import FINISHED, Command, Phase, Rollout, RolloutId, apply, raised, stage_of
from control_plane.domain.split import Arm
from control_plane.domain.verdict import Answer, Outcome, Rule, Verdict
from control_plane.guardrails.judge import judge
from control_plane.rehearsal.audience import Faults
from control_plane.rehearsal.ledger import CANDIDATE, STABLE, SURFACE
from control_plane.rehearsal.losses import Losses
from control_plane.rehearsal.serving import health, readings

PATIENCE_DAYS = 14.0  # beyond the plan's longest duration, for a watch that never sees enough
REHEARSER = "rehearsal"
READY = Readiness(live_runtimes=1, loaded_runtimes=1)
STANDSTILL = frozenset({Phase.HELD, Phase.EXPIRED})


class Ending(StrEnum):
    """What became of a rehearsed rollout."""

    SHIPPED = "shipped"  # full traffic, watched to the end
    ROLLED_BACK = "rolled_back"  # on evidence
    HELD = "held"  # for a person
    TIMED_OUT = "timed_out"  # stayed where it was or went back, for want of an answer


class Stream(Protocol):
    """Traffic that can be rehearsed on: simulated, or recorded and re-randomised."""

    losses: Losses
    faults: Faults

    def serve(self, *, until_ms: int, generation: int, candidate_bp: int, shadow_bp: int = 0) -> None: ...

    def moments(self) -> Moments: ...

    def served(self, arm: Arm) -> int: ...

    def shadowed(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One rehearsed rollout: where it ended, after how long, and what it cost. Days count from the shadow's start.

    A run that is held or expired ends there: what a person decides then is not rehearsed.
    """

    ending: Ending
    phase: Phase
    step: int
    rule: Rule
    reason: str
    culprits: tuple[str, ...]
    open_gates: tuple[str, ...]  # metric/segment of what was not shown safe at the last look
    days: float
    days_of_traffic: float  # since the candidate first had weight
    candidate_impressions: int
    harmed_impressions: float
    lost: Mapping[str, float]  # expected engagement, see `losses`
    at_stable: Mapping[str, float]
    path: tuple[tuple[float, int], ...]  # day, the candidate's basis points from then on

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote, after a way through JSON; `KeyError`, `TypeError` or `ValueError` otherwise."""
        fields = dict(value)
        fields["ending"] = Ending(fields["ending"])
        fields["phase"], fields["rule"] = Phase(fields["phase"]), Rule(fields["rule"])
        fields["culprits"], fields["open_gates"] = tuple(fields["culprits"]), tuple(fields["open_gates"])
        fields["path"] = tuple((float(day), int(share)) for day, share in fields["path"])
        return cls(**fields)


def run(plan: RolloutPlan, traffic: Stream, *, started_at_ms: int, looks_per_day: int) -> Run:
    """Checks come `looks_per_day` times a day, approvals are given at once, the plan's other systems are well."""
    started_at = now = datetime.fromtimestamp(started_at_ms / 1_000, UTC)
    gap, end = timedelta(days=1) / looks_per_day, started_at + _longest(plan)
    rollout, generation = _in_shadow(plan, now), 1
    weighted_at: datetime | None = None
    reason, path = "the end of the rehearsal", [(0.0, 0)]
    while True:
        now += gap
        traffic.serve(
            until_ms=_ms(now),
            generation=generation,
            candidate_bp=rollout.candidate_bp,
            shadow_bp=rollout.shadow_sample_bp,
        )
        well = health(
            plan,
            scored_stable=traffic.served(Arm.STABLE),
            scored_candidate=traffic.served(Arm.CANDIDATE) + traffic.shadowed(),
            error_rate=traffic.faults.error_rate,
        )
        stage = stage_of(rollout, generation=generation)
        verdict = judge(plan, stage, traffic.moments(), well, readings(plan, at_ms=_ms(now)))
        rollout = _approved(rollout, now)
        decision = decide(rollout, verdict, readiness=READY, now=now)
        if decision.command is not None:
            generation += 1
            reason = decision.reason
            rollout = _moved(rollout, decision.command, decision.weight_bp, generation, now)
            weighted_at = now if weighted_at is None and rollout.candidate_bp else weighted_at
            path.append((_days(now - started_at), rollout.candidate_bp))
        if rollout.phase in FINISHED | STANDSTILL or now >= end:
            break
    return Run(
        ending=_ending(rollout.phase, verdict),
        phase=rollout.phase,
        step=rollout.step,
        rule=verdict.rule,
        reason=reason,
        culprits=verdict.culprits,
        open_gates=_open_gates(verdict),
        days=_days(now - started_at),
        days_of_traffic=0.0 if weighted_at is None else _days(now - weighted_at),
        candidate_impressions=traffic.served(Arm.CANDIDATE),
        harmed_impressions=traffic.losses.harmed,
        lost=traffic.losses.lost.to_json(),
        at_stable=traffic.losses.at_stable.to_json(),
        path=tuple(path),
    )


def _ending(phase: Phase, verdict: Verdict) -> Ending:
    match phase:
        case Phase.DONE:
            return Ending.SHIPPED
        case Phase.ROLLED_BACK:
            return Ending.ROLLED_BACK if verdict.outcome is Outcome.ROLL_BACK else Ending.TIMED_OUT
        case Phase.HELD:
            return Ending.HELD
        case Phase.QUEUED | Phase.PENDING | Phase.WARMING | Phase.SHADOW:
            return Ending.TIMED_OUT
        case Phase.RAMPING | Phase.WATCHING | Phase.EXPIRED:
            return Ending.TIMED_OUT
        case phase:
            assert_never(phase)


def _open_gates(verdict: Verdict) -> tuple[str, ...]:
    found = [finding for finding in verdict.findings if finding.gates and finding.answer is not Answer.SAFE]
    return tuple(f"{finding.metric}/{finding.segment}" for finding in found)


def _longest(plan: RolloutPlan) -> timedelta:
    return timedelta(days=(plan.max_total_seconds + plan.steps[-1].bake_seconds) / DAY + PATIENCE_DAYS)


def _in_shadow(plan: RolloutPlan, now: datetime) -> Rollout:
    rollout = Rollout(
        rollout_id=RolloutId(0),
        surface=SURFACE,
        stable=STABLE,
        candidate=CANDIDATE,
        plan=plan,
        phase=Phase.PENDING,
        created_at=now,
        entered_at=now,
        first_generation=1,
        stage_generation=1,
    )
    warming = apply(rollout, Command.START, now=now, by=REHEARSER)
    return replace(apply(warming, Command.ADVANCE, now=now, by=REHEARSER), acknowledged_at=now)


def _approved(rollout: Rollout, now: datetime) -> Rollout:
    is_ramp, step = rollout.phase in (Phase.RAMPING, Phase.WATCHING), rollout.standing_step
    groups = frozenset({step.approval_group}) if step is not None else frozenset()
    for number in range(rollout.approvals_needed if is_ramp else 0):
        by = f"{REHEARSER} {number}"
        rollout = apply(rollout, Command.APPROVE, now=now, by=by, reason="rehearsed", groups=groups)
    return rollout


def _moved(rollout: Rollout, command: Command, weight_bp: int | None, generation: int, now: datetime) -> Rollout:
    """What is rehearsed serves at once, so that every stage is acknowledged as it begins."""
    if weight_bp is not None:
        after = raised(rollout, weight_bp=weight_bp, now=now)
    else:
        after = apply(rollout, command, now=now, by=REHEARSER)
    return replace(after, stage_generation=generation, acknowledged_at=now) if command is Command.ADVANCE else after


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1_000)


def _days(span: timedelta) -> float:
    return span / timedelta(days=1)
