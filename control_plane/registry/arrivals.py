"""How rollouts come to their surfaces: created, queued behind others or in their place, and taken from the queue.

Written, like every change, in the caller's transaction; `rollouts` commands them from then on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy.orm import Session

from control_plane.domain.errors import InvalidField, NoSafeVersion
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.rollout import Command, OnBusy, Phase, Rollout, apply
from control_plane.domain.surface_graph import Edge
from control_plane.registry import (
    changes,
    commands,
    freezes,
    hand_back,
    leases,
    model_versions,
    queues,
    release_rows,
    rollout_rows,
    rollouts,
    surfaces,
)
from control_plane.registry.changes import Cause
from control_plane.registry.surfaces import SurfaceState

CREATE = "create"  # in the history, beside `Command`s


def create(
    session: Session,
    surface: Surface,
    candidate: VersionId,
    plan: RolloutPlan,
    *,
    by: str,
    now: datetime,
    release_id: int | None = None,
    on_busy: OnBusy = OnBusy.REJECT,
) -> Rollout:
    """Make a pending rollout, due at once; it starts from nothing, whatever other digests have shown.

    Where the surface carries another one, `on_busy` says what happens. A queued rollout waits for it to end; one that
    replaces it aborts it in the same transaction, so that its candidate does not return.

    Raises:
        SurfaceBusy, NoSafeVersion (nothing is stable yet), UnknownName, Quarantined (also if once taken back).
    """
    _lock(session, [surface], on_busy)
    before = surfaces.get(session, surface)
    if on_busy is OnBusy.REJECT:
        changes.refuse_busy(before)
    if before.stable is None:
        raise NoSafeVersion(surface)
    if candidate == before.stable:
        raise InvalidField("candidate", f"{candidate} is {surface}'s stable version already")
    model_versions.check_may_serve(session, candidate, surface)
    others = before.rollout_id is not None or (on_busy is OnBusy.QUEUE and rollout_rows.queued(session, surface))
    rollout = rollout_rows.insert(
        session,
        surface,
        stable=before.stable,
        candidate=candidate,
        plan=plan,
        by=by,
        now=now,
        release_id=release_id,
        phase=Phase.QUEUED if others else Phase.PENDING,
    )
    if not others:
        cause = Cause(command=CREATE, by=by, reason="", now=now)
        changes.change(session, before, replace(before, rollout_id=rollout.rollout_id), cause, becomes=rollout)
        return rollout
    if on_busy is OnBusy.REPLACE:
        return _replace(session, before, rollout, by=by, now=now)
    changes.change(session, before, before, Cause(command=queues.QUEUE, by=by, reason="", now=now), becomes=rollout)
    return rollout


def create_release(
    session: Session,
    candidates: Mapping[Surface, VersionId],
    plan: RolloutPlan,
    edges: Sequence[Edge],
    *,
    by: str,
    now: datetime,
    on_busy: OnBusy = OnBusy.REJECT,
) -> int:
    """Make one rollout a surface, all of them or none, tied together by `edges`; return the release's id.

    Each is pending or, where its surface carries another, what `on_busy` says: see `create`.
    """
    release_id = release_rows.insert(session, edges, list(candidates), by=by, now=now)
    _lock(session, list(candidates), on_busy)
    for surface in sorted(candidates):
        create(session, surface, candidates[surface], plan, by=by, now=now, release_id=release_id, on_busy=on_busy)
    return release_id


def dequeue(
    session: Session, surface: Surface, *, now: datetime, by: str = "scheduler", epoch: int | None = None
) -> Rollout | None:
    """Make the oldest queued rollout of a free surface pending, over what is stable there now; None if none can.

    One whose candidate is stable by now, or may not serve any more, ends with that as its reason.

    Raises:
        Deposed, Frozen.
    """
    if epoch is not None:
        leases.check(session, leases.SCHEDULER, epoch)
    waiting = rollout_rows.queued(session, surface)
    locked = changes.lock(session, _surfaces_with(session, surface, waiting))
    still = [rollout for rollout in rollout_rows.queued(session, surface) if rollout in waiting]
    if surfaces.get(session, surface).rollout_id is not None or not still:
        return None
    freezes.check(session, surface, now=now, by=by, groups=(), reason="")
    for rollout in still:
        states = changes.lock(session, list(locked))
        cause = Cause(command=queues.DEQUEUE, by=by, reason="the surface is free", now=now)
        refusal = queues.refusal(session, states[surface], rollout)
        if refusal is None:
            return queues.take(session, states[surface], rollout, cause)
        ended = apply(rollout, Command.ABORT, now=now, by=by)
        commands.leave_queue(session, states, rollout, ended, replace(cause, reason=f"not started: {refusal}"))
    return None


def _lock(session: Session, own: Sequence[Surface], on_busy: OnBusy) -> None:
    """All surfaces that may change, in one go: a second lock could wait for who waits for the first."""
    if on_busy is not OnBusy.REPLACE:
        changes.lock(session, own)
        return
    standing = [surfaces.get(session, surface).rollout_id for surface in own]
    replaced = [rollout_rows.load(session, rollout_id) for rollout_id in standing if rollout_id is not None]
    changes.lock(
        session, [*own, *(surface for rollout in replaced for surface in hand_back.surfaces_with(session, rollout))]
    )


def _surfaces_with(session: Session, surface: Surface, waiting: Sequence[Rollout]) -> list[Surface]:
    """What may change if one of those in line may not serve any more: what follows it, too."""
    followed = (hand_back.surfaces_with(session, rollout) for rollout in waiting)
    return [surface, *(found for surfaces_of_it in followed for found in surfaces_of_it)]


def _replace(session: Session, before: SurfaceState, rollout: Rollout, *, by: str, now: datetime) -> Rollout:
    """Abort the surface's rollout for one that was queued just now."""
    if before.rollout_id is not None:
        if rollout_rows.load(session, before.rollout_id).candidate == rollout.candidate:
            rule = f"{rollout.candidate} is the candidate of rollout {before.rollout_id} already; restart that one"
            raise InvalidField("candidate", rule)
        reason = f"replaced by rollout {rollout.rollout_id} of {rollout.candidate}"
        rollouts.apply_command(session, before.rollout_id, Command.ABORT, by=by, now=now, reason=reason)
        before = changes.lock_one(session, rollout.surface)
    becomes = replace(rollout, phase=Phase.PENDING)
    rollout_rows.store(session, becomes)
    rollout_rows.set_next_check(session, becomes.rollout_id, now)
    cause = Cause(command=CREATE, by=by, reason="", now=now)
    changes.change(session, before, replace(before, rollout_id=becomes.rollout_id), cause, becomes=becomes)
    return becomes
