"""A surface whose weights change as often as asked, by the registry's own commands."""

import itertools
import time
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from control_plane.domain.model_version import Surface, VersionId, ViewType
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.plan_mapping import plan_from_mapping
from control_plane.domain.rollout import Command, Phase, Rollout, RolloutId
from control_plane.registry import arrivals, model_versions, rollouts, stables, surfaces
from control_plane.registry.session import Sessions
from tests.builders import a_manifest, a_version

SURFACE = Surface("home_feed")
VIEW_TYPES = (ViewType("grid"),)
BY, WHY = "benchmark", "a measurement"
PLAN: RolloutPlan = plan_from_mapping(
    {
        "name": "percent by percent",
        "steps": [{"share": f"{share}%", "bake": "1h"} for share in (*range(1, 99), 100)],
        "guardrails": [{"metric": "ctr"}],
    }
)


class Ramp:
    """One rollout after another on one surface; each change is one command and one transaction."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._names = (f"version {number}" for number in itertools.count())
        self._rollout_id: RolloutId | None = None
        with sessions.writing() as session:
            stables.create_surface(session, SURFACE, VIEW_TYPES, by=BY, now=_now())
            stable = self._registered(session)
            stables.adopt(session, SURFACE, stable, seen_generation=None, by=BY, reason=WHY, now=_now())

    def grow(self) -> tuple[int, int]:
        """One step up; when its commit began (monotonic ns), and the generation it made."""
        rollout_id = self.ramping()

        def work(session: Session) -> tuple[int, int, Rollout]:
            rollout = self._command(session, rollout_id, Command.SKIP)
            generation = surfaces.get(session, SURFACE).generation
            return time.monotonic_ns(), generation, rollout

        began_ns, generation, rollout = self._sessions.write(work)
        if rollout.phase is not Phase.RAMPING:
            self._rollout_id = None
        return began_ns, generation

    def ramping(self) -> RolloutId:
        """A rollout at one of its steps."""
        if self._rollout_id is None:
            with self._sessions.writing() as session:
                state = surfaces.get(session, SURFACE)
                if state.rollout_id is not None:
                    stables.roll_back_surface(session, SURFACE, by=BY, reason=WHY, now=_now())
                rollout = arrivals.create(session, SURFACE, self._registered(session), PLAN, by=BY, now=_now())
                self._command(session, rollout.rollout_id, Command.START)
                while self._command(session, rollout.rollout_id, Command.SKIP).phase is not Phase.RAMPING:
                    pass
            self._rollout_id = rollout.rollout_id
        return self._rollout_id

    def forget(self) -> None:
        """The present rollout was ended by someone else."""
        self._rollout_id = None

    def generation(self) -> int:
        with self._sessions.reading() as session:
            return surfaces.get(session, SURFACE).generation

    def _command(self, session: Session, rollout_id: RolloutId, command: Command) -> Rollout:
        return rollouts.apply_command(session, rollout_id, command, by=BY, now=_now(), reason=WHY)

    def _registered(self, session: Session) -> VersionId:
        name = next(self._names)
        version = a_version(name, surface=SURFACE, trunk=f"{name}/trunk")
        manifest = a_manifest(version, view_types=VIEW_TYPES, training_run=name)
        model_versions.register(session, manifest, artifact_uri=f"/artifacts/{name}", by=BY, now=_now())
        return version.version_id


def _now() -> datetime:
    return datetime.now(UTC)
