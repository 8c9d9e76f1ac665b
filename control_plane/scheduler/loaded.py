"""What checks need, read for many rollouts in one session that is closed before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from control_plane.domain.decision import Readiness
from control_plane.domain.errors import ControlPlaneError
from control_plane.domain.moments import Health
from control_plane.domain.rollout import Rollout, RolloutId, Stage, back_from_home, stage_of
from control_plane.evidence.aggregate import MomentsQuery
from control_plane.registry import check_rows
from control_plane.registry.check_rows import CheckRows
from control_plane.registry.session import Sessions


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """Everything one check needs.

    The rollout is as it will be when its candidate, found at home, comes back: judged without the time it was away.
    A stage that has not begun is judged as if it began now: nothing can be missing from it yet.
    """

    rollout: Rollout
    stage: Stage
    generation: int
    is_at_home: bool
    readiness: Readiness
    health: Health
    query: MomentsQuery


def load(sessions: Sessions, rollout_id: RolloutId, *, now: datetime, live_since: datetime) -> Loaded:
    found = load_all(sessions, [rollout_id], now=now, live_since=live_since)[rollout_id]
    if isinstance(found, Exception):
        raise found
    return found


def load_all(
    sessions: Sessions, rollout_ids: Sequence[RolloutId], *, now: datetime, live_since: datetime
) -> dict[RolloutId, Loaded | Exception]:
    """What each check needs, or why it cannot be read; one that cannot does not stop the others."""
    try:
        rows = _rows(sessions, rollout_ids, now=now, live_since=live_since)
    except ControlPlaneError as error:  # the database is not to be had: not for the next one either
        return dict.fromkeys(rollout_ids, error)
    except Exception as error:
        if len(rollout_ids) == 1:
            return dict.fromkeys(rollout_ids, error)
        alone = (load_all(sessions, [one], now=now, live_since=live_since) for one in rollout_ids)
        return {rollout_id: found for one in alone for rollout_id, found in one.items()}
    return {rollout_id: _loaded(found, now=now) for rollout_id, found in rows.items()}


def _rows(
    sessions: Sessions, rollout_ids: Sequence[RolloutId], *, now: datetime, live_since: datetime
) -> dict[RolloutId, CheckRows | Exception]:
    with sessions.reading() as session:
        return check_rows.read(session, rollout_ids, now=now, live_since=live_since)


def _loaded(rows: CheckRows | Exception, *, now: datetime) -> Loaded | Exception:
    if isinstance(rows, Exception):
        return rows
    try:
        return _put_together(rows, now=now)
    except Exception as error:
        return error


def _put_together(rows: CheckRows, *, now: datetime) -> Loaded:
    rollout, state = rows.rollout, rows.state
    home_since = state.home_since(now=now)
    if home_since is not None:
        rollout = back_from_home(rollout, home_since=home_since, now=now)
    begun = rollout if rollout.acknowledged_at is not None else replace(rollout, acknowledged_at=now)
    started_at = rollout.started_at if rollout.started_at is not None else rollout.created_at
    return Loaded(
        rollout=rollout,
        stage=stage_of(begun, generation=state.generation),
        generation=state.generation,
        is_at_home=home_since is not None,
        readiness=rows.readiness,
        health=rows.health,
        query=MomentsQuery(
            surface=rollout.surface,
            view_types=state.view_types,
            stable=rollout.stable,
            candidate=rollout.candidate,
            shares=rows.shares,
            windows_ms=rollout.plan.windows_ms(),
            revenue_cap=rollout.plan.revenue_cap,
            since_ms=_ms(started_at),
            as_of_ms=max(_ms(started_at), _ms(now - timedelta(seconds=rollout.plan.lateness_seconds))),
            pre_period_days=rollout.plan.judge.pre_period_days,
            salt=state.salt,
            weights_bp=[step.share_bp for step in rollout.plan.steps],
        ),
    )


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000)
