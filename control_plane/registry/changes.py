"""The one way in which a surface changes: compare-and-set, history, split and outbox in the caller's transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from control_plane import failpoints
from control_plane.domain.errors import StaleGeneration, SurfaceBusy
from control_plane.domain.event_types import SPLIT_CHANGED
from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Rollout
from control_plane.registry import announcements, history, notifications, outbox
from control_plane.registry.surfaces import SurfaceState, get, state_of
from control_plane.registry.tables import SplitRow, SurfaceRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """Who changed what, and why."""

    command: str
    by: str
    reason: str
    now: datetime
    verdict_id: int | None = None


def lock(session: Session, surfaces: Sequence[Surface] | None = None) -> dict[Surface, SurfaceState]:
    """Read surfaces, all if None, and keep others from changing them until this transaction ends.

    Always in the order of their names, so that two writers never wait for each other.
    """
    query = select(SurfaceRow).order_by(SurfaceRow.surface).with_for_update()
    if surfaces is not None:
        query = query.where(SurfaceRow.surface.in_(surfaces))
    rows = session.scalars(query.execution_options(populate_existing=True))
    return {Surface(row.surface): state_of(row) for row in rows}


def lock_one(session: Session, surface: Surface) -> SurfaceState:
    found = lock(session, [surface]).get(surface)
    return found if found is not None else get(session, surface)


def check_seen(state: SurfaceState, seen_generation: int | None) -> None:
    if seen_generation is not None and seen_generation != state.generation:
        raise StaleGeneration(state.surface, seen=seen_generation, current=state.generation)


def refuse_busy(state: SurfaceState) -> None:
    if state.rollout_id is not None:
        raise SurfaceBusy(state.surface, state.rollout_id)


def change(
    session: Session,
    before: SurfaceState,
    after: SurfaceState,
    cause: Cause,
    *,
    was: Rollout | None = None,
    becomes: Rollout | None = None,
) -> SurfaceState:
    """Move a surface to its next generation. `was` and `becomes` are the rollout that takes part, if any.

    Raises:
        StaleGeneration: someone moved first; the caller's transaction must not be kept.
    """
    after = replace(after, generation=before.generation + 1, changed_at=cause.now)
    failpoints.reach("change.begun")
    _compare_and_set(session, before, after)
    failpoints.reach("change.set")
    _write_history(session, before, after, cause, was=was, becomes=becomes)
    failpoints.reach("change.history_written")
    _write_split(session, after, cause, None if becomes is None else becomes.rollout_id)
    _announce(session, after, cause, was=was, becomes=becomes)
    session.flush()
    notifications.notify(session)
    failpoints.reach("change.outbox_written")
    return after


def begin_history(session: Session, state: SurfaceState, cause: Cause) -> None:
    """The first link of a new surface's chain, at generation 0."""
    _write_history(session, None, state, cause, was=None, becomes=None)
    session.flush()


def _write_history(
    session: Session,
    before: SurfaceState | None,
    after: SurfaceState,
    cause: Cause,
    *,
    was: Rollout | None,
    becomes: Rollout | None,
) -> None:
    history.append(
        session,
        surface=after.surface,
        seq=after.generation,
        at=cause.now,
        by=cause.by,
        command=cause.command,
        reason=cause.reason,
        before=history.state_json(before, _phase(was)),
        after=history.state_json(after, _phase(becomes)),
        rollout_id=None if becomes is None else becomes.rollout_id,
        verdict_id=cause.verdict_id,
    )


def _compare_and_set(session: Session, before: SurfaceState, after: SurfaceState) -> None:
    result = session.connection().execute(
        update(SurfaceRow)
        .where(SurfaceRow.surface == before.surface, SurfaceRow.generation == before.generation)
        .values(
            generation=after.generation,
            stable=after.stable,
            candidate=after.candidate,
            candidate_bp=after.candidate_bp,
            shadow=after.shadow,
            shadow_sample_bp=after.shadow_sample_bp,
            last_proven=after.last_proven,
            rollout_id=after.rollout_id,
            salt=after.salt,
            unwatched_seconds=after.unwatched_seconds,
            lease_renewed_at=after.lease_renewed_at,
            changed_at=after.changed_at,
        )
    )
    if result.rowcount != 1:
        current = get(session, before.surface).generation
        raise StaleGeneration(before.surface, seen=before.generation, current=current)


def _write_split(session: Session, after: SurfaceState, cause: Cause, rollout_id: int | None) -> None:
    split = after.split(now=cause.now)
    if split is None:
        return
    session.add(
        SplitRow(
            surface=split.surface,
            generation=split.generation,
            at=cause.now,
            stable=split.stable,
            candidate=split.candidate,
            candidate_bp=split.candidate_bp,
            shadow=split.shadow,
            shadow_sample_bp=split.shadow_sample_bp,
            salt=split.salt,
        )
    )
    failpoints.reach("change.split_written")
    outbox.append(
        session,
        event_id=f"{split.surface}/{split.generation}",
        kind=SPLIT_CHANGED,
        subject=split.surface,
        at=cause.now,
        data={
            "split": split.to_json(),
            "command": cause.command,
            "by": cause.by,
            "reason": cause.reason,
            "rollout_id": rollout_id,
            "verdict_id": cause.verdict_id,
        },
    )


def _announce(
    session: Session, after: SurfaceState, cause: Cause, *, was: Rollout | None, becomes: Rollout | None
) -> None:
    announcements.rollout_moved(
        session,
        was,
        becomes,
        generation=after.generation,
        command=cause.command,
        by=cause.by,
        reason=cause.reason,
        verdict_id=cause.verdict_id,
        at=cause.now,
    )


def _phase(rollout: Rollout | None) -> dict[str, object] | None:
    if rollout is None:
        return None
    told: dict[str, object] = {"rollout_id": rollout.rollout_id, "phase": rollout.phase.value, "step": rollout.step}
    if rollout.acknowledged_at is not None:  # the row of a rollout keeps it of the present stage only
        told["acknowledged_at"] = rollout.acknowledged_at.astimezone(UTC).isoformat()
    return told
