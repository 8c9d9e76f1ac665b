"""Digests that may serve nowhere, and the way off them: planned for every surface first, then carried out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from control_plane import failpoints
from control_plane.domain.errors import NoSafeVersion, Quarantined, UnknownName
from control_plane.domain.model_version import Digest, Surface, VersionId
from control_plane.domain.rollout import Command, Rollout, apply
from control_plane.registry import announcements, model_versions, rollout_rows
from control_plane.registry.changes import Cause, change
from control_plane.registry.surfaces import SurfaceState
from control_plane.registry.tables import QuarantineRow

COMMAND = "quarantine"  # its name in the history


@dataclass(frozen=True, kw_only=True, slots=True)
class QuarantinedDigest:
    digest: Digest
    reason: str
    by: str
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """A surface on its way off a bad digest; `rollout` ends with it."""

    before: SurfaceState
    after: SurfaceState
    rollout: Rollout | None


def plan_moves(session: Session, states: Mapping[Surface, SurfaceState], digests: Iterable[Digest]) -> list[Move]:
    """How every surface that serves one of these digests leaves it. Writes nothing.

    Raises:
        NoSafeVersion: a stable version must go, and nothing sound is left on its surface.
    """
    bad = model_versions.versions_with(session, list(digests))
    moves = (_move(session, state, bad) for state in states.values())
    return [move for move in moves if move is not None]


def carry_out(session: Session, move: Move, cause: Cause) -> None:
    """One surface's change. No version is marked as aborted: the quarantine bars it, and a release lifts that."""
    becomes = None
    if move.rollout is not None:
        becomes = apply(move.rollout, Command.ROLL_BACK, now=cause.now, by=cause.by)
        rollout_rows.store(session, becomes)
    change(session, move.before, move.after, cause, was=move.rollout, becomes=becomes)


def confine(session: Session, digests: Iterable[Digest], *, by: str, reason: str, now: datetime) -> None:
    """Write digests down as quarantined; those that are already keep their first reason."""
    held = {row.digest for row in _active(session)}
    for digest in digests:
        if digest not in held:
            row = QuarantineRow(digest=digest, at=now, by=by, reason=reason)
            session.add(row)
            session.flush()
            _announce(session, row, by=by, reason=reason, at=now, is_released=False)
    session.flush()
    failpoints.reach("quarantine.confined")


def release(session: Session, digest: Digest, *, by: str, reason: str, now: datetime) -> None:
    row = next((row for row in _active(session) if row.digest == digest), None)
    if row is None:
        raise UnknownName("quarantined digest", digest, known=[row.digest for row in _active(session)])
    row.released_at = now
    row.released_by = by
    row.release_reason = reason
    _announce(session, row, by=by, reason=reason, at=now, is_released=True)
    session.flush()


def list_quarantined(session: Session) -> list[QuarantinedDigest]:
    return [
        QuarantinedDigest(digest=Digest(row.digest), reason=row.reason, by=row.by, at=row.at)
        for row in _active(session)
    ]


def fallback(session: Session, state: SurfaceState, bad: frozenset[VersionId] = frozenset()) -> VersionId:
    """The last proven version, if it may serve still."""
    if state.last_proven is None or state.last_proven in bad:
        raise NoSafeVersion(state.surface)
    try:
        model_versions.check_may_serve(session, state.last_proven, state.surface)
    except Quarantined as error:
        raise NoSafeVersion(state.surface) from error
    return state.last_proven


def _move(session: Session, state: SurfaceState, bad: frozenset[VersionId]) -> Move | None:
    is_stable_bad = state.stable in bad
    candidate = None if state.rollout_id is None else rollout_rows.candidate_of(session, state.rollout_id)
    if not is_stable_bad and candidate not in bad:
        return None  # without reading more of its rollout: one that is damaged keeps no other surface where it is
    active = None if state.rollout_id is None else rollout_rows.load(session, state.rollout_id)
    after, ended = state.without_candidate(), active
    if is_stable_bad:
        assert state.stable is not None
        after = replace(after, stable=fallback(session, state, bad), last_proven=None)
        if active is None:
            ended = rollout_rows.latest_done_with(session, state.surface, state.stable)
    return Move(before=state, after=after, rollout=ended)


def _announce(session: Session, row: QuarantineRow, *, by: str, reason: str, at: datetime, is_released: bool) -> None:
    announcements.quarantined(
        session, row.quarantine_id, Digest(row.digest), by=by, reason=reason, at=at, is_released=is_released
    )


def _active(session: Session) -> list[QuarantineRow]:
    query = select(QuarantineRow).where(QuarantineRow.released_at.is_(None)).order_by(QuarantineRow.quarantine_id)
    return list(session.scalars(query.execution_options(populate_existing=True)))
