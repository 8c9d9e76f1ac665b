"""Where a rollout stands: what it waits for and until when, and how far the runtimes follow."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from control_plane.domain.decision import Decision, decide
from control_plane.domain.model_version import Part
from control_plane.domain.rollout import FINISHED, Phase, Rollout
from control_plane.domain.surface_graph import blocked_by
from control_plane.registry import evidence, model_versions, rollouts, runtimes, surfaces
from control_plane.registry.evidence import StoredVerdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A rollout beside its surface, its latest verdict and the live runtimes.

    `home_since` is when runtimes began to send an unwatched candidate's users to stable; None while it is watched.
    """

    rollout: Rollout
    generation: int
    verdict: StoredVerdict | None
    waiting_for: str | None
    until: datetime | None
    live_runtimes: int
    acknowledged_runtimes: int
    loaded_runtimes: int
    home_since: datetime | None = None
    changed_parts: tuple[Part, ...] = ()

    @property
    def acknowledged_bp(self) -> int:
        """The candidate's weight as far as live runtimes are known to serve by it."""
        if self.live_runtimes == 0 or self.home_since is not None:
            return 0
        return self.rollout.candidate_bp * self.acknowledged_runtimes // self.live_runtimes


def standing_of(session: Session, rollout: Rollout, *, now: datetime, live_since: datetime) -> Standing:
    """`live_since` is wall time, whatever clock `now` comes from."""
    state = surfaces.get(session, rollout.surface)
    stored = evidence.latest(session, rollout.rollout_id)
    blocker = blocker_of(session, rollout, now=now)
    readiness = runtimes.readiness(session, rollout.candidate, live_since=live_since, blocked_by=blocker)
    health = runtimes.health(session, state, rollout.stable, rollout.candidate, live_since=live_since)
    decision = decide(rollout, None if stored is None else stored.verdict, readiness=readiness, now=now)
    is_finished = rollout.phase in FINISHED
    home_since = state.home_since(now=now) if state.rollout_id == rollout.rollout_id else None
    return Standing(
        rollout=rollout,
        generation=state.generation,
        verdict=stored,
        waiting_for=None if is_finished else _wording(decision, home_since),
        until=None if is_finished or home_since is not None else decision.until,
        live_runtimes=readiness.live_runtimes,
        acknowledged_runtimes=health.acknowledged_runtimes,
        loaded_runtimes=readiness.loaded_runtimes,
        home_since=home_since,
        changed_parts=model_versions.changed_parts(session, before=rollout.stable, after=rollout.candidate),
    )


def blocker_of(session: Session, rollout: Rollout, *, now: datetime) -> str | None:
    """What a pending rollout's release still makes it wait for, in words."""
    if rollout.release_id is None or rollout.phase is not Phase.PENDING:
        return None
    edges = rollouts.release_edges(session, rollout.release_id)
    return blocked_by(rollout.surface, edges, rollouts.progress(session, rollout.release_id, now=now), now=now)


def _wording(decision: Decision, home_since: datetime | None) -> str:
    if home_since is not None:
        since = f"unwatched too long, so since {home_since:%d %b %H:%M} UTC its users are on stable"
        return f"waiting for a completed check: the candidate was {since}"
    if decision.command is None:
        return decision.reason
    return f"the scheduler's next check, to {decision.command.replace('_', ' ')}: {decision.reason}"
