"""A small world around the real registry, event log and scheduler: traffic that follows the splits, and time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from control_plane.domain.events import HOME_ARM, EventKind
from control_plane.domain.model_version import Surface, VersionId, ViewType
from control_plane.domain.moments import ServingCounts
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.rollout import Phase, Rollout, RolloutId
from control_plane.domain.split import Arm, Split, slot_of
from control_plane.evidence.event_log import EventLog
from control_plane.registry import arrivals, model_versions, rollouts, runtimes, stables, surfaces
from control_plane.registry.session import Sessions, make_engine, upgrade
from control_plane.registry.surfaces import SurfaceState
from control_plane.scheduler.tick import TickReport, tick
from tests.builders import a_manifest, a_plan, a_version

VIEW_TYPES = (ViewType("grid"), ViewType("closeup"))
START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
BASE_CTR = 0.2
HOUR = timedelta(hours=1)
LOOK = timedelta(hours=3)  # traffic comes, and the scheduler looks, in steps of this

# The real judge with its error budgets untouched; margins and shares wide enough for a few thousand users an hour.
STORY_PLAN = {
    "name": "story",
    "steps": [
        {"share": "10%", "bake": "12h"},
        {"share": "50%", "bake": "12h"},
        {"share": "100%", "bake": "12h"},
    ],
    "shadow": {"bake": "3h", "ne_harm_margin": "2%", "ne_safe_margin": "5%", "max_psi": 1.0},
    "guardrails": [{"metric": "ctr", "harm_margin": "3%", "safe_margin": "12%"}],
    "calibration": {"epsilon": "5%", "band": "25%", "view_type_epsilon": "8%", "view_type_band": "35%"},
    "judge": {"loss_budget": "5%"},
    "check_every": "3h",
    "unwatched": "12h",
    "min_days_before_full": 2,
}


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How a version does: its clicks and its predictions, relative to the truth that stable is."""

    ctr: float = 1.0
    predicted: float = 1.0


class World:
    """Surfaces with one stable version each; `behaviours` says how others differ from it."""

    def __init__(self, root: Path, *surface_names: str, database_url: str = "") -> None:
        engine = make_engine(database_url or f"sqlite:///{root / 'registry.db'}")
        upgrade(engine)
        self.sessions = Sessions(engine)
        self.log = EventLog(root / "events")
        self.now = START
        self.behaviours: dict[VersionId, Behaviour] = {}
        self._rng = np.random.default_rng(11)
        self._next_id = 1
        for name in surface_names:
            self._open(Surface(name))

    def candidate(
        self, surface: str, *, trunk: str = "trunk-2", behaviour: Behaviour | None = None, name: str = "candidate"
    ) -> VersionId:
        version_id = self._register(Surface(surface), name, trunk)
        self.behaviours[version_id] = behaviour if behaviour is not None else Behaviour()
        return version_id

    def roll_out(self, surface: str, candidate: VersionId, plan: RolloutPlan | None = None) -> RolloutId:
        with self.sessions.writing() as session:
            rollout = arrivals.create(
                session,
                Surface(surface),
                candidate,
                plan if plan is not None else a_plan(**STORY_PLAN),
                by="ann",
                now=self.now,
            )
        return rollout.rollout_id

    def live(self, looks: int, *, users_per_look: int = 9_000) -> None:
        """Let traffic flow and the scheduler tick after each `LOOK`."""
        for _ in range(looks):
            self.heartbeat()
            self.serve(users_per_look)
            self.now += LOOK
            self.tick()

    def live_until(self, rollout_id: RolloutId, *phases: Phase, at_most_days: int) -> Rollout:
        for _ in range(at_most_days * timedelta(days=1) // LOOK):
            if (rollout := self.rollout(rollout_id)).phase in phases:
                return rollout
            self.live(1)
        return self.rollout(rollout_id)

    def tick(self) -> TickReport:
        report = tick(self.sessions, self.log, now=self.now, live_since=self.now - LOOK, epoch=None)
        assert report.failed == {}
        return report

    def heartbeat(self) -> None:
        """One runtime has loaded whatever the splits name and serves the present generations."""
        splits = self.splits()
        versions = {v for split in splits.values() for v in (split.stable, split.candidate, split.shadow) if v}
        counts = {version: ServingCounts(requests=10_000, scores=30_000, distinct_scores=1_000) for version in versions}
        beat = runtimes.Heartbeat(
            runtime_id="runtime-1",
            generations={surface: split.generation for surface, split in splits.items()},
            loaded=tuple(sorted(versions)),
            counts=counts,
            shadow_dropped=0,
            splits_mode="push",
        )
        with self.sessions.writing() as session:
            runtimes.record_heartbeat(session, beat, now=self.now, seen_at=self.now)

    def serve(self, users: int) -> None:
        for split in self.splits().values():
            self._serve(split, users)

    def splits(self) -> Mapping[Surface, Split]:
        with self.sessions.reading() as session:
            return surfaces.splits(session, now=self.now)

    def surface(self, surface: str) -> SurfaceState:
        with self.sessions.reading() as session:
            return surfaces.get(session, Surface(surface))

    def rollout(self, rollout_id: RolloutId) -> Rollout:
        with self.sessions.reading() as session:
            return rollouts.get(session, rollout_id)

    def _open(self, surface: Surface) -> None:
        with self.sessions.writing() as session:
            stables.create_surface(session, surface, VIEW_TYPES, by="ann", now=self.now)
        stable = self._register(surface, "stable", "trunk-1")
        self.behaviours[stable] = Behaviour()
        with self.sessions.writing() as session:
            stables.adopt(session, surface, stable, seen_generation=0, by="ann", reason="first", now=self.now)

    def _register(self, surface: Surface, name: str, trunk: str) -> VersionId:
        version = a_version(f"{name}/{trunk}", surface=surface, trunk=trunk)
        manifest = a_manifest(version, view_types=VIEW_TYPES, training_run=name)
        with self.sessions.writing() as session:
            model_versions.register(session, manifest, artifact_uri=f"/models/{name}", by="ann", now=self.now)
        return version.version_id

    def _serve(self, split: Split, users: int) -> None:
        """Each user sees one ad before the next look; a click follows within the minute. Nobody meets a candidate
        whose lease has run out."""
        if split.unwatched_seconds_left == 0:
            split = replace(split, candidate_bp=0)
        user_U = self._rng.integers(0, 2**64, users, dtype=np.uint64)
        truth_U = np.clip(self._rng.normal(BASE_CTR, 0.05, users), 0.02, 0.6)
        served_U = self._ms() + self._rng.integers(0, LOOK // timedelta(milliseconds=1), users)
        impression_U = np.arange(self._next_id, self._next_id + users, dtype=np.uint64)
        self._next_id += users
        arm_U = (slot_of(user_U, split.salt) < split.candidate_bp).astype(np.int64)
        versions = [split.version_of(arm) for arm in Arm]
        ctr_U = np.array([self.behaviours[version].ctr for version in versions])[arm_U]
        predicted_U = np.array([self.behaviours[version].predicted for version in versions])[arm_U]
        clicked_U = self._rng.random(users) < truth_U * ctr_U
        common = {
            "impression_id": impression_U,
            "user_key": user_U,
            "served_at_ms": served_U,
            "surface": [split.surface] * users,
        }
        seen = {
            **common,
            "view_type": np.array(VIEW_TYPES)[impression_U % 2],
            "generation": np.full(users, split.generation),
        }
        exposures = {
            **seen,
            "arm": np.full(users, HOME_ARM) if split.is_home else np.array(["stable", "candidate"])[arm_U],
            "version_id": np.array(versions)[arm_U],
            "score": np.clip(truth_U * predicted_U, 0, 1),
        }
        self.log.append(
            {
                EventKind.EXPOSURE: pa.table(exposures),
                EventKind.ENGAGEMENT: _clicks(common, clicked_U),
                **self._shadow(split, seen, truth_U),
            }
        )

    def _shadow(self, split: Split, seen: dict[str, object], truth_U: NDArray[np.float64]) -> dict[EventKind, pa.Table]:
        if split.shadow is None or not split.shadow_sample_bp:
            return {}
        score_U = np.clip(truth_U * self.behaviours[split.shadow].predicted, 0, 1)
        version_U = np.full(len(truth_U), split.shadow)
        return {EventKind.SHADOW_SCORE: pa.table({**seen, "version_id": version_U, "score": score_U})}

    def _ms(self) -> int:
        return round(self.now.timestamp() * 1_000)


def _clicks(common: dict[str, object], clicked_U: NDArray[np.bool_]) -> pa.Table:
    table = pa.table(common).filter(pa.array(clicked_U))
    count = table.num_rows
    return (
        table.append_column("event_id", table["impression_id"])
        .append_column("label", pa.array(["click"] * count, pa.string()))
        .append_column("occurred_at_ms", pa.array(table["served_at_ms"].to_numpy() + 30_000))
        .append_column("value", pa.array(np.ones(count)))
    )
