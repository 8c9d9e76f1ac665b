"""Rollouts that wait until their surface is free. Called with the surface locked."""

from dataclasses import replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from control_plane.domain.errors import ControlPlaneError, InvalidField
from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Phase, Rollout, dequeued
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


def take(session: Session, state: SurfaceState, waiting: Rollout, cause: Cause) -> Rollout:
    """Make one pending, over what is stable by now."""
    assert state.stable is not None, "a surface that had something stable keeps something stable"
    becomes = dequeued(waiting, stable=state.stable, now=cause.now)
    rollout_rows.store(session, becomes)
    rollout_rows.set_next_check(session, becomes.rollout_id, cause.now)
    after = replace(state, rollout_id=becomes.rollout_id)
    changes.change(session, state, after, cause, was=waiting, becomes=becomes)
    return becomes


def leave(session: Session, state: SurfaceState, waiting: Rollout, ended: Rollout, cause: Cause) -> SurfaceState:
    """The end of a rollout that never came to its surface: what serves stays, and the version may be tried again."""
    rollout_rows.store(session, ended)
    return changes.change(session, state, state, cause, was=waiting, becomes=ended)


def refusal(session: Session, state: SurfaceState, waiting: Rollout) -> str | None:
    """Why one may not come to its surface any more; None where it may."""
    try:
        if waiting.candidate == state.stable:
            raise InvalidField("candidate", f"{waiting.candidate} is {state.surface}'s stable version already")
        model_versions.check_may_serve(session, waiting.candidate, state.surface)
    except ControlPlaneError as error:
        return str(error)
    return None
