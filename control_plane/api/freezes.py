"""Freezes: times in which nothing grows, on one surface or on all."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response, status
from sqlalchemy.orm import Session

from control_plane.api.deps import Groups, Id, Now, Operator, Sessions, Settings
from control_plane.api.errors import documented, documented_write
from control_plane.api.freeze_schemas import FreezeIn, FreezeOut, FreezesOut, LiftIn
from control_plane.api.idempotency import Once, answer
from control_plane.api.schemas import Name
from control_plane.domain.freeze import Freeze
from control_plane.domain.model_version import Surface
from control_plane.registry import calendars, freezes, principals
from control_plane.registry.idempotency import Answer

router = APIRouter(prefix="/v1/freezes", tags=["freezes"])


@router.get("", summary="List freezes", responses=documented())
def list_freezes(
    sessions: Sessions,
    now: Now,
    surface: Annotated[Name | None, Query(description="only those that touch it")] = None,
    open_only: Annotated[bool, Query(alias="open", description="only those neither lifted nor over")] = False,
) -> FreezesOut:
    """The newest first."""
    with sessions.reading() as session:
        found = freezes.list_freezes(
            session, now=now, surface=None if surface is None else Surface(surface), open_only=open_only
        )
    return FreezesOut(freezes=[_render(freeze, now) for freeze in found])


@router.get("/{freeze_id}", summary="Read a freeze", responses=documented(404))
def read_freeze(freeze_id: Id, sessions: Sessions, now: Now) -> FreezeOut:
    with sessions.reading() as session:
        return _render(freezes.get(session, freeze_id), now)


@router.post(
    "",
    summary="Declare a freeze",
    status_code=status.HTTP_201_CREATED,
    response_model=FreezeOut,
    responses=documented_write(404),
)
def declare(body: FreezeIn, once: Once, settings: Settings, operator: Operator, now: Now) -> Response:
    """Nothing grows from then on: no rollout starts, advances, resumes or leaves the queue. Holds, approvals, aborts
    and roll backs go through as ever, and a guardrail that fails takes its candidate home."""
    declare_it = declaration(body, groups=settings.groups, by=operator, now=now)

    def stop_the_line(session: Session) -> Answer:
        freeze = declare_it(session)
        location = f"/v1/freezes/{freeze.freeze_id}"
        return answer(_render(freeze, now), status=status.HTTP_201_CREATED, location=location)

    return once(stop_the_line)


@router.post(
    "/{freeze_id}/lift",
    summary="Lift a freeze",
    response_model=FreezeOut,
    responses=documented_write(403, 404),
)
def lift(freeze_id: Id, body: LiftIn, once: Once, operator: Operator, groups: Groups, now: Now) -> Response:
    """For good, a calendar too. Whoever declared it may, its owner and its bypass group; without such a group, anyone.

    Lifted twice is lifted once.
    """

    def let_go(session: Session) -> Answer:
        lifted = freezes.lift(session, freeze_id, by=operator, groups=groups, reason=body.reason, now=now)
        return answer(_render(lifted, now))

    return once(let_go)


def declaration(body: FreezeIn, *, groups: str, by: str, now: datetime) -> Callable[[Session], Freeze]:
    """What declares the freeze, once its times and its group of `groups`, the setting, are known to be sound."""
    times = body.to_times(now)
    if body.bypass_group:
        principals.check_group(groups, body.bypass_group, field="bypass_group")
    return lambda session: freezes.declare(
        session,
        None if body.surface is None else Surface(body.surface),
        starts_at=times.starts_at,
        ends_at=times.ends_at,
        calendar=times.calendar,
        owner=body.owner,
        reason=body.reason,
        bypass_group=body.bypass_group,
        by=by,
        now=now,
    )


def _render(freeze: Freeze, now: datetime) -> FreezeOut:
    return FreezeOut.of(freeze, calendars.window_at(freeze, now), calendars.next_start(freeze, now))
