"""Where a rollout stands: what it waits for and until when, and how far the runtimes follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from control_plane.domain.decision import Decision, Readiness, decide
from control_plane.domain.model_version import Part
from control_plane.domain.rollout import FINISHED, Phase, Rollout, RolloutId
from control_plane.domain.verdict import Verdict
from control_plane.registry import evidence, gates, model_versions, rollouts, surfaces
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
    readiness = gates.readiness(session, rollout, now=now, live_since=live_since)
    decision = decide(rollout, _of_this_stage(stored, rollout), readiness=readiness, now=now)
    is_finished = rollout.phase in FINISHED
    home_since = state.home_since(now=now) if state.rollout_id == rollout.rollout_id else None
    return Standing(
        rollout=rollout,
        generation=state.generation,
        verdict=stored,
        waiting_for=None if is_finished else _wording(decision, readiness, home_since, _ahead(session, rollout)),
        until=None if is_finished or home_since is not None else decision.until,
        live_runtimes=readiness.live_runtimes,
        acknowledged_runtimes=readiness.acknowledged_runtimes,
        loaded_runtimes=readiness.loaded_runtimes,
        home_since=home_since,
        changed_parts=model_versions.changed_parts(session, before=rollout.stable, after=rollout.candidate),
    )


def _of_this_stage(stored: StoredVerdict | None, rollout: Rollout) -> Verdict | None:
    """A verdict on an earlier weight says nothing of what this one waits for."""
    is_of_it = stored is not None and stored.verdict.generation >= rollout.stage_generation
    return stored.verdict if stored is not None and is_of_it else None


def _ahead(session: Session, rollout: Rollout) -> list[RolloutId]:
    """Who comes to the surface before a queued rollout: the one it carries, then those that queued earlier."""
    if rollout.phase is not Phase.QUEUED:
        return []
    carried = surfaces.get(session, rollout.surface).rollout_id
    queued = [other.rollout_id for other in rollouts.list_queued(session, rollout.surface)]
    return [*([] if carried is None else [carried]), *(other for other in queued if other < rollout.rollout_id)]


def _wording(decision: Decision, readiness: Readiness, home_since: datetime | None, ahead: Sequence[RolloutId]) -> str:
    if home_since is not None:
        since = f"unwatched too long, so since {home_since:%d %b %H:%M} UTC its users are on stable"
        until = f"the end of the freeze by {readiness.frozen}" if readiness.frozen else "a completed check"
        return f"waiting for {until}: the candidate was {since}"
    if ahead:
        return f"queued; waiting for rollout {', then '.join(map(str, ahead))} to end"
    if decision.command is None:
        return decision.reason
    return f"the scheduler's next check, to {decision.command.replace('_', ' ')}: {decision.reason}"
