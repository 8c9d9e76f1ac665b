"""What only the outside knows of a rollout, gathered: runtimes, release, freeze and cool-down. Reads only."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from control_plane.domain.decision import Readiness
from control_plane.domain.freeze import StandingFreeze
from control_plane.domain.rollout import Phase, Rollout, RolloutId
from control_plane.registry import cool_down, freezes, releases, runtimes
from control_plane.registry.runtimes import Runtime
from control_plane.registry.tables import RolloutRow, SurfaceRow

STAGES = (Phase.SHADOW.value, Phase.RAMPING.value, Phase.WATCHING.value)


def readiness(session: Session, rollout: Rollout, *, now: datetime, live_since: datetime) -> Readiness:
    """`live_since` is wall time, whatever clock `now` comes from."""
    live = runtimes.live(session, since=live_since)
    freeze = freezes.standing(session, rollout.surface, now=now)
    return readiness_of(session, rollout, live, freeze, now=now)


def readiness_of(
    session: Session, rollout: Rollout, live: Sequence[Runtime], freeze: StandingFreeze | None, *, now: datetime
) -> Readiness:
    """The same where the live runtimes and the freeze of its surface were read already."""
    found = runtimes.readiness_of(
        live,
        rollout.surface,
        rollout.candidate,
        blocked_by=blocker(session, rollout, now=now),
        stage_generation=rollout.stage_generation,
    )
    cooling = cool_down.cooling(session, rollout, now=now) if rollout.phase is Phase.PENDING else None
    return replace(
        found,
        frozen="" if freeze is None else f"{freeze.owner}: {freeze.reason} (freeze {freeze.freeze_id})",
        frozen_until=None if freeze is None else freeze.until,
        cools_until=None if cooling is None else cooling.until,
    )


def acknowledged_stages(session: Session, *, live_since: datetime) -> dict[RolloutId, int]:
    """Rollouts whose stage nearly all live runtimes have come to serve, and the generation of their surfaces."""
    rows = session.execute(
        select(RolloutRow.rollout_id, RolloutRow.surface, RolloutRow.stage_generation, SurfaceRow.generation)
        .join(SurfaceRow, SurfaceRow.rollout_id == RolloutRow.rollout_id)
        .where(
            RolloutRow.acknowledged_at.is_(None),
            or_(RolloutRow.phase.in_(STAGES), RolloutRow.paused_phase.in_(STAGES)),
        )
        .order_by(RolloutRow.rollout_id)
    ).all()
    live = runtimes.live(session, since=live_since) if rows else []
    found = {}
    for row in rows:
        served = [runtime.generations[row.surface] for runtime in live if row.surface in runtime.generations]
        acknowledged = sum(generation >= row.stage_generation for generation in served)
        if Readiness(live_runtimes=len(served), acknowledged_runtimes=acknowledged).is_acknowledged:
            found[RolloutId(row.rollout_id)] = row.generation
    return found


def blocker(session: Session, rollout: Rollout, *, now: datetime) -> str | None:
    """What a rollout that is still to start waits for in its release, in words."""
    if rollout.release_id is None or rollout.phase not in (Phase.QUEUED, Phase.PENDING):
        return None
    return releases.blocker(session, rollout.release_id, rollout.surface, now=now)
