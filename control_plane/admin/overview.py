"""What the first page shows: every surface and what serves on it, what is quarantined, who is alive."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup
from sqlalchemy.orm import Session

from control_plane.admin import charts, wording
from control_plane.admin.wording import Chip
from control_plane.api.standing import Standing, standing_of
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.rollout import Phase, Rollout
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.domain.verdict import Rule
from control_plane.registry import history, leases, model_versions, rollouts, runtimes, surfaces
from control_plane.registry.history import Entry
from control_plane.registry.model_versions import VersionRecord
from control_plane.registry.quarantine import QuarantinedDigest
from control_plane.registry.runtimes import Runtime
from control_plane.registry.surfaces import SurfaceState

LATE_TICKS = 5  # ticks in a row that may be missing before the page says so
LATE_SECONDS = 30.0  # at the least: a tick that judges many surfaces takes its time


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """One cell of the grid: a role on a surface and the version that has it."""

    name: str
    version_id: VersionId | None
    training_run: str = ""
    share: str = ""
    note: str = ""
    swatch: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SurfaceCard:
    """One row of the grid; chip and rollout are the active rollout's, or else the last one's.

    `falls_back_to` is where the roll-back button leads, None if nowhere.
    """

    surface: str
    generation: int
    changed_at: datetime
    roles: tuple[Role, ...]
    traffic: Markup
    chip: Chip | None
    sentence: str
    rollout_id: int | None
    is_active: bool
    falls_back_to: VersionId | None
    acknowledged: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """The last rollout of a surface that has none now, and how it ended."""

    rollout: Rollout
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Banner:
    tone: str  # warn or bad
    heading: str
    detail: str


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
    standings = {
        rollout.surface: standing_of(session, rollout, now=now, live_since=live_since)
        for rollout in rollouts.list_rollouts(session, active_only=True)
    }
    endings = {state.surface: _ending(session, state.surface) for state in states if state.surface not in standings}
    lease = leases.current(session, leases.SCHEDULER)
    allowed = timedelta.max if is_replay else timedelta(seconds=max(LATE_TICKS * tick_seconds, LATE_SECONDS))
    return Overview(
        banners=(*_scheduler_banners(lease, now, allowed), *_log_banners(list(standings.values()))),
        cards=tuple(
            _card(state, standings.get(state.surface), endings.get(state.surface), records, live, now)
            for state in states
        ),
        quarantined=tuple(rollouts.list_quarantined(session)),
        runtimes=tuple(live),
        generations={state.surface: state.generation for state in states},
        scheduler="" if lease is None else lease.holder,
        last_tick_at=None if lease is None else lease.last_tick_at,
    )


def _card(
    state: SurfaceState,
    standing: Standing | None,
    last: "Ending | None",
    records: Mapping[VersionId, VersionRecord],
    live: Sequence[Runtime],
    now: datetime,
) -> SurfaceCard:
    rollout = standing.rollout if standing is not None else None if last is None else last.rollout
    following = sum(runtime.generations.get(state.surface) == state.generation for runtime in live)
    return SurfaceCard(
        surface=state.surface,
        generation=state.generation,
        changed_at=state.changed_at,
        roles=_roles(state, records),
        traffic=charts.traffic_bar(state.candidate_bp),
        chip=None if rollout is None else wording.phase_chip(rollout),
        sentence=_sentence(state, standing, last, now),
        rollout_id=None if rollout is None else rollout.rollout_id,
        is_active=standing is not None,
        falls_back_to=state.stable if standing is not None else state.last_proven,
        acknowledged=f"generation {state.generation} on {following} of {len(live)} runtimes",
    )


def _ending(session: Session, surface: Surface) -> Ending | None:
    finished = rollouts.list_rollouts(session, surface=surface)
    if not finished:
        return None
    last = max(finished, key=lambda rollout: rollout.rollout_id)
    return Ending(rollout=last, words=ending_words(last, history.list_history(session, surface)))


def ending_words(rollout: Rollout, changes: Sequence[Entry]) -> str:
    """Who ended a finished rollout, and why, as they said; `changes` are the surface's, the latest first."""
    end = next((change for change in changes if change.rollout_id == rollout.rollout_id), None)
    what = "done, the candidate became stable" if rollout.phase is Phase.DONE else "rolled back"
    if end is None:
        return f"{what}."
    reason = f": {end.reason.rstrip('.')}" if end.reason and rollout.phase is Phase.ROLLED_BACK else ""
    return f"{what} by {end.by}{reason}."


def _roles(state: SurfaceState, records: Mapping[VersionId, VersionRecord]) -> tuple[Role, ...]:
    def role(name: str, version_id: VersionId | None, *, share: str = "", note: str = "", swatch: str = "") -> Role:
        run = records[version_id].manifest.training_run if version_id is not None and version_id in records else ""
        return Role(name=name, version_id=version_id, training_run=run, share=share, note=note, swatch=swatch)

    sampled = f"scores {wording.share(state.shadow_sample_bp)} of requests" if state.shadow_sample_bp else "loading"
    return (
        role(
            "Stable",
            state.stable,
            share=wording.share(FULL_TRAFFIC_BP - state.candidate_bp) if state.stable else "",
            swatch="stable",
        ),
        role(
            "Candidate",
            state.candidate,
            share=wording.share(state.candidate_bp) if state.candidate else "",
            swatch="candidate",
        ),
        role("Shadow", state.shadow, note=sampled if state.shadow else ""),
        role("Last proven", state.last_proven),
    )


def _sentence(state: SurfaceState, standing: Standing | None, last: Ending | None, now: datetime) -> str:
    if state.stable is None:
        return "Nothing serves here yet: adopt a version as stable."
    if standing is not None:
        return waiting_sentence(standing, now)
    if last is None:
        return "No rollout yet. All traffic is on stable."
    return f"All traffic is on stable. The last rollout ended {wording.ago(last.rollout.entered_at, now)}: {last.words}"


def waiting_sentence(standing: Standing, now: datetime) -> str:
    """What it waits for and until about when, as one sentence."""
    words = standing.waiting_for or "finished"
    if not words.startswith(("waiting", "held", "expired", "loading", "finished")):
        words = f"waiting: {words}"
    until = wording.about_until(standing.until, now)
    sentence = f"{words.rstrip('.')}{' – ' + until if until else ''}."
    return sentence[0].upper() + sentence[1:]


def _scheduler_banners(lease: leases.Lease | None, now: datetime, allowed: timedelta) -> list[Banner]:
    promise = "No candidate grows meanwhile; those with weight go home to stable when their lease runs out."
    if lease is None or lease.last_tick_at is None:
        return [Banner(tone="warn", heading="No scheduler has ticked yet.", detail=promise)]
    if lease.seconds_left == 0 or now - lease.last_tick_at > allowed:
        heading = f"The scheduler last ticked {wording.ago(lease.last_tick_at, now)}."
        return [Banner(tone="bad", heading=heading, detail=f"Rolling back by hand works as ever. {promise}")]
    return []


def _log_banners(standings: Sequence[Standing]) -> list[Banner]:
    stale = [
        standing
        for standing in standings
        if standing.verdict is not None
        and standing.verdict.verdict.rule is Rule.STALE
        and standing.rollout.serving_phase in (Phase.SHADOW, Phase.RAMPING, Phase.WATCHING)
    ]
    return [
        Banner(
            tone="bad",
            heading=f"The event log of {wording.surface_name(standing.rollout.surface)} is stale.",
            detail=standing.verdict.verdict.reason if standing.verdict is not None else "",
        )
        for standing in stale
    ]
