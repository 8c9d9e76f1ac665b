"""What the checks of many rollouts need of the registry: a few statements, however many they are. Reads only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from control_plane.domain.decision import Readiness
from control_plane.domain.errors import UnknownName
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.moments import Health
from control_plane.domain.rollout import Rollout, RolloutId
from control_plane.registry import freezes, gates, rollout_rows, runtimes, surfaces
from control_plane.registry.surfaces import SurfaceState
from control_plane.registry.tables import RolloutRow, SplitRow, SurfaceRow


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckRows:
    """One rollout as it is stored, and what stands around it. `shares`: the weight of each of its generations."""

    rollout: Rollout
    state: SurfaceState
    readiness: Readiness
    health: Health
    shares: Mapping[int, int]


def read(
    session: Session, rollout_ids: Sequence[RolloutId], *, now: datetime, live_since: datetime
) -> dict[RolloutId, CheckRows | Exception]:
    """Each rollout's rows, or why they cannot be read. `live_since` is wall time, whatever clock `now` comes from.

    Raises:
        sqlalchemy errors, which concern all.
    """
    rows = _rollout_rows(session, rollout_ids)
    read_one = _reader(session, rows, now=now, live_since=live_since)
    found: dict[RolloutId, CheckRows | Exception] = {}
    for rollout_id in rollout_ids:
        try:
            if rollout_id not in rows:
                raise UnknownName("rollout", str(rollout_id))
            found[rollout_id] = read_one(rows[rollout_id])
        except SQLAlchemyError:
            raise
        except Exception as error:
            found[rollout_id] = error
    return found


def _reader(
    session: Session, rows: Mapping[RolloutId, RolloutRow], *, now: datetime, live_since: datetime
) -> Callable[[RolloutRow], CheckRows]:
    """Reads what is common at once, and the rest, which few rollouts have, one by one."""
    states = _states(session, {row.surface for row in rows.values()})
    live = runtimes.live(session, since=live_since)
    versions = {VersionId(version) for row in rows.values() for version in (row.stable, row.candidate)}
    counts = runtimes.counts_of(session, versions)
    shares = _shares(session, rows)
    frozen = {freeze.surface for freeze in freezes.list_freezes(session, now=now, open_only=True)}

    def read_one(row: RolloutRow) -> CheckRows:
        rollout = rollout_rows.rollout_of(row)
        state = states[rollout.surface]
        may_be_frozen = not frozen.isdisjoint({rollout.surface, None})
        freeze = freezes.standing(session, rollout.surface, now=now) if may_be_frozen else None
        is_its_own = state.rollout_id == rollout.rollout_id
        at_start = row.counts_at_start if is_its_own else runtimes.counts_at_start(session, state.rollout_id)
        return CheckRows(
            rollout=rollout,
            state=state,
            readiness=gates.readiness_of(session, rollout, live, freeze, now=now),
            health=runtimes.health_of(live, counts, at_start, state, rollout.stable, rollout.candidate),
            shares=shares.get(rollout.surface, {}),
        )

    return read_one


def _rollout_rows(session: Session, rollout_ids: Sequence[RolloutId]) -> dict[RolloutId, RolloutRow]:
    query = select(RolloutRow).where(RolloutRow.rollout_id.in_(rollout_ids))
    rows = session.scalars(query.execution_options(populate_existing=True))
    return {RolloutId(row.rollout_id): row for row in rows}


def _states(session: Session, names: set[str]) -> dict[Surface, SurfaceState]:
    query = select(SurfaceRow).where(SurfaceRow.surface.in_(names))
    rows = session.scalars(query.execution_options(populate_existing=True))
    return {Surface(row.surface): surfaces.state_of(row) for row in rows}


def _shares(session: Session, rows: Mapping[RolloutId, RolloutRow]) -> dict[str, dict[int, int]]:
    """The candidate's weight in every generation from each rollout's first on."""
    query = (
        select(SplitRow.surface, SplitRow.generation, SplitRow.candidate_bp)
        .join(RolloutRow, RolloutRow.surface == SplitRow.surface)
        .where(
            RolloutRow.rollout_id.in_(list(rows)),
            SplitRow.generation >= RolloutRow.first_generation,
            SplitRow.generation >= 1,
        )
        .order_by(SplitRow.surface, SplitRow.generation)
    )
    found: dict[str, dict[int, int]] = {}
    for surface, generation, candidate_bp in session.execute(query):
        found.setdefault(surface, {})[generation] = candidate_bp
    return found


def with_external_metrics(session: Session, rollout_ids: Sequence[RolloutId]) -> list[RolloutId]:
    """Those whose plan asks for metrics of other systems; their plans are not read, so they may be damaged."""
    rows = session.execute(select(RolloutRow.rollout_id, RolloutRow.plan).where(RolloutRow.rollout_id.in_(rollout_ids)))
    asks = {row.rollout_id for row in rows if isinstance(row.plan, dict) and row.plan.get("external")}
    return [rollout_id for rollout_id in rollout_ids if rollout_id in asks]
