"""What the runtimes say of themselves: which generation they serve, what they have loaded, what they counted."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import zip_longest
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from control_plane import failpoints
from control_plane.domain.decision import Readiness
from control_plane.domain.model_version import VersionId
from control_plane.domain.moments import Health, ServingCounts
from control_plane.domain.rollout import RolloutId
from control_plane.registry.surfaces import SurfaceState
from control_plane.registry.tables import ModelVersionRow, RolloutRow, RuntimeCountsRow, RuntimeRow

MOST = frozenset({"distinct_scores"})  # the largest counts, over runtimes and restarts
LATEST = frozenset({"features", "features_lost"})  # of a runtime what it told last, of all of them the largest
BINS = "latency_bins"
ADDED = frozenset(ServingCounts.__dataclass_fields__) - MOST - LATEST - {BINS}


CountsOf = Mapping[VersionId, Mapping[str, ServingCounts]]  # by version, then by runtime


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
    failpoints.reach("heartbeat.recorded")


def live(session: Session, *, since: datetime) -> list[Runtime]:
    """The runtimes heard at or after `since`, wall time."""
    rows = session.scalars(select(RuntimeRow).where(RuntimeRow.seen_at >= since).order_by(RuntimeRow.runtime_id))
    return [_runtime(row) for row in rows]


def readiness(
    session: Session,
    candidate: VersionId,
    *,
    live_since: datetime,
    blocked_by: str | None = None,
    stage_generation: int = 0,
) -> Readiness:
    """How many live runtimes of the candidate's surface have it loaded, and how many serve its present stage."""
    surface = session.scalar(select(ModelVersionRow.surface).where(ModelVersionRow.version_id == candidate))
    return readiness_of(
        live(session, since=live_since),
        surface or "",
        candidate,
        blocked_by=blocked_by,
        stage_generation=stage_generation,
    )


def readiness_of(
    live_ones: Sequence[Runtime],
    surface: str,
    candidate: VersionId,
    *,
    blocked_by: str | None = None,
    stage_generation: int = 0,
) -> Readiness:
    """The same of runtimes that were read already."""
    serving = [runtime for runtime in live_ones if surface in runtime.generations]
    return Readiness(
        may_start=blocked_by is None,
        blocked_by=blocked_by or "",
        live_runtimes=len(serving),
        loaded_runtimes=sum(candidate in runtime.loaded for runtime in serving),
        acknowledged_runtimes=sum(runtime.generations[surface] >= stage_generation for runtime in serving),
    )


def health(
    session: Session, state: SurfaceState, stable: VersionId, candidate: VersionId, *, live_since: datetime
) -> Health:
    """Counts since the surface's rollout started, over all runtimes, also those gone since.

    What runtimes tell of the present, such as the features that they lack, is that of the live ones alone.
    """
    return health_of(
        live(session, since=live_since),
        counts_of(session, [stable, candidate]),
        counts_at_start(session, state.rollout_id),
        state,
        stable,
        candidate,
    )


def health_of(
    live_ones: Sequence[Runtime],
    counts: CountsOf,
    at_start: Mapping[str, Mapping[str, Any]],
    state: SurfaceState,
    stable: VersionId,
    candidate: VersionId,
) -> Health:
    """The same of what was read already."""
    serving = [runtime for runtime in live_ones if state.surface in runtime.generations]
    serving_ids = {runtime.runtime_id for runtime in serving}

    def since_start(version_id: VersionId) -> ServingCounts:
        totals = _total(counts.get(version_id, {}), present_of=serving_ids)
        return _less(totals, ServingCounts.from_mapping(at_start.get(version_id, {})))

    return Health(
        stable=since_start(stable),
        candidate=since_start(candidate),
        live_runtimes=len(serving),
        acknowledged_runtimes=sum(runtime.generations[state.surface] == state.generation for runtime in serving),
        shadow_dropped=sum(runtime.shadow_dropped for runtime in serving),
    )


def counts_of(session: Session, version_ids: Collection[VersionId]) -> CountsOf:
    """What runtimes, also those gone since, counted of these versions over their restarts."""
    table = RuntimeCountsRow
    rows = session.execute(
        select(table.version_id, table.runtime_id, table.totals)
        .where(table.version_id.in_(version_ids))
        .order_by(table.version_id, table.runtime_id)
    )
    found: dict[VersionId, dict[str, ServingCounts]] = {}
    for version_id, runtime_id, totals in rows:
        found.setdefault(VersionId(version_id), {})[runtime_id] = ServingCounts.from_mapping(totals)
    return found


def counts_at_start(session: Session, rollout_id: RolloutId | None) -> Mapping[str, Mapping[str, Any]]:
    """What had been counted of each version when a rollout started."""
    if rollout_id is None:
        return {}
    return session.scalar(select(RolloutRow.counts_at_start).where(RolloutRow.rollout_id == rollout_id)) or {}


def total_counts(
    session: Session, version_id: VersionId, *, present_of: Collection[str] | None = None
) -> ServingCounts:
    """One version's counts over all runtimes and their restarts.

    `present_of` names the runtimes whose word on the present counts; all of them where it is not given.
    """
    return _total(counts_of(session, [version_id]).get(version_id, {}), present_of=present_of)


def _total(by_runtime: Mapping[str, ServingCounts], *, present_of: Collection[str] | None) -> ServingCounts:
    totals = ServingCounts()
    for runtime_id, counts in by_runtime.items():
        is_present = present_of is None or runtime_id in present_of
        totals = _plus(totals, counts if is_present else replace(counts, features=0, features_lost=0))
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
    for version_id, told in heartbeat.counts.items():
        row = rows.get(version_id)
        if row is None:
            row = RuntimeCountsRow(runtime_id=heartbeat.runtime_id, version_id=version_id, told={}, totals={})
            session.add(row)
        before = ServingCounts.from_mapping(row.told)
        new = told if _has_restarted(before, told) else _less(told, before)
        present = {name: getattr(told, name) for name in LATEST}
        row.totals = _stored(replace(_plus(ServingCounts.from_mapping(row.totals), new), **present))
        row.told = _stored(told)
    session.flush()


def _has_restarted(before: ServingCounts, told: ServingCounts) -> bool:
    """Counts never fall while a runtime lives."""
    has_fallen = any(getattr(told, name) < getattr(before, name) for name in ADDED | MOST)
    return has_fallen or min(_difference(told.latency_bins, before.latency_bins), default=0) < 0


def _plus(one: ServingCounts, other: ServingCounts) -> ServingCounts:
    """Sums of counts, and the largest of those that cannot be added."""
    added = {name: getattr(one, name) + getattr(other, name) for name in ADDED}
    largest = {name: max(getattr(one, name), getattr(other, name)) for name in MOST | LATEST}
    bins = tuple(map(sum, zip_longest(one.latency_bins, other.latency_bins, fillvalue=0)))
    return ServingCounts(**added, **largest, latency_bins=bins)


def _less(totals: ServingCounts, start: ServingCounts) -> ServingCounts:
    """What was counted since the start; what cannot be subtracted stays as it is."""
    since = {name: max(0, getattr(totals, name) - getattr(start, name)) for name in ADDED}
    bins = tuple(max(0, count) for count in _difference(totals.latency_bins, start.latency_bins))
    return replace(totals, **since, latency_bins=bins)


def _difference(bins: Sequence[int], start: Sequence[int]) -> list[int]:
    return [count - before for count, before in zip_longest(bins, start, fillvalue=0)]


def _stored(counts: ServingCounts) -> dict[str, Any]:
    return {
        **{name: getattr(counts, name) for name in ServingCounts.__dataclass_fields__},
        BINS: list(counts.latency_bins),
    }


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
