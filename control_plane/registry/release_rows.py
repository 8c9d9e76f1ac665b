"""Releases to rows and back: one checkpoint's surfaces and the edges between them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from control_plane.domain.errors import UnknownName
from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Rollout
from control_plane.domain.surface_graph import Edge, OnUpstreamRollback, check_edges
from control_plane.registry import rollout_rows
from control_plane.registry.tables import ReleaseRow, RolloutRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    release_id: int
    edges: tuple[Edge, ...]
    created_at: datetime
    created_by: str


def insert(session: Session, edges: Sequence[Edge], surfaces: Sequence[Surface], *, by: str, now: datetime) -> int:
    check_edges(edges, surfaces)
    row = ReleaseRow(edges=[asdict(edge) for edge in edges], created_at=now, created_by=by)
    session.add(row)
    session.flush()
    return row.release_id


def load(session: Session, release_id: int) -> Release:
    row = session.get(ReleaseRow, release_id)
    if row is None:
        raise UnknownName("release", str(release_id))
    return _release_of(row)


def list_releases(session: Session, *, limit: int) -> list[Release]:
    """The newest first."""
    rows = session.scalars(select(ReleaseRow).order_by(ReleaseRow.release_id.desc()).limit(limit))
    return [_release_of(row) for row in rows]


def rollouts_of(session: Session, release_id: int) -> dict[Surface, Rollout]:
    """One rollout a surface."""
    rows = session.scalars(
        select(RolloutRow)
        .where(RolloutRow.release_id == release_id)
        .order_by(RolloutRow.rollout_id)
        .execution_options(populate_existing=True)
    )
    return {Surface(row.surface): rollout_rows.rollout_of(row) for row in rows}


def _release_of(row: ReleaseRow) -> Release:
    return Release(
        release_id=row.release_id,
        edges=tuple(_edge_of(edge) for edge in row.edges),
        created_at=row.created_at,
        created_by=row.created_by,
    )


def _edge_of(stored: dict[str, object]) -> Edge:
    """Releases of before policies lack them, and hold as they always did."""
    fields = {**stored, "on_rollback": OnUpstreamRollback(str(stored.get("on_rollback", OnUpstreamRollback.HOLD)))}
    return Edge(**fields)  # type: ignore[arg-type]  # written by `insert`
