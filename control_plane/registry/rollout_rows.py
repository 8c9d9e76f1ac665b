"""Rollouts to rows and back."""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from control_plane.domain.errors import UnknownName
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.plan_mapping import plan_from_mapping, plan_to_mapping
from control_plane.domain.rollout import FINISHED, Phase, Rollout, RolloutId
from control_plane.registry.tables import RolloutRow


def load(session: Session, rollout_id: RolloutId) -> Rollout:
    return rollout_of(row_of(session, rollout_id))


def row_of(session: Session, rollout_id: RolloutId) -> RolloutRow:
    row = session.get(RolloutRow, rollout_id, populate_existing=True)
    if row is None:
        raise UnknownName("rollout", str(rollout_id))
    return row


def candidate_of(session: Session, rollout_id: RolloutId) -> VersionId:
    return VersionId(session.scalars(select(RolloutRow.candidate).where(RolloutRow.rollout_id == rollout_id)).one())


def insert(
    session: Session,
    surface: Surface,
    *,
    stable: VersionId,
    candidate: VersionId,
    plan: RolloutPlan,
    by: str,
    now: datetime,
    release_id: int | None,
    phase: Phase = Phase.PENDING,
) -> Rollout:
    """A queued one is not due before its surface is free."""
    row = RolloutRow(
        surface=surface,
        stable=stable,
        candidate=candidate,
        plan=plan_to_mapping(plan),
        phase=phase.value,
        step=-1,
        created_at=now,
        created_by=by,
        entered_at=now,
        first_generation=0,
        stage_generation=0,
        approvals=[],
        release_id=release_id,
        next_check_at=None if phase is Phase.QUEUED else now,
        counts_at_start={},
    )
    session.add(row)
    session.flush()
    return rollout_of(row)


def store(session: Session, rollout: Rollout) -> None:
    """Write what a command changes; a finished rollout is due no more."""
    row = row_of(session, rollout.rollout_id)
    row.stable = rollout.stable
    row.phase = rollout.phase.value
    row.step = rollout.step
    row.paused_phase = None if rollout.paused_phase is None else rollout.paused_phase.value
    row.started_at = rollout.started_at
    row.entered_at = rollout.entered_at
    row.first_generation = rollout.first_generation
    row.stage_generation = rollout.stage_generation
    row.acknowledged_at = rollout.acknowledged_at
    row.away_seconds = rollout.away_seconds
    row.weight_bp = rollout.weight_bp
    row.approvals = sorted(rollout.approvals)
    if rollout.phase in FINISHED:
        row.next_check_at = None
    session.flush()


def swap_plan(session: Session, rollout_id: RolloutId, plan: RolloutPlan) -> None:
    row_of(session, rollout_id).plan = plan_to_mapping(plan)
    session.flush()


def set_next_check(session: Session, rollout_id: RolloutId, at: datetime | None) -> None:
    """When the scheduler looks again; a finished rollout is checked no more."""
    session.execute(
        update(RolloutRow)
        .where(RolloutRow.rollout_id == rollout_id, RolloutRow.phase.not_in([phase.value for phase in FINISHED]))
        .values(next_check_at=at)
        .execution_options(synchronize_session=False)
    )


def queued(session: Session, surface: Surface | None = None) -> list[Rollout]:
    """Those that wait for their surface to be free, the oldest first."""
    query = select(RolloutRow).where(RolloutRow.phase == Phase.QUEUED.value).order_by(RolloutRow.rollout_id)
    if surface is not None:
        query = query.where(RolloutRow.surface == surface)
    return [rollout_of(row) for row in session.scalars(query.execution_options(populate_existing=True))]


def latest_done_with(session: Session, surface: Surface, version_id: VersionId) -> Rollout | None:
    """The rollout that made a version stable, if one did."""
    row = session.scalar(
        select(RolloutRow)
        .where(
            RolloutRow.surface == surface,
            RolloutRow.candidate == version_id,
            RolloutRow.phase == Phase.DONE.value,
        )
        .order_by(RolloutRow.rollout_id.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    )
    return None if row is None else rollout_of(row)


def rollout_of(row: RolloutRow) -> Rollout:
    return Rollout(
        rollout_id=RolloutId(row.rollout_id),
        surface=Surface(row.surface),
        stable=VersionId(row.stable),
        candidate=VersionId(row.candidate),
        plan=plan_from_mapping(row.plan),
        phase=Phase(row.phase),
        created_at=row.created_at,
        entered_at=row.entered_at,
        step=row.step,
        paused_phase=None if row.paused_phase is None else Phase(row.paused_phase),
        started_at=row.started_at,
        first_generation=row.first_generation,
        stage_generation=row.stage_generation,
        acknowledged_at=row.acknowledged_at,
        away_seconds=row.away_seconds or 0.0,
        weight_bp=row.weight_bp,
        approvals=frozenset(row.approvals),
        created_by=row.created_by,
        release_id=row.release_id,
    )
