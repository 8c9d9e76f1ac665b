"""One checkpoint over several surfaces: its edges, and how far each surface is. `rollouts` is the writer."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from control_plane.domain.errors import UnknownName
from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Phase
from control_plane.domain.surface_graph import Edge, Progress, check_edges
from control_plane.domain.verdict import Answer, Outcome, Verdict
from control_plane.registry import commands, evidence, rollout_rows
from control_plane.registry.tables import HistoryRow, ReleaseRow, RolloutRow, SplitRow


def insert(session: Session, edges: Sequence[Edge], surfaces: Sequence[Surface], *, by: str, now: datetime) -> int:
    check_edges(edges, surfaces)
    row = ReleaseRow(
        edges=[
            {
                "upstream": edge.upstream,
                "downstream": edge.downstream,
                "share_bp": edge.share_bp,
                "held_seconds": edge.held_seconds,
            }
            for edge in edges
        ],
        created_at=now,
        created_by=by,
    )
    session.add(row)
    session.flush()
    return row.release_id


def edges(session: Session, release_id: int) -> tuple[Edge, ...]:
    row = session.get(ReleaseRow, release_id)
    if row is None:
        raise UnknownName("release", str(release_id))
    return tuple(
        Edge(
            upstream=Surface(edge["upstream"]),
            downstream=Surface(edge["downstream"]),
            share_bp=edge["share_bp"],
            held_seconds=edge["held_seconds"],
        )
        for edge in row.edges
    )


def progress(session: Session, release_id: int) -> dict[Surface, Progress]:
    rows = session.scalars(
        select(RolloutRow).where(RolloutRow.release_id == release_id).execution_options(populate_existing=True)
    )
    return {Surface(row.surface): _progress_of(session, row) for row in rows}


def _progress_of(session: Session, row: RolloutRow) -> Progress:
    rollout = rollout_rows.rollout_of(row)
    latest = evidence.latest(session, rollout.rollout_id)
    return Progress(
        candidate_bp=rollout.candidate_bp,
        reached=_reached(session, row),
        is_green=latest is not None and _is_green(latest.verdict),
        was_rolled_back=rollout.phase is Phase.ROLLED_BACK,
    )


def _reached(session: Session, row: RolloutRow) -> tuple[tuple[int, datetime], ...]:
    """Each weight that the rollout's candidate was given, and when first since it last came back from home."""
    came_back = session.scalar(
        select(func.max(HistoryRow.seq)).where(
            HistoryRow.rollout_id == row.rollout_id, HistoryRow.command == commands.RENEW_WATCH
        )
    )
    first_at = func.min(SplitRow.at)
    rows = session.execute(
        select(SplitRow.candidate_bp, first_at)
        .where(
            SplitRow.surface == row.surface,
            SplitRow.generation >= (came_back or row.first_generation),
            SplitRow.candidate == row.candidate,
            SplitRow.candidate_bp > 0,
        )
        .group_by(SplitRow.candidate_bp)
        .order_by(SplitRow.candidate_bp)
    )
    return tuple((share_bp, at) for share_bp, at in rows)


def _is_green(verdict: Verdict) -> bool:
    is_harmed = any(finding.gates and finding.answer is Answer.HARM for finding in verdict.findings)
    return verdict.outcome is not Outcome.ROLL_BACK and not is_harmed
