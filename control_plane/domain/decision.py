"""From a verdict to a command or a wait with its reason: the judge's evidence meets time and people."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from control_plane.domain.adaptive import next_weight_bp
from control_plane.domain.model_version import Digest, ModelVersion, Part
from control_plane.domain.plan import DIRECTION_OF, Metric, OnMissing
from control_plane.domain.rollout import GROWING, Command, Phase, Rollout
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.domain.verdict import Blame, Finding, Outcome, Rule, Verdict, percent

ACKNOWLEDGED_SHARE = 0.95  # of the live runtimes: one that hangs must not hold up a fleet of many
EXPIRY_FLOOR = -0.20  # an expired candidate stays only if no gate's interval reaches below this effect


@dataclass(frozen=True, kw_only=True, slots=True)
class Readiness:
    """What only the outside knows: has the surface graph opened, what do runtimes have, does a freeze stand.

    `acknowledged_runtimes` serve the stage's generation or a later one. `frozen` says who froze the surface and why,
    empty where nobody did. Until `cools_until` something of the candidate was rolled back too lately.
    """

    may_start: bool = True
    blocked_by: str = ""
    live_runtimes: int = 0
    loaded_runtimes: int = 0
    acknowledged_runtimes: int = 0
    frozen: str = ""
    frozen_until: datetime | None = None
    cools_until: datetime | None = None

    @property
    def is_acknowledged(self) -> bool:
        """Whether nearly all live runtimes serve the stage; never where none is."""
        return 0 < self.live_runtimes * ACKNOWLEDGED_SHARE <= self.acknowledged_runtimes


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A command to apply, or None to wait; `until` is an estimate where one exists.

    An advance with `weight_bp` stays in its step and takes that weight there.
    """

    command: Command | None
    reason: str
    until: datetime | None = None
    weight_bp: int | None = None


def decide(rollout: Rollout, verdict: Verdict | None, *, readiness: Readiness, now: datetime) -> Decision:
    """Return what to do next. Without a verdict nothing grows; a verdict to roll back is never delayed."""
    if verdict is not None and verdict.outcome is Outcome.ROLL_BACK:
        return Decision(command=Command.ROLL_BACK, reason=verdict.reason)
    wanted = _wanted(rollout, verdict, readiness, now)
    if wanted.command in GROWING and readiness.frozen:
        return Decision(command=None, reason=f"frozen by {readiness.frozen}", until=readiness.frozen_until)
    return wanted


def _wanted(rollout: Rollout, verdict: Verdict | None, readiness: Readiness, now: datetime) -> Decision:
    match rollout.phase:
        case Phase.QUEUED:
            return Decision(command=None, reason="queued; waiting for the surface to be free")
        case Phase.PENDING:
            return _start(readiness, now)
        case Phase.WARMING:
            return _warm(readiness)
        case Phase.SHADOW | Phase.RAMPING | Phase.WATCHING:
            return _move(rollout, verdict, readiness, now)
        case Phase.HELD:
            return _expired(rollout, verdict, now) or Decision(
                command=None, reason="held; waiting for a person", until=expires_at(rollout)
            )
        case Phase.EXPIRED:
            return Decision(command=None, reason="expired; waiting for a person to resume or roll back")
        case Phase.DONE | Phase.ROLLED_BACK:
            return Decision(command=None, reason="finished")
        case phase:
            assert_never(phase)


def expires_at(rollout: Rollout) -> datetime | None:
    """When the stage or the rollout runs out of time; None where no limit is set, as for a watch without one."""
    step = rollout.standing_step
    if rollout.serving_phase not in (Phase.SHADOW, Phase.RAMPING, Phase.WATCHING):
        return None
    stage_ends = rollout.entered_at + timedelta(seconds=rollout.plan.longest_stage_seconds(rollout.step))
    if rollout.serving_phase is Phase.WATCHING:
        return stage_ends if step is not None and step.max_seconds is not None else None
    return min(stage_ends, _total_ends(rollout))


def parts_to_quarantine(
    verdict: Verdict, *, candidate: ModelVersion, stable: ModelVersion, proven: Collection[Digest]
) -> tuple[Part, ...]:
    """The parts of a rolled-back candidate that may serve nowhere: those blamed that nothing stable shares.

    Harm that is the model's is laid on the trunk if the trunk is new, since every surface shares it; a trunk
    that some surface proved already (`proven`: the digests of what is stable anywhere) leaves the surface export.
    """
    if verdict.rule not in (Rule.HARM, Rule.HARD_STOP):
        return ()
    match verdict.blame:
        case Blame.NONE:
            return ()
        case Blame.CALIBRATOR:
            suspects = [Part.CALIBRATOR]
        case Blame.MODEL:
            suspects = [Part.TRUNK, Part.SURFACE_EXPORT, Part.CALIBRATOR]
        case blame:
            assert_never(blame)
    sound = {*proven, *(stable.digest_of_part(part) for part in suspects)}
    return tuple([part for part in suspects if candidate.digest_of_part(part) not in sound][:1])


def _start(readiness: Readiness, now: datetime) -> Decision:
    if not readiness.may_start:
        return Decision(command=None, reason=f"waiting for {readiness.blocked_by}")
    if readiness.cools_until is not None and now < readiness.cools_until:
        reason = "cooling down: something of the candidate was rolled back lately"
        return Decision(command=None, reason=reason, until=readiness.cools_until)
    return Decision(command=Command.START, reason="the way is free")


def _warm(readiness: Readiness) -> Decision:
    if readiness.live_runtimes == 0:
        return Decision(command=None, reason="waiting for a runtime: none has reported lately")
    if readiness.loaded_runtimes < readiness.live_runtimes:
        return Decision(
            command=None,
            reason=f"loading: {readiness.loaded_runtimes} of {readiness.live_runtimes} runtimes have the candidate",
        )
    return Decision(
        command=Command.ADVANCE,
        reason="every live runtime has the candidate loaded",
    )


def _move(rollout: Rollout, verdict: Verdict | None, readiness: Readiness, now: datetime) -> Decision:
    if (expired := _expired(rollout, verdict, now)) is not None:
        return expired
    if verdict is not None and verdict.needs_person:
        return Decision(command=Command.HOLD, reason=verdict.reason)
    if rollout.stage_began_at is None:
        return Decision(command=None, reason=_unacknowledged(rollout, readiness), until=expires_at(rollout))
    baked_at = rollout.stage_began_at + timedelta(seconds=_bake_seconds(rollout))
    if rollout.is_monitored and (lacking := _lacking(verdict, baked_at, now)) is not None:
        return _raise(rollout, verdict, baked_at, now) or lacking
    if now < baked_at:
        said = "the evidence suffices" if rollout.is_monitored else "an unmonitored step"
        return Decision(command=None, reason=f"{said}; baking", until=baked_at)
    if (full_at := _full_traffic_allowed_at(rollout)) is not None and now < full_at:
        days = rollout.plan.min_days_before_full
        return Decision(command=None, reason=f"{days} full days must pass before 100 %", until=full_at)
    if rollout.approvals_needed:
        return Decision(command=None, reason=_unapproved(rollout), until=expires_at(rollout))
    return Decision(command=Command.ADVANCE, reason=_grounds(rollout, verdict))


def _unacknowledged(rollout: Rollout, readiness: Readiness) -> str:
    if readiness.live_runtimes == 0:
        return "waiting for a runtime: none has reported lately"
    served = f"{readiness.acknowledged_runtimes} of {readiness.live_runtimes} runtimes"
    return f"{served} serve generation {rollout.stage_generation}; the stage begins with {ACKNOWLEDGED_SHARE:.0%}"


def _lacking(verdict: Verdict | None, baked_at: datetime, now: datetime) -> Decision | None:
    if verdict is None:
        return Decision(command=None, reason="waiting for the first verdict")
    if verdict.allows_advance:
        return None
    return Decision(command=None, reason=verdict.reason, until=_latest(baked_at, _resolves_at(verdict, now)))


def _raise(rollout: Rollout, verdict: Verdict | None, baked_at: datetime, now: datetime) -> Decision | None:
    """As far within the step as the loss budget surely allows; never ahead of approvals, which guard the next step."""
    if verdict is None or rollout.phase is not Phase.RAMPING or now < baked_at or rollout.approvals_needed:
        return None
    weight_bp = next_weight_bp(
        rollout.plan,
        step=rollout.step,
        weight_bp=rollout.candidate_bp,
        safe_share_bp=verdict.safe_share_bp,
        is_shown_safe=False,
    )
    if weight_bp <= rollout.candidate_bp:
        return None
    budget = percent(rollout.plan.judge.loss_budget, signed=False)
    reason = f"up to {weight_bp / 100:g} % of the traffic its loss surely stays within the budget of {budget}"
    return Decision(command=Command.ADVANCE, reason=reason, weight_bp=weight_bp)


def _unapproved(rollout: Rollout) -> str:
    needed, step = rollout.approvals_needed, rollout.standing_step
    whose = f" from {step.approval_group}" if step is not None and step.approval_group else ""
    where = "" if rollout.is_monitored else " of this unmonitored step"
    return f"waiting for {needed} approval{'s' if needed > 1 else ''}{whose}{where}"


def _grounds(rollout: Rollout, verdict: Verdict | None) -> str:
    if rollout.is_monitored:
        return verdict.reason if verdict is not None else ""
    return f"an unmonitored step, let go on by {', '.join(sorted(rollout.approvals))}"


def _bake_seconds(rollout: Rollout) -> float:
    if rollout.phase is Phase.SHADOW:
        return rollout.plan.shadow.bake_seconds
    return rollout.plan.steps[rollout.step].bake_seconds


def _full_traffic_allowed_at(rollout: Rollout) -> datetime | None:
    if rollout.phase is Phase.WATCHING or rollout.next_share_bp < FULL_TRAFFIC_BP or rollout.started_at is None:
        return None
    return rollout.counted_from + timedelta(days=rollout.plan.min_days_before_full)


def _total_ends(rollout: Rollout) -> datetime:
    return rollout.counted_from + timedelta(seconds=rollout.plan.max_total_seconds)


def _expired(rollout: Rollout, verdict: Verdict | None, now: datetime) -> Decision | None:
    """A stage or rollout past its longest duration expires; it never ships on 'inconclusive'."""
    ends = expires_at(rollout)
    if ends is None or now < ends:
        return None
    worst = _worst_effect(verdict) if verdict is not None else None
    what = "the rollout" if now >= _total_ends(rollout) else "this stage"
    if rollout.candidate_bp and (worst is None or worst <= EXPIRY_FLOOR):
        return Decision(command=Command.ROLL_BACK, reason=f"{what} ran out of time, and a large loss is possible")
    return Decision(command=Command.EXPIRE, reason=f"{what} ran out of time without an answer")


def _worst_effect(verdict: Verdict) -> float | None:
    """The largest loss of engagement that a gate still holds possible, as a negative effect; None if any may be.

    A gate without an interval holds every loss possible, but for one that the plan goes on without.
    """
    gates = [finding for finding in verdict.findings if finding.gates and finding.metric in set(Metric)]
    bounds = [
        _loss_bound(finding, DIRECTION_OF[Metric(finding.metric)])
        for finding in gates
        if finding.policy != OnMissing.IGNORE
    ]
    known = [bound for bound in bounds if bound is not None]
    return min(known) if known and len(known) == len(bounds) else None


def _loss_bound(finding: Finding, direction: int) -> float | None:
    if direction > 0:
        return finding.lower
    return None if finding.upper is None else -finding.upper


def _resolves_at(verdict: Verdict, now: datetime) -> datetime | None:
    if verdict.seconds_to_resolve is None:
        return None
    return now + timedelta(seconds=min(verdict.seconds_to_resolve, 10 * 365 * 86_400.0))


def _latest(first: datetime, second: datetime | None) -> datetime | None:
    """The later of two waits; unknown if the second is."""
    return None if second is None else max(first, second)
