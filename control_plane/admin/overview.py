"""What the first page shows: every surface and what serves on it, what is quarantined, who is alive."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from control_plane.admin import wording
from control_plane.admin.banners import Banner
from control_plane.admin.surface_card import SurfaceCard, idle, surface_card
from control_plane.api.standing import Standing, standing_of
from control_plane.domain.rollout import Phase
from control_plane.domain.verdict import Rule
from control_plane.registry import leases, model_versions, rollouts, runtimes, surfaces
from control_plane.registry.quarantine import QuarantinedDigest
from control_plane.registry.runtimes import Runtime

LATE_TICKS = 5  # ticks in a row that may be missing before the page says so
LATE_SECONDS = 30.0  # at the least: a tick that judges many surfaces takes its time
JUDGED = (Phase.SHADOW, Phase.RAMPING, Phase.WATCHING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    banners: tuple[Banner, ...]
    cards: tuple[SurfaceCard, ...]
    quarantined: tuple[QuarantinedDigest, ...]
    runtimes: tuple[Runtime, ...]
    generations: Mapping[str, int]
    scheduler: str
    last_tick_at: datetime | None


def load_overview(
    session: Session, *, now: datetime, live_since: datetime, tick_seconds: float, is_replay: bool
) -> Overview:
    """In a replay event time leaps from tick to tick, so only the lease tells whether the scheduler lives."""
    states = surfaces.list_surfaces(session)
    records = {record.version_id: record for record in model_versions.list_versions(session)}
    live = runtimes.live(session, since=live_since)
    active = {
        rollout.surface: standing_of(session, rollout, now=now, live_since=live_since)
        for rollout in rollouts.list_rollouts(session, active_only=True)
    }
    queued = rollouts.list_queued(session)
    lease = leases.current(session, leases.SCHEDULER)
    allowed = timedelta.max if is_replay else timedelta(seconds=max(LATE_TICKS * tick_seconds, LATE_SECONDS))
    return Overview(
        banners=(
            *_scheduler_banners(lease, now, allowed),
            *_log_banners(list(active.values())),
        ),
        cards=tuple(
            surface_card(
                state,
                active.get(state.surface) or idle(session, state),
                records=records,
                live=live,
                now=now,
                queued=[rollout for rollout in queued if rollout.surface == state.surface],
            )
            for state in states
        ),
        quarantined=tuple(rollouts.list_quarantined(session)),
        runtimes=tuple(live),
        generations={state.surface: state.generation for state in states},
        scheduler="" if lease is None else lease.holder,
        last_tick_at=None if lease is None else lease.last_tick_at,
    )


def _scheduler_banners(lease: leases.Lease | None, now: datetime, allowed: timedelta) -> list[Banner]:
    promise = "No candidate grows meanwhile; those with weight go home to stable when their lease runs out."
    if lease is None or lease.last_tick_at is None:
        return [Banner(tone="warn", heading="No scheduler has ticked yet.", detail=promise)]
    if lease.seconds_left == 0 or now - lease.last_tick_at > allowed:
        what = "No scheduler is at work" if lease.seconds_left == 0 else "The scheduler is silent"
        heading = f"{what}: the last tick was {wording.ago(lease.last_tick_at, now)}."
        return [Banner(tone="bad", heading=heading, detail=f"Rolling back by hand works as ever. {promise}")]
    return []


def _log_banners(active: Sequence[Standing]) -> list[Banner]:
    return [
        Banner(
            tone="bad",
            heading=f"The event log of {wording.surface_name(standing.rollout.surface)} is stale.",
            detail=standing.verdict.verdict.reason,
        )
        for standing in active
        if standing.verdict is not None
        and standing.verdict.verdict.rule is Rule.STALE
        and standing.rollout.serving_phase in JUDGED
    ]
