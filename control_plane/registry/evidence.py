"""What the judge said and what it saw. A stored verdict is a completed check: it renews the surface's lease."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from control_plane import failpoints
from control_plane.domain.errors import InputsPruned, UnknownName
from control_plane.domain.model_version import digest_of
from control_plane.domain.rollout import RolloutId
from control_plane.domain.verdict import Verdict
from control_plane.registry import changes, leases, rollout_rows, surfaces
from control_plane.registry.history import CODE_VERSION
from control_plane.registry.surfaces import SurfaceState
from control_plane.registry.tables import RolloutRow, SurfaceRow, VerdictInputsRow, VerdictRow


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredVerdict:
    verdict_id: int
    rollout_id: RolloutId
    at: datetime
    verdict: Verdict
    code_version: str


def record_verdict(
    session: Session,
    rollout_id: RolloutId,
    verdict: Verdict,
    inputs: bytes,
    *,
    now: datetime,
    next_check_at: datetime | None,
    epoch: int | None = None,
    seen_generation: int | None = None,
) -> int:
    """Store a verdict with its inputs, set the next check, renew the lease; return the verdict's id.

    A verdict that says `ERROR` is stored, but completed no check: it leaves the lease to run out. A lease that has
    run out stays so: the candidate comes back only under a new generation, by `rollouts.renew_watch`.

    Raises:
        Deposed, StaleGeneration (the surface is not at `seen_generation`), UnknownName.
    """
    if epoch is not None:
        leases.check(session, leases.SCHEDULER, epoch)
    state = _lock_surface_of(session, rollout_id)
    changes.check_seen(state, seen_generation)
    rollout_rows.set_next_check(session, rollout_id, next_check_at)
    verdict_id = _store(session, rollout_id, verdict, _store_inputs(session, inputs), now)
    if verdict.completes_check and state.home_since(now=now) is None:
        _renew_lease(session, rollout_id, now)
    failpoints.reach("verdict.stored")
    return verdict_id


def get_verdict(session: Session, verdict_id: int) -> StoredVerdict:
    return _stored(_row(session, verdict_id))


def inputs(session: Session, verdict_id: int) -> bytes:
    """What the judge saw, for `guardrails.replay`.

    Raises:
        UnknownName, InputsPruned.
    """
    row = session.get(VerdictInputsRow, _row(session, verdict_id).inputs_digest)
    assert row is not None, f"verdict {verdict_id} has lost its inputs"
    if row.pruned_at is not None:
        raise InputsPruned(verdict_id, day=f"{row.pruned_at:%Y-%m-%d}")
    return bytes(row.content)


def latest(session: Session, rollout_id: RolloutId) -> StoredVerdict | None:
    return next(iter(list_verdicts(session, rollout_id, 1)), None)


def latest_with(session: Session, rollout_id: RolloutId, marks: Sequence[str], *, since: datetime) -> datetime | None:
    """When a verdict that holds one of these pieces of its JSON was stored last, from `since` on."""
    return session.scalar(
        select(func.max(VerdictRow.at)).where(
            VerdictRow.rollout_id == rollout_id,
            VerdictRow.at >= since,
            or_(*(VerdictRow.verdict.contains(mark, autoescape=True) for mark in marks)),
        )
    )


def list_verdicts(session: Session, rollout_id: RolloutId, limit: int = 100) -> list[StoredVerdict]:
    """The latest verdicts, newest first."""
    rows = session.scalars(
        select(VerdictRow)
        .where(VerdictRow.rollout_id == rollout_id)
        .order_by(VerdictRow.verdict_id.desc())
        .limit(limit)
    )
    return [_stored(row) for row in rows]


def _lock_surface_of(session: Session, rollout_id: RolloutId) -> SurfaceState:
    """As `changes.lock_one` does, in one statement."""
    row = session.scalar(
        select(SurfaceRow)
        .join(RolloutRow, RolloutRow.surface == SurfaceRow.surface)
        .where(RolloutRow.rollout_id == rollout_id)
        .with_for_update(of=SurfaceRow)
        .execution_options(populate_existing=True)
    )
    if row is None:
        raise UnknownName("rollout", str(rollout_id))
    return surfaces.state_of(row)


def _store_inputs(session: Session, content: bytes) -> str:
    """Keep them once, and again where retention has pruned them."""
    digest = digest_of(content)
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    inserting = (sqlite.insert if is_sqlite else postgresql.insert)(VerdictInputsRow)
    added = inserting.values(digest=digest, content=content)
    session.connection().execute(
        added.on_conflict_do_update(
            index_elements=[VerdictInputsRow.digest],
            set_={"content": added.excluded.content, "pruned_at": None},
            where=VerdictInputsRow.pruned_at.is_not(None),
        )
    )
    return digest


def _store(session: Session, rollout_id: RolloutId, verdict: Verdict, inputs_digest: str, now: datetime) -> int:
    """By a plain statement: a row that nobody reads back in this session need not be kept track of."""
    stored = session.connection().execute(
        insert(VerdictRow)
        .values(
            rollout_id=rollout_id,
            at=now,
            outcome=verdict.outcome.value,
            generation=verdict.generation,
            verdict=verdict.to_json(),
            inputs_digest=inputs_digest,
            code_version=CODE_VERSION,
        )
        .returning(VerdictRow.verdict_id)
    )
    return stored.scalar_one()


def _renew_lease(session: Session, rollout_id: RolloutId, now: datetime) -> None:
    """Never backwards; and only while the rollout is the surface's own, so that a late verdict renews nothing."""
    session.execute(
        update(SurfaceRow)
        .where(
            SurfaceRow.rollout_id == rollout_id,
            or_(SurfaceRow.lease_renewed_at.is_(None), SurfaceRow.lease_renewed_at < now),
        )
        .values(lease_renewed_at=now)
        .execution_options(synchronize_session=False)
    )


def _row(session: Session, verdict_id: int) -> VerdictRow:
    row = session.get(VerdictRow, verdict_id)
    if row is None:
        raise UnknownName("verdict", str(verdict_id))
    return row


def _stored(row: VerdictRow) -> StoredVerdict:
    return StoredVerdict(
        verdict_id=row.verdict_id,
        rollout_id=RolloutId(row.rollout_id),
        at=row.at,
        verdict=Verdict.from_json(row.verdict),
        code_version=row.code_version,
    )
