"""One candidate's way to full traffic on one surface.

queued ─(the surface is free)→ pending
pending ─start→ warming ─advance→ shadow ─advance→ ramping(0) … ramping(n) ─advance→ watching ─advance→ done
   warming, shadow, ramping, watching ─skip→ where an advance leads
   warming, shadow, ramping, watching ─hold→ held ─resume→ the phase it was held in
   shadow, ramping, watching, held ─expire→ expired ─resume→ the phase it expired in
   ramping, watching, held ─approve→ the same with one approval more
   warming, shadow, ramping, watching, held, expired ─(restart)→ shadow, from nothing; pending and warming stay
   every phase ─roll_back→ rolled_back          every phase before done ─abort→ rolled_back
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NewType, assert_never

from control_plane.domain.errors import Forbidden, IllegalTransition, MissingReason
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.plan import RolloutPlan, Step
from control_plane.domain.split import FULL_TRAFFIC_BP

RolloutId = NewType("RolloutId", int)


class Phase(StrEnum):
    QUEUED = "queued"
    PENDING = "pending"
    WARMING = "warming"
    SHADOW = "shadow"
    RAMPING = "ramping"
    WATCHING = "watching"
    DONE = "done"
    HELD = "held"
    EXPIRED = "expired"
    ROLLED_BACK = "rolled_back"


class Command(StrEnum):
    START = "start"
    ADVANCE = "advance"
    SKIP = "skip"
    HOLD = "hold"
    RESUME = "resume"
    APPROVE = "approve"
    EXPIRE = "expire"
    ROLL_BACK = "roll_back"
    ABORT = "abort"


class OnBusy(StrEnum):
    """What a new rollout does where its surface carries another."""

    REJECT = "reject"
    QUEUE = "queue"  # waits until the surface is free
    REPLACE = "replace"  # aborts the other


RESTART = "restart"  # in messages and in the history, beside `Command`s: it needs a plan
OF_PEOPLE = tuple(command for command in Command if command is not Command.EXPIRE)
FINISHED = frozenset({Phase.DONE, Phase.ROLLED_BACK})
ACTIVE = frozenset(Phase) - FINISHED - {Phase.QUEUED}  # of these a surface carries one at a time
GROWING = frozenset({Command.START, Command.ADVANCE, Command.SKIP, Command.RESUME})  # what a freeze stops


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """A rollout as of one generation of its surface; `step` indexes the plan's steps, −1 before the ramp.

    `paused_phase` is the phase that a held or expired rollout goes back to. `stage_generation` is the
    surface's generation at which the present weight was set: events of a lower one are not this stage's evidence.
    `acknowledged_at` is when nearly all live runtimes had said that they serve it: the stage begins then.
    `away_seconds` are those that the candidate spent at home, unwatched: no rule on time counts them.
    """

    rollout_id: RolloutId
    surface: Surface
    stable: VersionId
    candidate: VersionId
    plan: RolloutPlan
    phase: Phase
    created_at: datetime
    entered_at: datetime
    step: int = -1
    paused_phase: Phase | None = None
    started_at: datetime | None = None
    first_generation: int = 0
    stage_generation: int = 0
    acknowledged_at: datetime | None = None
    away_seconds: float = 0.0
    weight_bp: int | None = None  # in the present step; None: the plan's
    approvals: frozenset[str] = frozenset()
    created_by: str = ""
    release_id: int | None = None

    @property
    def serving_phase(self) -> Phase:
        """The phase whose weights hold: a held or expired rollout keeps those it had."""
        return self.paused_phase if self.paused_phase is not None else self.phase

    @property
    def candidate_bp(self) -> int:
        match self.serving_phase:
            case Phase.RAMPING | Phase.WATCHING:
                return self.plan.steps[self.step].share_bp if self.weight_bp is None else self.weight_bp
            case Phase.DONE:
                return FULL_TRAFFIC_BP
            case Phase.QUEUED | Phase.PENDING | Phase.WARMING | Phase.SHADOW:
                return 0
            case Phase.HELD | Phase.EXPIRED | Phase.ROLLED_BACK:
                return 0
            case phase:
                assert_never(phase)

    @property
    def standing_step(self) -> Step | None:
        """The plan's step that it stands on; None before the ramp."""
        return self.plan.steps[self.step] if self.step >= 0 else None

    @property
    def is_monitored(self) -> bool:
        """Whether verdicts let the present stage go on; from an unmonitored step only people do."""
        return self.standing_step is None or self.standing_step.is_monitored

    @property
    def stage_began_at(self) -> datetime | None:
        """Since when the stage bakes; None while too few runtimes are known to serve it."""
        return None if self.acknowledged_at is None else max(self.entered_at, self.acknowledged_at)

    @property
    def counted_from(self) -> datetime:
        """What rules on the whole rollout's time count from: its start, later by the time spent at home."""
        started_at = self.started_at if self.started_at is not None else self.created_at
        return started_at + timedelta(seconds=self.away_seconds)

    @property
    def shadow_sample_bp(self) -> int:
        """Share of stable's requests that the candidate scores too, without answering."""
        return self.plan.shadow.sample_bp if self.serving_phase is Phase.SHADOW else 0

    @property
    def next_share_bp(self) -> int:
        """Weight after one more advance; full traffic where none is left."""
        steps = self.plan.steps
        return steps[self.step + 1].share_bp if self.step + 1 < len(steps) else FULL_TRAFFIC_BP

    @property
    def approvals_needed(self) -> int:
        """Approvals that the step now standing still asks for before it may be left."""
        wanted = self.standing_step.approvals if self.standing_step is not None else 0
        return max(0, wanted - len(self.approvals))


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Where the rollout stands, as far as the judge needs to know; times in ms since the epoch, UTC.

    `advances_left` counts the advances up to full traffic, so 1 is the last gate before it.
    """

    phase: Phase
    step: int
    share_bp: int
    next_share_bp: int
    advances_left: int
    generation: int
    stage_generation: int
    started_at_ms: int
    entered_at_ms: int


def stage_of(rollout: Rollout, *, generation: int) -> Stage:
    """`generation` is the surface's present one."""
    started_at = rollout.started_at if rollout.started_at is not None else rollout.created_at
    began_at = rollout.stage_began_at or rollout.entered_at
    return Stage(
        phase=rollout.serving_phase,
        step=rollout.step,
        share_bp=rollout.candidate_bp,
        next_share_bp=rollout.next_share_bp,
        advances_left=len(rollout.plan.steps) - 1 - rollout.step,
        generation=generation,
        stage_generation=rollout.stage_generation,
        started_at_ms=round(started_at.timestamp() * 1_000),
        entered_at_ms=round(began_at.timestamp() * 1_000),
    )


def apply(
    rollout: Rollout,
    command: Command,
    *,
    now: datetime,
    by: str,
    reason: str = "",
    groups: Collection[str] = (),
) -> Rollout:
    """Return the rollout after `command`; every pair not listed is illegal. `groups` are those that `by` belongs to.

    Raises:
        IllegalTransition: the phase does not take the command.
        MissingReason: what overrules the gates needs one: a skip, or approving a step that nothing monitors.
        Forbidden: approving takes another person than the rollout's creator, and one of the step's group.
    """
    try:
        return _applied(rollout, command, now=now, by=by, reason=reason, groups=groups)
    except IllegalTransition:
        hint = approval_hint(rollout) if command is Command.APPROVE and rollout.phase not in FINISHED else ""
        raise IllegalTransition(rollout.phase, command, takes=takes(rollout), hint=hint) from None


def _applied(
    rollout: Rollout, command: Command, *, now: datetime, by: str, reason: str, groups: Collection[str]
) -> Rollout:
    match command:
        case Command.START if rollout.phase is Phase.PENDING:
            return replace(rollout, phase=Phase.WARMING, started_at=now, entered_at=now)
        case Command.ADVANCE:
            return _advanced(rollout, command, now)
        case Command.SKIP:
            after = _advanced(rollout, command, now)
            _check_reason(command, reason)
            return after
        case Command.HOLD if rollout.phase in (Phase.WARMING, Phase.SHADOW, Phase.RAMPING, Phase.WATCHING):
            return replace(rollout, phase=Phase.HELD, paused_phase=rollout.phase, entered_at=now)
        case Command.HOLD if rollout.phase is Phase.HELD:
            return rollout
        case Command.EXPIRE if rollout.phase in (Phase.SHADOW, Phase.RAMPING, Phase.WATCHING, Phase.HELD):
            return replace(rollout, phase=Phase.EXPIRED, paused_phase=rollout.serving_phase, entered_at=now)
        case Command.RESUME if rollout.phase in (Phase.HELD, Phase.EXPIRED) and rollout.paused_phase is not None:
            return replace(rollout, phase=rollout.paused_phase, paused_phase=None, entered_at=now)
        case Command.APPROVE if rollout.phase in (Phase.RAMPING, Phase.WATCHING, Phase.HELD):
            _check_approver(rollout, by, reason, groups)
            return replace(rollout, approvals=rollout.approvals | {by})
        case Command.ABORT if rollout.phase is not Phase.DONE:
            return _rolled_back(rollout, now)
        case Command.ROLL_BACK:
            return _rolled_back(rollout, now)
        case Command.START | Command.HOLD | Command.EXPIRE | Command.RESUME | Command.APPROVE | Command.ABORT:
            raise IllegalTransition(rollout.phase, command)
        case _:
            assert_never(command)


def takes(rollout: Rollout) -> tuple[str, ...]:
    """What a person may command it now to some effect; approve only where approvals are asked for."""
    found = [command for command in OF_PEOPLE if _is_taken(rollout, command)]
    if Command.APPROVE in found and not rollout.approvals_needed:
        found.remove(Command.APPROVE)
    restart = [] if rollout.phase in FINISHED else [RESTART]
    return (*found, *restart)


def approval_hint(rollout: Rollout) -> str:
    """Who may approve the present step, or when approvals are asked for."""
    step = rollout.standing_step
    if step is not None and step.approvals:
        who = f"anyone of {step.approval_group}" if step.approval_group else "anyone"
        return (
            f"`surefoot rollout approve {rollout.rollout_id}` is up to {who} but {rollout.created_by}, who created it"
        )
    asking = [f"{step.share_bp / 100:g} % ({step.approvals})" for step in rollout.plan.steps if step.approvals]
    return f"approvals are asked for at {', '.join(asking)}" if asking else "its plan asks for no approvals"


def raised(rollout: Rollout, *, weight_bp: int, now: datetime) -> Rollout:
    """The rollout at a larger weight within its step: a stage of its own, with its own bake time.

    The step is not left, so what it asked for and got (approvals) stays.

    Raises:
        IllegalTransition: it is not ramping, or the weight is no raise or beyond the plan's next step.
    """
    if rollout.phase is not Phase.RAMPING or not rollout.candidate_bp < weight_bp <= rollout.next_share_bp:
        raise IllegalTransition(f"{rollout.phase} at {rollout.candidate_bp / 100:g} %", f"a raise to {weight_bp} bp")
    return replace(rollout, weight_bp=weight_bp, entered_at=now, acknowledged_at=None)


def dequeued(rollout: Rollout, *, stable: VersionId, now: datetime) -> Rollout:
    """A queued rollout whose surface is free: pending, over what is stable there by now."""
    assert rollout.phase is Phase.QUEUED, f"rollout {rollout.rollout_id} is {rollout.phase}, not queued"
    return replace(rollout, phase=Phase.PENDING, stable=stable, entered_at=now)


def restarted(rollout: Rollout, *, plan: RolloutPlan, now: datetime) -> Rollout:
    """The rollout under a plan that was swapped in: evidence, approvals and times begin anew, without weight."""
    if rollout.phase in FINISHED:
        raise IllegalTransition(rollout.phase, RESTART, takes=takes(rollout))
    if rollout.phase in (Phase.QUEUED, Phase.PENDING):
        return replace(rollout, plan=plan)
    phase = Phase.WARMING if rollout.serving_phase is Phase.WARMING else Phase.SHADOW
    return replace(
        rollout,
        plan=plan,
        phase=phase,
        paused_phase=None,
        started_at=now,
        entered_at=now,
        acknowledged_at=None,
        away_seconds=0.0,
        step=-1,
        weight_bp=None,
        approvals=frozenset(),
    )


def back_from_home(rollout: Rollout, *, home_since: datetime, now: datetime) -> Rollout:
    """The rollout once its candidate has its weight back: time at home is no time at this step, nor of the rollout."""
    acknowledged_at = rollout.acknowledged_at
    if acknowledged_at is not None:
        acknowledged_at += now - max(home_since, acknowledged_at)
    return replace(
        rollout,
        entered_at=rollout.entered_at + (now - max(home_since, rollout.entered_at)),
        acknowledged_at=acknowledged_at,
        away_seconds=rollout.away_seconds + (now - max(home_since, rollout.counted_from)).total_seconds(),
    )


def _advanced(rollout: Rollout, command: Command, now: datetime) -> Rollout:
    entered = replace(rollout, entered_at=now, acknowledged_at=None, weight_bp=None, approvals=frozenset())
    match rollout.phase:
        case Phase.WARMING:
            return replace(entered, phase=Phase.SHADOW)
        case Phase.SHADOW | Phase.RAMPING:
            step = rollout.step + 1
            is_last = step + 1 == len(rollout.plan.steps)
            return replace(entered, phase=Phase.WATCHING if is_last else Phase.RAMPING, step=step)
        case Phase.WATCHING:
            return replace(entered, phase=Phase.DONE)
        case Phase.QUEUED | Phase.PENDING | Phase.DONE | Phase.HELD | Phase.EXPIRED | Phase.ROLLED_BACK:
            raise IllegalTransition(rollout.phase, command)
        case phase:
            assert_never(phase)


def _is_taken(rollout: Rollout, command: Command) -> bool:
    try:
        return _applied(rollout, command, now=rollout.entered_at, by="", reason="asked", groups=()) != rollout
    except (Forbidden, MissingReason):
        return True
    except IllegalTransition:
        return False


def _check_reason(command: Command, reason: str) -> None:
    if not reason.strip():
        raise MissingReason(command)


def _check_approver(rollout: Rollout, by: str, reason: str, groups: Collection[str]) -> None:
    group = rollout.standing_step.approval_group if rollout.standing_step is not None else ""
    if by == rollout.created_by:
        raise Forbidden(
            by, "approve a rollout that they created themselves; somebody else does, or skip the step with a reason"
        )
    if group and group not in groups:
        raise Forbidden(by, f"approve this step: it takes members of {group}")
    if not rollout.is_monitored:
        _check_reason(Command.APPROVE, reason)


def _rolled_back(rollout: Rollout, now: datetime) -> Rollout:
    if rollout.phase is Phase.ROLLED_BACK:
        return rollout
    return replace(rollout, phase=Phase.ROLLED_BACK, paused_phase=None, entered_at=now)
