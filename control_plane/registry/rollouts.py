"""The writer: every change of what serves goes through here, whole or not at all, in the caller's transaction."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from control_plane.domain.errors import (
    Forbidden,
    MissingReason,
    NoSafeVersion,
    SurfaceBusy,
    UnknownName,
)
from control_plane.domain.model_version import Digest, Part, Surface, check_digest
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.rollout import (
    ACTIVE,
    GROWING,
    RESTART,
    Command,
    Phase,
    Rollout,
    RolloutId,
    apply,
    back_from_home,
    raised,
    restarted,
)
from control_plane.domain.surface_graph import hand_back_order
from control_plane.registry import (
    changes,
    commands,
    freezes,
    leases,
    model_versions,
    queues,
    release_rows,
    rollout_rows,
)
from control_plane.registry import (
    quarantine as quarantines,
)
from control_plane.registry.changes import Cause
from control_plane.registry.quarantine import QuarantinedDigest
from control_plane.registry.tables import RolloutRow


def apply_command(
    session: Session,
    rollout_id: RolloutId,
    command: Command,
    *,
    by: str,
    now: datetime,
    reason: str = "",
    seen_generation: int | None = None,
    verdict_id: int | None = None,
    epoch: int | None = None,
    quarantine_parts: Sequence[Part | str] = (),
    groups: Collection[str] = (),
    weight_bp: int | None = None,
) -> Rollout:
    """Carry out a command, or change nothing.

    A person's roll back is never refused as stale. What is asked for twice happens once. `quarantine_parts` of
    the candidate that stable does not share are quarantined on every surface together with a roll back;
    if another surface has nothing to fall back to, the roll back happens without, and the history says so.
    `groups` are those that `by` belongs to. A person's advance rests on the latest verdict if `verdict_id` is None.
    An advance with `weight_bp` stays in its step and takes that weight there.

    Raises:
        Deposed: `epoch` is not the scheduler lease's present one.
        StaleGeneration: the surface is not at `seen_generation`.
        MissingVerdict: the candidate would gain weight without a passing verdict; a person may skip the step.
        MissingReason: a skip, or an approval of an unmonitored step, says why.
        Frozen, CoolingDown: it would grow, and may not now.
        Forbidden: of approvals, see `domain.rollout.apply`.
        IllegalTransition, UnknownName, Quarantined, NoSafeVersion.
    """
    if epoch is not None:
        leases.check(session, leases.SCHEDULER, epoch)
    rollout = rollout_rows.load(session, rollout_id)
    surface = rollout.surface
    states = changes.lock(session, None if quarantine_parts else commands.surfaces_of(session, rollout, command))
    rollout = rollout_rows.load(session, rollout_id)
    if rollout.phase is Phase.DONE and command is Command.ROLL_BACK:  # perhaps since a moment ago: see `surfaces_of`
        states = changes.lock(session)
    before = states[surface]
    if _has_happened(rollout, command):
        return rollout
    if command is not Command.ROLL_BACK or epoch is not None:
        changes.check_seen(before, seen_generation)
    is_raise = command is Command.ADVANCE and weight_bp is not None
    if is_raise and weight_bp is not None:
        becomes = raised(rollout, weight_bp=weight_bp, now=now)
    else:
        becomes = apply(rollout, command, now=now, by=by, reason=reason, groups=groups)
    if becomes == rollout:
        return rollout
    is_person = epoch is None
    if command is Command.ADVANCE and is_person and verdict_id is None:
        verdict_id = commands.latest_verdict_id(session, rollout)
    cause = Cause(command=command.value, by=by, reason=reason, now=now, verdict_id=verdict_id)
    if rollout.phase is Phase.QUEUED:
        return commands.leave_queue(session, states, rollout, becomes, cause)
    if command in (Command.ROLL_BACK, Command.ABORT):
        return commands.go_home(session, states, rollout, becomes, cause, quarantine_parts)
    if command is Command.SKIP and not is_person:
        raise Forbidden(by, "skip: only people go on without the gates")
    if is_raise:
        commands.check_raise(session, rollout, becomes, before, cause)
    elif command is Command.ADVANCE:
        commands.check_evidence(session, rollout, before, cause)
    if command is Command.START:
        commands.check_cool_down(session, rollout, cause, is_person=is_person)
    if command in GROWING:
        model_versions.check_may_serve(session, rollout.candidate, surface)
        freezes.check(session, surface, now=now, by=by, groups=groups, reason=reason)
    return commands.go_on(session, before, rollout, becomes, cause)


def restart(
    session: Session,
    rollout_id: RolloutId,
    *,
    plan: RolloutPlan | None,
    by: str,
    reason: str,
    now: datetime,
    seen_generation: int | None,
) -> Rollout:
    """Begin anew in the shadow, under another plan or, if None, the same: no weight, no evidence, no approvals.

    The one way in which a plan changes under a rollout; one that has not come to the shadow yet stays where it is.

    Raises:
        StaleGeneration, MissingReason, IllegalTransition (it is finished), UnknownName, Quarantined.
    """
    before = changes.lock_one(session, rollout_rows.load(session, rollout_id).surface)
    rollout = rollout_rows.load(session, rollout_id)
    changes.check_seen(before, seen_generation)
    becomes = restarted(rollout, plan=rollout.plan if plan is None else plan, now=now)
    if not reason.strip():
        raise MissingReason(RESTART)
    model_versions.check_may_serve(session, rollout.candidate, before.surface)
    rollout_rows.swap_plan(session, rollout_id, becomes.plan)
    return commands.go_on(session, before, rollout, becomes, Cause(command=RESTART, by=by, reason=reason, now=now))


def acknowledge(
    session: Session, rollout_id: RolloutId, *, seen_generation: int, at: datetime, epoch: int | None = None
) -> Rollout:
    """Note that nearly all live runtimes serve the present stage, which begins with that. It begins once.

    Raises:
        Deposed, StaleGeneration.
    """
    if epoch is not None:
        leases.check(session, leases.SCHEDULER, epoch)
    before = changes.lock_one(session, rollout_rows.load(session, rollout_id).surface)
    rollout = rollout_rows.load(session, rollout_id)
    changes.check_seen(before, seen_generation)
    if rollout.acknowledged_at is None:
        rollout = replace(rollout, acknowledged_at=at)
        rollout_rows.store(session, rollout)
    return rollout


def renew_watch(
    session: Session,
    rollout_id: RolloutId,
    *,
    by: str,
    now: datetime,
    seen_generation: int,
    verdict_id: int,
    epoch: int | None = None,
) -> Rollout:
    """After a completed check, let a candidate come back that had gone home, under a new generation.

    Never under the old one: there its users have met stable too. Where the candidate is not at home, nothing changes.

    Raises:
        Deposed, StaleGeneration, Quarantined, Frozen.
    """
    if epoch is not None:
        leases.check(session, leases.SCHEDULER, epoch)
    before = changes.lock_one(session, rollout_rows.load(session, rollout_id).surface)
    rollout = rollout_rows.load(session, rollout_id)
    changes.check_seen(before, seen_generation)
    home_since = before.home_since(now=now) if before.rollout_id == rollout_id else None
    if home_since is None:
        return rollout
    model_versions.check_may_serve(session, rollout.candidate, before.surface)
    freezes.check(session, before.surface, now=now, by=by, groups=(), reason="")
    unwatched_seconds = (now - (before.lease_renewed_at or home_since)).total_seconds()
    reason = f"nobody watched for {_in_words(unwatched_seconds)}; the candidate had gone home and comes back"
    cause = Cause(command=commands.RENEW_WATCH, by=by, reason=reason, now=now, verdict_id=verdict_id)
    becomes = back_from_home(rollout, home_since=home_since, now=now)
    return commands.go_on(session, before, rollout, becomes, cause)


def quarantine(
    session: Session, digest: Digest, *, by: str, reason: str, now: datetime, epoch: int | None = None
) -> tuple[Surface, ...]:
    """Bar a digest from serving; return the surfaces that moved off it, all of them or none.

    Raises:
        NoSafeVersion: a surface has nothing to fall back to; nothing was changed anywhere.
        UnknownName: no version has such a part.
    """
    if epoch is not None:
        leases.check(session, leases.SCHEDULER, epoch)
    check_digest("digest", digest)
    states = changes.lock(session)
    if not model_versions.versions_with(session, [digest]):
        raise UnknownName("digest", digest)
    moves = quarantines.plan_moves(session, states, [digest])
    quarantines.confine(session, [digest], by=by, reason=reason, now=now)
    cause = Cause(command=quarantines.COMMAND, by=by, reason=reason, now=now)
    commands.move_off(session, states, moves, cause)
    return tuple(move.before.surface for move in moves)


def release_quarantine(session: Session, digest: Digest, *, by: str, reason: str, now: datetime) -> None:
    """Let a digest serve again; nothing that moved off it comes back by itself."""
    changes.lock(session)
    quarantines.release(session, digest, by=by, reason=reason, now=now)


def list_quarantined(session: Session) -> list[QuarantinedDigest]:
    return quarantines.list_quarantined(session)


def get(session: Session, rollout_id: RolloutId) -> Rollout:
    return rollout_rows.load(session, rollout_id)


def list_rollouts(
    session: Session, *, surface: Surface | None = None, release_id: int | None = None, active_only: bool = False
) -> list[Rollout]:
    """The newest first."""
    query = select(RolloutRow).order_by(RolloutRow.rollout_id.desc())
    if surface is not None:
        query = query.where(RolloutRow.surface == surface)
    if release_id is not None:
        query = query.where(RolloutRow.release_id == release_id)
    if active_only:
        query = query.where(RolloutRow.phase.in_([phase.value for phase in ACTIVE]))
    return [rollout_rows.rollout_of(row) for row in session.scalars(query.execution_options(populate_existing=True))]


def list_queued(session: Session, surface: Surface | None = None) -> list[Rollout]:
    """Those that wait for their surface to be free, the next one first."""
    return rollout_rows.queued(session, surface)


def free_surfaces(session: Session) -> list[Surface]:
    """Surfaces without a rollout for which one is queued."""
    return queues.free_surfaces(session)


def due(session: Session, *, now: datetime) -> list[RolloutId]:
    """Active rollouts whose next check is not in the future, the longest overdue first."""
    found = session.scalars(
        select(RolloutRow.rollout_id)
        .where(RolloutRow.next_check_at <= now, RolloutRow.phase.in_([phase.value for phase in ACTIVE]))
        .order_by(RolloutRow.next_check_at, RolloutRow.rollout_id)
    )
    return [RolloutId(rollout_id) for rollout_id in found]


def set_next_check(session: Session, rollout_id: RolloutId, at: datetime, *, epoch: int | None = None) -> None:
    if epoch is not None:
        leases.check(session, leases.SCHEDULER, epoch)
    changes.lock_one(session, rollout_rows.load(session, rollout_id).surface)
    rollout_rows.set_next_check(session, rollout_id, at)


def roll_back_release(session: Session, release_id: int, *, by: str, reason: str, now: datetime) -> dict[Surface, str]:
    """Take a whole release home, furthest downstream first; return what could not go, and why. Twice is as once.

    A surface that has nothing sound to land on, or another rollout on its way, does not keep the others.
    """
    edges, found = release_rows.load(session, release_id).edges, release_rows.rollouts_of(session, release_id)
    states = changes.lock(session, list(found))
    stays: dict[Surface, str] = {}
    for surface in hand_back_order(found, edges):
        rollout = rollout_rows.load(session, found[surface].rollout_id)
        if rollout.phase is Phase.DONE and states[surface].stable != rollout.candidate:
            continue
        other = states[surface].rollout_id
        if rollout.phase is Phase.DONE and other is not None:
            stays[surface] = str(SurfaceBusy(surface, other))
            continue
        try:
            apply_command(session, rollout.rollout_id, Command.ROLL_BACK, by=by, now=now, reason=reason)
        except NoSafeVersion as error:  # raised before anything is written
            stays[surface] = str(error)
    return stays


def _in_words(seconds: float) -> str:
    """'3 h 10 min', '4 min 5 s'."""
    minutes, whole_seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (whole_seconds if not hours else 0, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "0 s"


def _has_happened(rollout: Rollout, command: Command) -> bool:
    """Whether a repeated command, perhaps with the generation of its first time, has nothing left to do."""
    match command:
        case Command.ROLL_BACK | Command.ABORT:
            return rollout.phase is Phase.ROLLED_BACK
        case Command.HOLD:
            return rollout.phase is Phase.HELD
        case _:
            return False
