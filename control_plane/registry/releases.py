"""How far each surface of a release is, and what it waits for. Reads only; `rollouts` is the writer."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Phase, Rollout
from control_plane.domain.surface_graph import Edge, Progress, blocked_by
from control_plane.domain.verdict import Answer, Outcome, Rule, Verdict
from control_plane.registry import commands, evidence, release_rows, surfaces
from control_plane.registry.tables import HistoryRow, SplitRow

RED = frozenset({Rule.SAMPLE_RATIO, Rule.ERROR, Rule.STALE, Rule.LIMIT, Rule.MISSING_EVIDENCE})  # though they only hold
RED_MARKS = ('"answer":"harm"', *(f'"rule":"{rule}"' for rule in sorted(RED)))  # of a stored verdict


def edges(session: Session, release_id: int) -> tuple[Edge, ...]:
    return release_rows.load(session, release_id).edges


def progress(session: Session, release_id: int) -> dict[Surface, Progress]:
    found = release_rows.rollouts_of(session, release_id)
    return {surface: _progress_of(session, rollout) for surface, rollout in found.items()}


def blockers(
    session: Session, release: release_rows.Release, rollouts: Mapping[Surface, Rollout], *, now: datetime
) -> dict[Surface, str]:
    """What each surface that is still to start waits for, in words; those whose way is free are left out."""
    waiting = [surface for surface, rollout in rollouts.items() if rollout.phase in (Phase.QUEUED, Phase.PENDING)]
    found = {
        surface: blocker(session, release.release_id, surface, now=now) or _ahead(session, rollouts[surface])
        for surface in waiting
    }
    return {surface: blocked for surface, blocked in found.items() if blocked is not None}


def blocker(session: Session, release_id: int, surface: Surface, *, now: datetime) -> str | None:
    """What one surface waits for: its upstream's share, held for the edge's time and green all the while."""
    release = release_rows.load(session, release_id)
    blocked = blocked_by(surface, release.edges, progress(session, release_id), now=now)
    return blocked if blocked is not None else _red_lately(session, release, surface, now)


def _ahead(session: Session, rollout: Rollout) -> str | None:
    carried = surfaces.get(session, rollout.surface).rollout_id
    return f"rollout {carried} to end" if rollout.phase is Phase.QUEUED and carried is not None else None


def _progress_of(session: Session, rollout: Rollout) -> Progress:
    latest = evidence.latest(session, rollout.rollout_id)
    return Progress(
        candidate_bp=rollout.candidate_bp,
        reached=_reached(session, rollout),
        is_green=latest is not None and _is_green(latest.verdict),
        rolled_back_at=rollout.entered_at if rollout.phase is Phase.ROLLED_BACK else None,
    )


def _reached(session: Session, rollout: Rollout) -> tuple[tuple[int, datetime], ...]:
    """Each weight that the rollout's candidate was given, and when first since it last came back from home."""
    came_back = session.scalar(
        select(func.max(HistoryRow.seq)).where(
            HistoryRow.rollout_id == rollout.rollout_id, HistoryRow.command == commands.RENEW_WATCH
        )
    )
    first_at = func.min(SplitRow.at)
    rows = session.execute(
        select(SplitRow.candidate_bp, first_at)
        .where(
            SplitRow.surface == rollout.surface,
            SplitRow.generation >= (came_back or rollout.first_generation),
            SplitRow.candidate == rollout.candidate,
            SplitRow.candidate_bp > 0,
        )
        .group_by(SplitRow.candidate_bp)
        .order_by(SplitRow.candidate_bp)
    )
    return tuple((share_bp, at) for share_bp, at in rows)


def _red_lately(session: Session, release: release_rows.Release, surface: Surface, now: datetime) -> str | None:
    """Asked last, since it reads the verdicts of the whole time that a share was to be held."""
    rollouts = release_rows.rollouts_of(session, release.release_id)
    for edge in release.edges:
        upstream = rollouts.get(edge.upstream)
        if edge.downstream != surface or not edge.needs_green or upstream is None:
            continue
        since = now - timedelta(seconds=edge.held_seconds)
        red_at = evidence.latest_with(session, upstream.rollout_id, RED_MARKS, since=since)
        if red_at is not None and upstream.phase is not Phase.ROLLED_BACK:
            held = f"{edge.upstream}'s guardrails to be green for {edge.held_seconds / 3600:g} h"
            return f"{held}; they were not at {red_at:%d %b %H:%M} UTC"
    return None


def _is_green(verdict: Verdict) -> bool:
    """Nothing speaks against the candidate, and what was seen can be believed; not yet shown safe is no objection."""
    if verdict.rule in RED or verdict.needs_person:
        return False
    is_harmed = any(finding.gates and finding.answer is Answer.HARM for finding in verdict.findings)
    return verdict.outcome is not Outcome.ROLL_BACK and not is_harmed
