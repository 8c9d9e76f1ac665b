"""What must be true of the registry as it stands in one moment."""

import json
from collections.abc import Iterator, Mapping

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks.crash_run.violation import Violation, told
from benchmarks.crash_run.wrote import WROTE
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.domain.verdict import Verdict
from control_plane.registry.leases import SCHEDULER as SCHEDULER_LEASE
from control_plane.registry.tables import (
    HistoryRow,
    LeaseRow,
    ModelVersionRow,
    OutboxRow,
    QuarantineRow,
    RolloutRow,
    SplitRow,
    SurfaceRow,
    VerdictRow,
)

SERVED = ("stable", "candidate", "candidate_bp", "shadow", "shadow_sample_bp", "salt")
PARTS = ("trunk", "surface_export", "calibrator", "feature_signature")
NOT_CARRIED = ("done", "rolled_back", "queued")
BEGINS_WATCH = ("advance", "skip", "renew_watch")


def surfaces(session: Session) -> Iterator[Violation]:
    for row in session.scalars(select(SurfaceRow)).all():
        yield from told("1", row.surface, _ends_with_history(session, row))
        yield from told("2", row.surface, _may_serve(session, row))
        yield from told("6", row.surface, _is_watched(session, row))


def rollouts(session: Session, left: Mapping[str, Mapping[int, tuple[str, int]]]) -> Iterator[Violation]:
    """Each rollout is what the last change that names it left, and a surface carries its active one.

    `left` has phase and step by surface and rollout.
    """
    carried = {row.surface: row.rollout_id for row in session.scalars(select(SurfaceRow))}
    columns = (RolloutRow.rollout_id, RolloutRow.surface, RolloutRow.phase, RolloutRow.step)
    for rollout_id, surface, phase, step in session.execute(select(*columns)):
        known = left.get(surface, {}).get(rollout_id)
        if known is not None and known != (phase, step):
            what = f"rollout {rollout_id} is {phase} at step {step}, its history left it {known[0]} at {known[1]}"
            yield Violation(invariant="1", where=surface, what=what)
        if (phase not in NOT_CARRIED) != (carried[surface] == rollout_id):
            what = f"rollout {rollout_id} is {phase}, the surface carries {carried[surface]}"
            yield Violation(invariant="1", where=surface, what=what)


def leases(session: Session) -> Iterator[Violation]:
    """One holder an epoch, and none ahead of the lease."""
    holders = select(WROTE.c.believed_epoch, func.count(WROTE.c.holder.distinct())).group_by(WROTE.c.believed_epoch)
    current = session.scalar(select(LeaseRow.epoch).where(LeaseRow.name == SCHEDULER_LEASE)) or 0
    for epoch, count in session.execute(holders):
        if count > 1:
            yield Violation(invariant="5", where="lease", what=f"{count} schedulers wrote under epoch {epoch}")
        if epoch > current:
            yield Violation(invariant="5", where="lease", what=f"epoch {epoch} wrote, the lease is at {current}")


def outbox(session: Session) -> Iterator[Violation]:
    """One event a split, with weights that sum to all of the traffic."""
    times: dict[str, int] = {}
    for text in session.scalars(select(OutboxRow.event)):
        event = json.loads(text)
        times[event["id"]] = times.get(event["id"], 0) + 1
        weights = event.get("data", {}).get("split", {}).get("weights_bp")
        if weights is not None and sum(weights.values()) != FULL_TRAFFIC_BP:
            yield Violation(invariant="1", where=event["id"], what=f"weights sum to {sum(weights.values())}")
    for surface, generation in session.execute(select(SplitRow.surface, SplitRow.generation)):
        count = times.get(f"{surface}/{generation}", 0)
        if count != 1:
            what = f"generation {generation} is told {count} times in the outbox"
            yield Violation(invariant="1", where=surface, what=what)


def _ends_with_history(session: Session, row: SurfaceRow) -> Iterator[str]:
    last = session.scalar(
        select(HistoryRow).where(HistoryRow.surface == row.surface).order_by(HistoryRow.seq.desc()).limit(1)
    )
    if last is None:
        yield "has no history"
        return
    after = json.loads(last.after)
    if last.seq != row.generation:
        yield f"is at generation {row.generation}, its history at {last.seq}"
    elif any(getattr(row, name) != after[name] for name in (*SERVED, "last_proven", "rollout_id")):
        yield f"is not what change {last.seq} left"


def _may_serve(session: Session, row: SurfaceRow) -> Iterator[str]:
    serving = {row.stable, row.candidate, row.shadow} - {None}
    versions = session.scalars(select(ModelVersionRow).where(ModelVersionRow.version_id.in_(serving))).all()
    for version in versions:
        digests = {getattr(version, part) for part in PARTS}
        confined = session.scalar(
            select(func.count())
            .select_from(QuarantineRow)
            .where(QuarantineRow.digest.in_(digests), QuarantineRow.released_at.is_(None))
        )
        if version.aborted_at is not None:
            yield f"serves {version.version_id}, which was aborted"
        if confined:
            yield f"serves {version.version_id}, of which a part is quarantined"


def _is_watched(session: Session, row: SurfaceRow) -> Iterator[str]:
    """A candidate with weight is on a lease that a completed check, or the weight's own beginning, renewed last."""
    if row.candidate_bp == 0:
        return
    if row.unwatched_seconds is None or row.lease_renewed_at is None:
        yield f"gives {row.candidate} weight without a lease"
        return
    begun = select(HistoryRow.seq).where(
        HistoryRow.rollout_id == row.rollout_id,
        HistoryRow.at == row.lease_renewed_at,
        HistoryRow.command.in_(BEGINS_WATCH),
    )
    checks = select(VerdictRow.verdict).where(
        VerdictRow.rollout_id == row.rollout_id, VerdictRow.at == row.lease_renewed_at
    )
    is_completed = any(Verdict.from_json(text).completes_check for text in session.scalars(checks))
    if not is_completed and session.scalar(begun.limit(1)) is None:
        yield f"has its lease renewed at {row.lease_renewed_at}, when no check of {row.candidate} was completed"
