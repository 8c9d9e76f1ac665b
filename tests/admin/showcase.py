"""Surfaces in every state worth looking at: real registry writes, and real verdicts on simulated traffic."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from control_plane.clock import system_clock
from control_plane.domain.decision import decide
from control_plane.domain.manifest import Manifest
from control_plane.domain.model_version import ModelVersion, Surface, VersionId, ViewType, digest_of
from control_plane.domain.moments import Moments, ServingCounts
from control_plane.domain.rollout import FINISHED, Phase, Rollout, RolloutId
from control_plane.guardrails.judge import judge
from control_plane.guardrails.replay import pack
from control_plane.registry import arrivals, leases, model_versions, rollouts, runtimes, stables, surfaces
from control_plane.registry.session import Sessions, make_engine, upgrade
from control_plane.rehearsal.audience import Audience, Effects
from control_plane.rehearsal.traffic import Traffic
from control_plane.scheduler import tick
from control_plane.scheduler.applied import apply
from control_plane.scheduler.judged import JUDGED, Judged
from control_plane.scheduler.loaded import load
from tests.builders import a_plan

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
CHECK = timedelta(hours=3)
VIEW_TYPES = {"grid": 0.7, "closeup": 0.3}
AUDIENCE = Audience(users=30_000, impressions_per_day=8.0, ctr=0.06, view_types=VIEW_TYPES, hide_rate=0.006)
SOUND = Effects(ctr=0.02, good_click_rate=0.01, score_noise=0.12)
MISCALIBRATED = Effects(prediction=0.13)
PLAN = {
    "name": "standard",
    "steps": [
        {"share": "5%", "bake": "6h"},
        {"share": "10%", "bake": "12h"},
        {"share": "25%", "bake": "1d", "approvals": 1},
        {"share": "50%", "bake": "1d"},
        {"share": "100%", "bake": "2d"},
    ],
    "shadow": {"bake": "12h"},
    "guardrails": [
        {"metric": "ctr"},
        {"metric": "good_click_rate"},
        {"metric": "hide_rate", "role": "guard"},
        {"metric": "revenue_per_impression", "role": "guard"},
    ],
    "judge": {"loss_budget": "2%"},
    "check_every": "3h",
    "unwatched": "1d",
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What was seeded: which rollout shows what. `now` is the moment the pages are looked at."""

    ramping: RolloutId
    rolled_back: RolloutId
    shadowed: RolloutId
    now: datetime


class Showcase:
    """Home feed on its way up, search rolled back for its calibrator, related pins in shadow."""

    def __init__(self, url: str, *, check: timedelta = CHECK) -> None:
        engine = make_engine(url)
        upgrade(engine)
        self.sessions = Sessions(engine)
        self.now = START
        self._check = check
        self._traffic: dict[RolloutId, Traffic] = {}

    def close(self) -> None:
        self.sessions.engine.dispose()

    def open(self, surface: str) -> None:
        """A surface on its second stable version, so that there is one to go back to."""
        with self.sessions.writing() as session:
            view_types = [ViewType(name) for name in VIEW_TYPES]
            stables.create_surface(session, Surface(surface), view_types, by="ada", now=self.now)
        for generation, run in enumerate(["joint-2026-01-12", "joint-2026-02-09"]):
            version_id = self.register(surface, run)
            with self.sessions.writing() as session:
                reason = "first version" if generation == 0 else "proven before this registry existed"
                stables.adopt(
                    session,
                    Surface(surface),
                    version_id,
                    seen_generation=generation,
                    by="ada",
                    reason=reason,
                    now=self.now,
                )

    def register(self, surface: str, run: str) -> VersionId:
        version = ModelVersion(
            surface=Surface(surface),
            trunk=digest_of(run.encode()),
            surface_export=digest_of(f"{run}/{surface}".encode()),
            calibrator=digest_of(f"{run}/{surface}/calibrator".encode()),
            feature_signature=digest_of(b"signature"),
        )
        manifest = Manifest(
            version=version,
            model_name="unified-engagement",
            view_types=tuple(ViewType(name) for name in VIEW_TYPES),
            golden=digest_of(b"golden"),
            golden_tolerance=1e-5,
            training_run=run,
            config={},
        )
        uri = f"s3://models/{run}/{surface}"
        with self.sessions.writing() as session:
            model_versions.register(session, manifest, artifact_uri=uri, by="training", now=self.now)
        return version.version_id

    def roll_out(self, surface: str, effects: Effects, *, seed: int) -> RolloutId:
        candidate = self.register(surface, "joint-2026-03-02")
        with self.sessions.writing() as session:
            rollout = arrivals.create(session, Surface(surface), candidate, a_plan(**PLAN), by="ada", now=self.now)
        started_at_ms = round(self.now.timestamp() * 1_000)
        self._traffic[rollout.rollout_id] = Traffic(
            a_plan(**PLAN), AUDIENCE, effects, seed=seed, started_at_ms=started_at_ms
        )
        return rollout.rollout_id

    def check(self, rollout_id: RolloutId) -> None:
        """One tick of the scheduler for one rollout, its moments simulated instead of read from a log."""
        self.heartbeat(seen_at=self.now)
        tick.begin_stages(self.sessions, now=self.now, live_since=self.now, epoch=None)
        loaded = load(self.sessions, rollout_id, now=self.now, live_since=self.now)
        judged = None
        if loaded.rollout.serving_phase in JUDGED:
            stage = loaded.stage
            moments = self._moments(rollout_id, loaded.rollout)
            judged = Judged(
                verdict=judge(loaded.rollout.plan, stage, moments, loaded.health),
                inputs=pack(loaded.rollout.plan, stage, moments, loaded.health),
            )
        verdict = None if judged is None else judged.verdict
        decision = decide(loaded.rollout, verdict, readiness=loaded.readiness, now=self.now)
        apply(self.sessions, loaded, judged, decision, now=self.now, epoch=None)

    def live_until(self, has_come: Callable[[], bool], *, at_most: int) -> None:
        """Serve and check every active rollout, again and again, until what is asked for has come about."""
        for _ in range(at_most):
            if has_come():
                return
            self.now += self._check
            for rollout_id in self._traffic:
                if (rollout := self.rollout(rollout_id)).phase not in FINISHED:
                    self._serve(rollout)
                    self.check(rollout_id)
        assert has_come(), f"it has not come about by {self.now}"

    def rollout(self, rollout_id: RolloutId) -> Rollout:
        with self.sessions.reading() as session:
            return rollouts.get(session, rollout_id)

    def heartbeat(self, *, seen_at: datetime, behind: Mapping[str, int] | None = None) -> None:
        """Two runtimes that have everything loaded; the second may be `behind` on a surface."""
        with self.sessions.writing() as session:
            states = surfaces.list_surfaces(session)
            named = {version for state in states for version in (state.stable, state.candidate, state.shadow)} - {None}
            loaded = tuple(sorted(version for version in named if version is not None))
            present: dict[str, int] = {state.surface: state.generation for state in states}
            for runtime_id, generations in (("gpu-a-01", present), ("gpu-b-01", {**present, **(behind or {})})):
                beat = runtimes.Heartbeat(
                    runtime_id=runtime_id,
                    generations=generations,
                    loaded=loaded,
                    counts=dict.fromkeys(loaded, ServingCounts(requests=9_000, scores=90_000, distinct_scores=900)),
                    shadow_dropped=0,
                    splits_mode="push",
                )
                runtimes.record_heartbeat(session, beat, now=self.now, seen_at=seen_at)

    def scheduler_ticked(self, *, lease_seconds: float = 86_400.0) -> None:
        with self.sessions.writing() as session:
            epoch = leases.acquire(session, leases.SCHEDULER, "control-1/7", lease_seconds)
            assert epoch is not None
            leases.note_tick(session, leases.SCHEDULER, epoch, self.now)

    def _serve(self, rollout: Rollout) -> None:
        with self.sessions.reading() as session:
            generation = surfaces.get(session, rollout.surface).generation
        self._traffic[rollout.rollout_id].serve(
            until_ms=round(self.now.timestamp() * 1_000),
            generation=generation,
            candidate_bp=rollout.candidate_bp,
            shadow_bp=rollout.shadow_sample_bp,
        )

    def _moments(self, rollout_id: RolloutId, rollout: Rollout) -> Moments:
        traffic = self._traffic[rollout_id]
        return replace(traffic.moments(), surface=rollout.surface, stable=rollout.stable, candidate=rollout.candidate)


def seed_showcase(root: Path, *, check: timedelta = CHECK) -> tuple[Showcase, Scene]:
    """`check` is how often the judge looks: rarer is faster to seed."""
    showcase = Showcase(f"sqlite:///{root / 'registry.db'}", check=check)
    for surface in ("home_feed", "search", "related_pins"):
        showcase.open(surface)
    showcase.now += timedelta(hours=9)
    ramping = showcase.roll_out("home_feed", SOUND, seed=4)
    rolled_back = showcase.roll_out("search", MISCALIBRATED, seed=5)
    showcase.live_until(lambda: showcase.rollout(ramping).step == 2, at_most=timedelta(days=15) // check)
    shadowed = showcase.roll_out("related_pins", SOUND, seed=8)
    showcase.live_until(lambda: showcase.rollout(shadowed).phase is Phase.SHADOW, at_most=5)
    until = showcase.now + check
    showcase.live_until(lambda: showcase.now >= until, at_most=2)
    showcase.now += timedelta(minutes=11)
    showcase.heartbeat(seen_at=system_clock() + timedelta(days=1))
    showcase.scheduler_ticked()
    return showcase, Scene(ramping=ramping, rolled_back=rolled_back, shadowed=shadowed, now=showcase.now)
