"""Rollouts that wait until their surface is free. Called by `rollouts`, with the surface locked."""

from dataclasses import replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from control_plane.domain.errors import ControlPlaneError, InvalidField
from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Command, Phase, Rollout, apply, dequeued
from control_plane.registry import changes, model_versions, rollout_rows
from control_plane.registry.changes import Cause
from control_plane.registry.surfaces import SurfaceState
from control_plane.registry.tables import RolloutRow, SurfaceRow

QUEUE, DEQUEUE = "queue", "dequeue"  # in the history, beside `Command`s


def free_surfaces(session: Session) -> list[Surface]:
    """Those that carry no rollout, and for which one waits."""
    found = session.scalars(
        select(SurfaceRow.surface)
        .where(
            SurfaceRow.rollout_id.is_(None),
            SurfaceRow.surface.in_(select(RolloutRow.surface).where(RolloutRow.phase == Phase.QUEUED.value)),
        )
        .order_by(SurfaceRow.surface)
    )
    return [Surface(surface) for surface in found]


def take_next(session: Session, state: SurfaceState, cause: Cause) -> Rollout | None:
    """Make the oldest that may still serve pending; those before it that may not end here, and say why."""
    for waiting in rollout_rows.queued(session, state.surface):
        refusal = _refusal(session, state, waiting)
        if refusal is None:
            return _taken(session, state, waiting, cause)
        ended = apply(waiting, Command.ABORT, now=cause.now, by=cause.by)
        state = leave(session, state, waiting, ended, replace(cause, reason=f"not started: {refusal}"))
    return None


def leave(session: Session, state: SurfaceState, waiting: Rollout, ended: Rollout, cause: Cause) -> SurfaceState:
    """The end of a rollout that never came to its surface: what serves stays, and the version may be tried again."""
    rollout_rows.store(session, ended)
    return changes.change(session, state, state, cause, was=waiting, becomes=ended)


def _refusal(session: Session, state: SurfaceState, waiting: Rollout) -> str | None:
    try:
        if waiting.candidate == state.stable:
            raise InvalidField("candidate", f"{waiting.candidate} is {state.surface}'s stable version already")
        model_versions.check_may_serve(session, waiting.candidate, state.surface)
    except ControlPlaneError as error:
        return str(error)
    return None


def _taken(session: Session, state: SurfaceState, waiting: Rollout, cause: Cause) -> Rollout:
    assert state.stable is not None, "a surface that had something stable keeps something stable"
    becomes = dequeued(waiting, stable=state.stable, now=cause.now)
    rollout_rows.store(session, becomes)
    rollout_rows.set_next_check(session, becomes.rollout_id, cause.now)
    after = replace(state, rollout_id=becomes.rollout_id)
    changes.change(session, state, after, cause, was=waiting, becomes=becomes)
    return becomes
