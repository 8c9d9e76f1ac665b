"""Rollouts that sit past their deadline, or say nothing of what they wait for."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from benchmarks.crash_run.violation import Violation
from control_plane.api.standing import Standing, standing_of
from control_plane.domain.rollout import FINISHED, Phase
from control_plane.registry import freezes, rollouts
from control_plane.registry.session import Sessions

LONG_AGO = datetime.min.replace(tzinfo=UTC)  # every runtime that was ever heard of counts
WAITS_FOR_PEOPLE = (Phase.EXPIRED, Phase.QUEUED)  # for as long as people like


def stuck(sessions: Sessions, *, now: datetime, grace: timedelta) -> Iterator[Violation]:
    """`grace` is how late a scheduler may come in the middle of deaths."""
    with sessions.reading() as session:
        for rollout in rollouts.list_rollouts(session):
            if rollout.phase in FINISHED:
                continue
            standing = standing_of(session, rollout, now=now, live_since=LONG_AGO)
            is_frozen = freezes.standing(session, rollout.surface, now=now) is not None
            for what in _problems(standing, now - grace, is_frozen=is_frozen):
                where = f"rollout {rollout.rollout_id} of {rollout.surface}, {rollout.phase}"
                yield Violation(invariant="nothing stuck", where=where, what=what)


def _problems(standing: Standing, overdue_at: datetime, *, is_frozen: bool) -> Iterator[str]:
    rollout = standing.rollout
    if not standing.waiting_for:
        yield "does not say what it waits for"
    if rollout.phase in WAITS_FOR_PEOPLE or is_frozen:
        return
    if standing.until is not None and standing.until < overdue_at:
        yield f"{standing.waiting_for}, until {standing.until:%H:%M}, which is over"
    longest = timedelta(seconds=rollout.plan.max_stage_seconds + rollout.away_seconds)
    if rollout.serving_phase in (Phase.SHADOW, Phase.RAMPING) and rollout.entered_at + longest < overdue_at:
        yield f"sits longer than a stage may: {standing.waiting_for}"
