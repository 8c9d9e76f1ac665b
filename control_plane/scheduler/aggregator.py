"""Computes every active rollout's moments ahead of the ticks that need them."""

from datetime import UTC, datetime

from control_plane.domain.rollout import Phase
from control_plane.evidence.aggregate import moments
from control_plane.evidence.event_log import EventLog
from control_plane.registry import rollouts
from control_plane.registry.session import Sessions
from control_plane.scheduler.judged import JUDGED
from control_plane.scheduler.loaded import load


def aggregate_once(sessions: Sessions, log: EventLog, *, now: datetime) -> int:
    """Fill the log's cache for every judged rollout; return how many there were. It decides and writes nothing else."""
    with sessions.reading() as session:
        active = rollouts.list_rollouts(session, active_only=True)
    judged = [rollout for rollout in active if rollout.serving_phase in JUDGED and rollout.phase is not Phase.EXPIRED]
    for rollout in judged:
        loaded = load(sessions, rollout.rollout_id, now=now, live_since=datetime.now(UTC))
        moments(log, loaded.query)
    return len(judged)
