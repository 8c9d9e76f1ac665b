"""Freezes: who stopped the line, why and until when. Asked by whatever grows, and by nothing that makes safer."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from control_plane.domain import event_types
from control_plane.domain.errors import Forbidden, InvalidField, UnknownName
from control_plane.domain.freeze import Calendar, Freeze, StandingFreeze, ends_last
from control_plane.domain.model_version import Surface
from control_plane.registry import calendars, changes, outbox, surfaces
from control_plane.registry.tables import FreezeRow

DECLARED, LIFTED = event_types.FREEZE_DECLARED, event_types.FREEZE_LIFTED
OVERRULED = event_types.FREEZE_OVERRULED
EVERY_SURFACE = "all surfaces"  # the subject of an event
MAX_REACH = timedelta(days=3_650)  # a calendar is computed from its beginning on


def standing(session: Session, surface: Surface, *, now: datetime) -> StandingFreeze | None:
    """The freeze of this surface that ends last, of those that stand now."""
    return ends_last(_standing(session, surface, now))


def check(session: Session, surface: Surface, *, now: datetime, by: str, groups: Collection[str], reason: str) -> None:
    """Let growth through, or refuse it. `groups` are those that `by` belongs to; overruling a freeze is told outside.

    Asked in the transaction that grows, with the surface locked: once `declare` has returned, nothing grows any more.

    Raises:
        Frozen: a freeze stands that `by` may not overrule, or gave no reason to.
    """
    found = _standing(session, surface, now)
    closed = ends_last(freeze for freeze in found if not freeze.lets_through(groups, reason))
    if closed is not None:
        raise closed.refusal(surface)
    for freeze in found:
        _tell_overruled(session, surface, freeze, by=by, reason=reason, now=now)


def declare(
    session: Session,
    surface: Surface | None,
    *,
    by: str,
    reason: str,
    now: datetime,
    owner: str = "",
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
    calendar: Calendar | None = None,
    bypass_group: str = "",
) -> Freeze:
    """Stop the line on one surface, or on all if None, at once or from `starts_at` on.

    Waits for what is growing at this moment: when it returns, that has happened, and nothing more will.

    Raises:
        InvalidField: of `starts_at`, `ends_at`, `duration`, `recurrence`, `time_zone` or `reason`.
        UnknownName: there is no such surface.
    """
    if not reason.strip():
        raise InvalidField("reason", "must say why nothing may grow")
    starts_at = now if starts_at is None else starts_at
    _check_times(starts_at, ends_at, now)
    if calendar is not None:
        calendars.check(calendar, starts_at)
    if surface is not None:
        surfaces.get(session, surface)
    changes.lock(session, None if surface is None else [surface])
    row = FreezeRow(
        surface=surface,
        starts_at=starts_at,
        ends_at=ends_at,
        recurrence="" if calendar is None else calendar.recurrence,
        duration_seconds=None if calendar is None else calendar.duration_seconds,
        time_zone="UTC" if calendar is None else calendar.time_zone,
        owner=owner or by,
        reason=reason,
        bypass_group=bypass_group,
        created_at=now,
        created_by=by,
    )
    session.add(row)
    session.flush()
    freeze = _freeze_of(row)
    _tell(session, DECLARED, f"freeze/{freeze.freeze_id}/declared", freeze, at=now, by=by, reason=reason)
    return freeze


def lift(
    session: Session, freeze_id: int, *, by: str, groups: Collection[str] = (), reason: str, now: datetime
) -> Freeze:
    """Let things grow again; a calendar is over for good. Lifted twice is lifted once, with the first reason.

    Raises:
        UnknownName, Forbidden (only its owner, who declared it and its bypass group may), InvalidField (`reason`).
    """
    if not reason.strip():
        raise InvalidField("reason", "must say why things may grow again")
    row = _row(session, freeze_id, for_update=True)
    freeze = _freeze_of(row)
    if freeze.lifted_at is not None:
        return freeze
    if not freeze.may_be_lifted_by(by, groups):
        raise Forbidden(by, f"lift freeze {freeze_id}; {freeze.owner}, or anyone of {freeze.bypass_group}, may")
    row.lifted_at, row.lifted_by, row.lift_reason = now, by, reason
    session.flush()
    lifted = replace(freeze, lifted_at=now, lifted_by=by, lift_reason=reason)
    _tell(session, LIFTED, f"freeze/{freeze_id}/lifted", lifted, at=now, by=by, reason=reason)
    return lifted


def get(session: Session, freeze_id: int) -> Freeze:
    return _freeze_of(_row(session, freeze_id))


def list_freezes(
    session: Session, *, now: datetime, surface: Surface | None = None, open_only: bool = False
) -> list[Freeze]:
    """The newest first. `surface` leaves those that touch it; `open_only` those neither lifted nor over."""
    query = select(FreezeRow).order_by(FreezeRow.freeze_id.desc())
    if surface is not None:
        query = query.where(or_(FreezeRow.surface == surface, FreezeRow.surface.is_(None)))
    if open_only:
        query = query.where(FreezeRow.lifted_at.is_(None), or_(FreezeRow.ends_at.is_(None), FreezeRow.ends_at > now))
    return [_freeze_of(row) for row in session.scalars(query.execution_options(populate_existing=True))]


def _standing(session: Session, surface: Surface, now: datetime) -> list[StandingFreeze]:
    asked = list_freezes(session, now=now, surface=surface, open_only=True)
    found = [(freeze, calendars.window_at(freeze, now)) for freeze in asked]
    return [
        StandingFreeze(
            freeze_id=freeze.freeze_id,
            owner=freeze.owner,
            reason=freeze.reason,
            until=window.ends_at,
            bypass_group=freeze.bypass_group,
            declared_by=freeze.created_by,
        )
        for freeze, window in found
        if window is not None
    ]


def _check_times(starts_at: datetime, ends_at: datetime | None, now: datetime) -> None:
    if not now - MAX_REACH <= starts_at <= now + MAX_REACH:
        raise InvalidField("starts_at", "must lie within ten years of now")
    if ends_at is None:
        return
    if ends_at <= max(starts_at, now):
        raise InvalidField("ends_at", "must come after the freeze begins, and after now")
    if ends_at > now + MAX_REACH:
        raise InvalidField("ends_at", "lies more than ten years ahead; leave it out to freeze until it is lifted")


def _row(session: Session, freeze_id: int, *, for_update: bool = False) -> FreezeRow:
    row = session.get(FreezeRow, freeze_id, populate_existing=True, with_for_update=for_update or None)
    if row is None:
        raise UnknownName("freeze", str(freeze_id))
    return row


def _freeze_of(row: FreezeRow) -> Freeze:
    calendar = None
    if row.recurrence:
        calendar = Calendar(
            recurrence=row.recurrence, duration_seconds=row.duration_seconds or 0.0, time_zone=row.time_zone
        )
    return Freeze(
        freeze_id=row.freeze_id,
        surface=None if row.surface is None else Surface(row.surface),
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        calendar=calendar,
        owner=row.owner,
        reason=row.reason,
        bypass_group=row.bypass_group,
        created_at=row.created_at,
        created_by=row.created_by,
        lifted_at=row.lifted_at,
        lifted_by=row.lifted_by or "",
        lift_reason=row.lift_reason or "",
    )


def _tell_overruled(
    session: Session, surface: Surface, freeze: StandingFreeze, *, by: str, reason: str, now: datetime
) -> None:
    generation = surfaces.get(session, surface).generation
    outbox.append(
        session,
        event_id=f"freeze/{freeze.freeze_id}/overruled/{surface}/{generation}",
        kind=OVERRULED,
        subject=surface,
        at=now,
        data={"freeze_id": freeze.freeze_id, "surface": surface, "by": by, "reason": reason},
    )


def _tell(session: Session, kind: str, event_id: str, freeze: Freeze, *, at: datetime, by: str, reason: str) -> None:
    calendar = freeze.calendar
    outbox.append(
        session,
        event_id=event_id,
        kind=kind,
        subject=freeze.surface or EVERY_SURFACE,
        at=at,
        data={
            "freeze_id": freeze.freeze_id,
            "surface": freeze.surface,
            "starts_at": freeze.starts_at.isoformat(),
            "ends_at": None if freeze.ends_at is None else freeze.ends_at.isoformat(),
            "recurrence": "" if calendar is None else calendar.recurrence,
            "duration_seconds": None if calendar is None else calendar.duration_seconds,
            "time_zone": None if calendar is None else calendar.time_zone,
            "owner": freeze.owner,
            "bypass_group": freeze.bypass_group,
            "by": by,
            "reason": reason,
        },
        ordering_key=f"freeze/{freeze.freeze_id}",  # its row is locked, and no surface's when it is lifted
    )
