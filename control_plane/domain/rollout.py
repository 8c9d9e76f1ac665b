"""One candidate's way to full traffic on one surface.

pending ─start→ warming ─advance→ shadow ─advance→ ramping(0) … ramping(n) ─advance→ watching ─advance→ done
   every active phase ─hold→ held ─resume→ the phase it was held in
   shadow, ramping, held ─expire→ expired ─resume→ the phase it expired in
   every phase ─roll_back→ rolled_back          every phase before done ─abort→ rolled_back
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import NewType, assert_never

from control_plane.domain.errors import IllegalTransition
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.split import FULL_TRAFFIC_BP

RolloutId = NewType("RolloutId", int)


class Phase(StrEnum):
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
    HOLD = "hold"
    RESUME = "resume"
    APPROVE = "approve"
    EXPIRE = "expire"
    ROLL_BACK = "roll_back"
    ABORT = "abort"


FINISHED = frozenset({Phase.DONE, Phase.ROLLED_BACK})
ACTIVE = frozenset(Phase) - FINISHED


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """A rollout as of one generation of its surface; `step` indexes the plan's steps, −1 before the ramp.

    `paused_phase` is the phase that a held or expired rollout goes back to. `stage_generation` is the
    surface's generation at which the present weight was set: events of a lower one are not this stage's evidence.
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
    approvals: frozenset[str] = frozenset()
    release_id: int | None = None

    @property
    def serving_phase(self) -> Phase:
        """The phase whose weights hold: a held or expired rollout keeps those it had."""
        return self.paused_phase if self.paused_phase is not None else self.phase

    @property
    def candidate_bp(self) -> int:
        match self.serving_phase:
            case Phase.RAMPING | Phase.WATCHING:
                return self.plan.steps[self.step].share_bp
            case Phase.DONE:
                return FULL_TRAFFIC_BP
            case Phase.PENDING | Phase.WARMING | Phase.SHADOW | Phase.HELD | Phase.EXPIRED | Phase.ROLLED_BACK:
                return 0
            case phase:
                assert_never(phase)

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
        wanted = self.plan.steps[self.step].approvals if self.step >= 0 else 0
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
    return Stage(
        phase=rollout.serving_phase,
        step=rollout.step,
        share_bp=rollout.candidate_bp,
        next_share_bp=rollout.next_share_bp,
        advances_left=len(rollout.plan.steps) - 1 - rollout.step,
        generation=generation,
        stage_generation=rollout.stage_generation,
        started_at_ms=round(started_at.timestamp() * 1_000),
        entered_at_ms=round(rollout.entered_at.timestamp() * 1_000),
    )


def apply(rollout: Rollout, command: Command, *, now: datetime, by: str) -> Rollout:
    """Return the rollout after `command`; every pair not listed is illegal."""
    match command:
        case Command.START if rollout.phase is Phase.PENDING:
            return replace(rollout, phase=Phase.WARMING, started_at=now, entered_at=now)
        case Command.ADVANCE:
            return _advanced(rollout, now)
        case Command.HOLD if rollout.phase in (Phase.WARMING, Phase.SHADOW, Phase.RAMPING, Phase.WATCHING):
            return replace(rollout, phase=Phase.HELD, paused_phase=rollout.phase, entered_at=now)
        case Command.HOLD if rollout.phase is Phase.HELD:
            return rollout
        case Command.EXPIRE if rollout.phase in (Phase.SHADOW, Phase.RAMPING, Phase.HELD):
            return replace(rollout, phase=Phase.EXPIRED, paused_phase=rollout.serving_phase, entered_at=now)
        case Command.RESUME if rollout.phase in (Phase.HELD, Phase.EXPIRED) and rollout.paused_phase is not None:
            return replace(rollout, phase=rollout.paused_phase, paused_phase=None, entered_at=now)
        case Command.APPROVE if rollout.phase in (Phase.RAMPING, Phase.HELD):
            return replace(rollout, approvals=rollout.approvals | {by})
        case Command.ABORT if rollout.phase is not Phase.DONE:
            return _rolled_back(rollout, now)
        case Command.ROLL_BACK:
            return _rolled_back(rollout, now)
        case Command.START | Command.HOLD | Command.EXPIRE | Command.RESUME | Command.APPROVE | Command.ABORT:
            raise IllegalTransition(rollout.phase, command)
        case _:
            assert_never(command)


def back_from_home(rollout: Rollout, *, home_since: datetime, now: datetime) -> Rollout:
    """The rollout once its candidate has its weight back: time spent at home is no time spent at this step."""
    return replace(rollout, entered_at=rollout.entered_at + (now - max(home_since, rollout.entered_at)))


def _advanced(rollout: Rollout, now: datetime) -> Rollout:
    match rollout.phase:
        case Phase.WARMING:
            return replace(rollout, phase=Phase.SHADOW, entered_at=now)
        case Phase.SHADOW | Phase.RAMPING:
            step = rollout.step + 1
            is_last = step + 1 == len(rollout.plan.steps)
            phase = Phase.WATCHING if is_last else Phase.RAMPING
            return replace(rollout, phase=phase, step=step, entered_at=now, approvals=frozenset())
        case Phase.WATCHING:
            return replace(rollout, phase=Phase.DONE, entered_at=now)
        case Phase.PENDING | Phase.DONE | Phase.HELD | Phase.EXPIRED | Phase.ROLLED_BACK:
            raise IllegalTransition(rollout.phase, Command.ADVANCE)
        case phase:
            assert_never(phase)


def _rolled_back(rollout: Rollout, now: datetime) -> Rollout:
    if rollout.phase is Phase.ROLLED_BACK:
        return rollout
    return replace(rollout, phase=Phase.ROLLED_BACK, paused_phase=None, entered_at=now)
