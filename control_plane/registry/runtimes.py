"""What the runtimes say of themselves: which generation they serve, what they have loaded, what they counted."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from control_plane.domain.decision import Readiness
from control_plane.domain.model_version import VersionId
from control_plane.domain.moments import Health, ServingCounts
from control_plane.registry.surfaces import SurfaceState
from control_plane.registry.tables import ModelVersionRow, RolloutRow, RuntimeCountsRow, RuntimeRow

NO_COUNTS = asdict(ServingCounts())
MOST = "distinct_scores"  # over runtimes and restarts the largest counts; everything else adds up


@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """`counts` are since the runtime's own start; `generations` names every surface that it serves."""

    runtime_id: str
    generations: Mapping[str, int]
    loaded: tuple[VersionId, ...]
    counts: Mapping[VersionId, ServingCounts]
    shadow_dropped: int
    splits_mode: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """A runtime as last heard: `seen_at` is wall time, `at` the deployment's clock."""

    runtime_id: str
    seen_at: datetime
    at: datetime
    generations: Mapping[str, int]
    loaded: tuple[VersionId, ...]
    shadow_dropped: int
    splits_mode: str


def record_heartbeat(session: Session, heartbeat: Heartbeat, *, now: datetime, seen_at: datetime) -> None:
    """Store what a runtime says; counts go on where they were when it starts anew from zero."""
    row = session.get(RuntimeRow, heartbeat.runtime_id, with_for_update=True, populate_existing=True)
    if row is None:
        row = RuntimeRow(runtime_id=heartbeat.runtime_id)
        session.add(row)
    row.seen_at = seen_at
    row.at = now
    row.generations = dict(heartbeat.generations)
    row.loaded = list(heartbeat.loaded)
    row.shadow_dropped = heartbeat.shadow_dropped
    row.splits_mode = heartbeat.splits_mode
    session.flush()
    _record_counts(session, heartbeat)


def live(session: Session, *, since: datetime) -> list[Runtime]:
    """The runtimes heard at or after `since`, wall time."""
    rows = session.scalars(select(RuntimeRow).where(RuntimeRow.seen_at >= since).order_by(RuntimeRow.runtime_id))
    return [_runtime(row) for row in rows]


def readiness(
    session: Session, candidate: VersionId, *, live_since: datetime, blocked_by: str | None = None
) -> Readiness:
    """How many live runtimes of the candidate's surface have it loaded."""
    surface = session.scalar(select(ModelVersionRow.surface).where(ModelVersionRow.version_id == candidate))
    serving = [runtime for runtime in live(session, since=live_since) if surface in runtime.generations]
    return Readiness(
        may_start=blocked_by is None,
        blocked_by=blocked_by or "",
        live_runtimes=len(serving),
        loaded_runtimes=sum(candidate in runtime.loaded for runtime in serving),
    )


def health(
    session: Session, state: SurfaceState, stable: VersionId, candidate: VersionId, *, live_since: datetime
) -> Health:
    """Counts since the surface's rollout started, over all runtimes, also those gone since."""
    serving = [runtime for runtime in live(session, since=live_since) if state.surface in runtime.generations]
    started = _counts_at_start(session, state)
    return Health(
        stable=_since(total_counts(session, stable), started.get(stable, NO_COUNTS)),
        candidate=_since(total_counts(session, candidate), started.get(candidate, NO_COUNTS)),
        live_runtimes=len(serving),
        acknowledged_runtimes=sum(runtime.generations[state.surface] == state.generation for runtime in serving),
        shadow_dropped=sum(runtime.shadow_dropped for runtime in serving),
    )


def total_counts(session: Session, version_id: VersionId) -> dict[str, int]:
    """One version's counts over all runtimes and their restarts, by field of `ServingCounts`."""
    rows = session.scalars(
        select(RuntimeCountsRow)
        .where(RuntimeCountsRow.version_id == version_id)
        .execution_options(populate_existing=True)
    )
    totals = dict(NO_COUNTS)
    for row in rows:
        totals = _plus(totals, row.totals)
    return totals


def _record_counts(session: Session, heartbeat: Heartbeat) -> None:
    rows = {
        row.version_id: row
        for row in session.scalars(
            select(RuntimeCountsRow)
            .where(RuntimeCountsRow.runtime_id == heartbeat.runtime_id)
            .execution_options(populate_existing=True)
        )
    }
    for version_id, counts in heartbeat.counts.items():
        told = asdict(counts)
        row = rows.get(version_id)
        if row is None:
            session.add(
                RuntimeCountsRow(runtime_id=heartbeat.runtime_id, version_id=version_id, told=told, totals=dict(told))
            )
            continue
        has_restarted = any(told[name] < row.told.get(name, 0) for name in NO_COUNTS)
        new = told if has_restarted else {name: told[name] - row.told.get(name, 0) for name in NO_COUNTS}
        row.totals = _plus(row.totals, {**new, MOST: told[MOST]})
        row.told = told
    session.flush()


def _plus(totals: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Sums of counts, and the largest of those that cannot be added."""
    return {
        name: max(totals.get(name, 0), more.get(name, 0)) if name == MOST else totals.get(name, 0) + more.get(name, 0)
        for name in NO_COUNTS
    }


def _since(totals: Mapping[str, int], start: Mapping[str, int]) -> ServingCounts:
    since = {name: max(0, totals[name] - start.get(name, 0)) for name in NO_COUNTS}
    return ServingCounts(**{**since, MOST: totals[MOST]})


def _counts_at_start(session: Session, state: SurfaceState) -> Mapping[str, Mapping[str, int]]:
    if state.rollout_id is None:
        return {}
    return session.scalar(select(RolloutRow.counts_at_start).where(RolloutRow.rollout_id == state.rollout_id)) or {}


def _runtime(row: RuntimeRow) -> Runtime:
    return Runtime(
        runtime_id=row.runtime_id,
        seen_at=row.seen_at,
        at=row.at,
        generations=row.generations,
        loaded=tuple(VersionId(version) for version in row.loaded),
        shadow_dropped=row.shadow_dropped,
        splits_mode=row.splits_mode,
    )
