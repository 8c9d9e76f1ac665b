"""What served on a surface at a moment, who had set it, and why: one query."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Executable, Row, and_, select
from sqlalchemy.orm import Session, aliased

from control_plane.domain.errors import NothingServed
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.rollout import RolloutId
from control_plane.registry import surfaces
from control_plane.registry.tables import HistoryRow, RolloutRow, SplitRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """The split as it was ordered; runtimes followed within seconds.

    Attributes:
        until: when the next generation took over; None while this one serves still.
        acknowledged_at: when enough live runtimes of the surface served this generation; None where that is not
            known: it is kept of the present stage of each rollout.
        weight_bp: of the candidate; users of a candidate whose checks had stopped met stable all the same.
    """

    surface: Surface
    at: datetime
    generation: int
    since: datetime
    until: datetime | None
    stable: VersionId
    candidate: VersionId | None
    weight_bp: int
    shadow: VersionId | None
    command: str
    by: str
    reason: str
    rollout_id: RolloutId | None
    verdict_id: int | None
    acknowledged_at: datetime | None


def served_at(session: Session, surface: Surface, at: datetime) -> Served:
    """What served at `at`; where two changes are of one moment, the later generation.

    Raises:
        UnknownName, NothingServed: nothing had been adopted yet.
    """
    row = session.execute(_query(surface, at)).one_or_none()
    if row is None:
        surfaces.get(session, surface)
        raise NothingServed(surface, at=at.isoformat(sep=" ", timespec="seconds"))
    return _served(row, at)


def _query(surface: Surface, at: datetime) -> Executable:
    following = aliased(SplitRow)
    is_next = and_(following.surface == SplitRow.surface, following.generation == SplitRow.generation + 1)
    made = and_(HistoryRow.surface == SplitRow.surface, HistoryRow.seq == SplitRow.generation)
    stage = and_(RolloutRow.rollout_id == HistoryRow.rollout_id, RolloutRow.stage_generation == SplitRow.generation)
    return (
        select(SplitRow, HistoryRow, following.at.label("until"), RolloutRow.acknowledged_at)
        .join(HistoryRow, made)
        .outerjoin(following, is_next)
        .outerjoin(RolloutRow, stage)
        .where(SplitRow.surface == surface, SplitRow.at <= at)
        .order_by(SplitRow.generation.desc())
        .limit(1)
    )


def _served(row: Row[Any], at: datetime) -> Served:
    split, change = row.SplitRow, row.HistoryRow
    return Served(
        surface=Surface(split.surface),
        at=at,
        generation=split.generation,
        since=split.at,
        until=row.until,
        stable=VersionId(split.stable),
        candidate=_version(split.candidate),
        weight_bp=split.candidate_bp,
        shadow=_version(split.shadow),
        command=change.command,
        by=change.by,
        reason=change.reason,
        rollout_id=None if change.rollout_id is None else RolloutId(change.rollout_id),
        verdict_id=change.verdict_id,
        acknowledged_at=row.acknowledged_at,
    )


def _version(value: str | None) -> VersionId | None:
    return None if value is None else VersionId(value)
