"""What served on a surface at a moment, who had set it, and why: one query."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Executable, Row, and_, or_, select
from sqlalchemy.orm import Session, aliased

from control_plane.domain.errors import NothingServed
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.rollout import FINISHED, RolloutId
from control_plane.registry import runtimes, surfaces
from control_plane.registry.tables import HistoryRow, RolloutRow, SplitRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """The split as it was ordered; runtimes followed within seconds.

    Attributes:
        until: when the next generation took over; None while this one serves still.
        acknowledged_at: when enough live runtimes of the surface had said that they serve these weights. None where
            that is not known: it is kept of a rollout's stages, and not of adoptions and roll backs.
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

    @property
    def was_acknowledged(self) -> bool | None:
        """Whether runtimes had taken it on by `at`; until they have, they serve what was before. None: not known."""
        return None if self.acknowledged_at is None else self.acknowledged_at <= self.at


@dataclass(frozen=True, kw_only=True, slots=True)
class Followers:
    """The surface's live runtimes, and those of them that serve this generation or a later one."""

    live: int
    serving: int


def followers(session: Session, served: Served, *, live_since: datetime) -> Followers | None:
    """Who serves it at present; None of what is over, for heartbeats tell of the present alone."""
    if served.until is not None:
        return None
    told = [runtime.generations.get(served.surface) for runtime in runtimes.live(session, since=live_since)]
    generations = [generation for generation in told if generation is not None]
    return Followers(live=len(generations), serving=sum(each >= served.generation for each in generations))


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
    following, next_change = aliased(SplitRow), aliased(HistoryRow)
    is_next = and_(following.surface == SplitRow.surface, following.generation == SplitRow.generation + 1)
    made = and_(HistoryRow.surface == SplitRow.surface, HistoryRow.seq == SplitRow.generation)
    ended = and_(next_change.surface == SplitRow.surface, next_change.seq == SplitRow.generation + 1)
    stage = and_(
        RolloutRow.rollout_id == HistoryRow.rollout_id,
        or_(
            RolloutRow.stage_generation == SplitRow.generation,
            RolloutRow.phase.not_in([phase.value for phase in FINISHED]),
        ),
        next_change.seq.is_(None),
    )
    return (
        select(
            SplitRow,
            HistoryRow,
            following.at.label("until"),
            next_change.before.label("left"),
            RolloutRow.acknowledged_at,
        )
        .join(HistoryRow, made)
        .outerjoin(following, is_next)
        .outerjoin(next_change, ended)
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
        acknowledged_at=row.acknowledged_at if row.left is None else _acknowledged(row.left, change.rollout_id),
    )


def _acknowledged(left: str, rollout_id: int | None) -> datetime | None:
    """From what the next change found: the rollout of this one as it stood then."""
    rollout = json.loads(left).get("rollout") or {}
    at = rollout.get("acknowledged_at")
    return datetime.fromisoformat(at) if at is not None and rollout.get("rollout_id") == rollout_id else None


def _version(value: str | None) -> VersionId | None:
    return None if value is None else VersionId(value)
