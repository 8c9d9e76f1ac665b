"""Registries in the middle of something: each function writes in the session it is given."""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from control_plane.domain.model_version import ModelVersion, Surface, VersionId
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.rollout import Command, OnBusy, Phase, Rollout, RolloutId
from control_plane.domain.verdict import Outcome
from control_plane.registry import arrivals, evidence, model_versions, rollouts, stables, surfaces
from tests.builders import HOME_FEED, NOON, VIEW_TYPES, a_manifest, a_plan, a_verdict, a_version

SEARCH = Surface("search")
RELATED_PINS = Surface("related_pins")
SURFACES = (HOME_FEED, RELATED_PINS, SEARCH)
LATER = NOON + timedelta(hours=1)


def registered(session: Session, version: ModelVersion) -> VersionId:
    record = model_versions.register(
        session, a_manifest(version), artifact_uri=f"/artifacts/{version.version_id}", by="ada", now=NOON
    )
    return record.version_id


def a_serving_surface(
    session: Session, stable: ModelVersion | None = None, *, before: ModelVersion | None = None
) -> VersionId:
    """A surface with `stable`, over `before` as the last proven version if given."""
    stable = stable or a_version("a")
    stables.create_surface(session, stable.surface, VIEW_TYPES, by="ada", now=NOON)
    for version in filter(None, (before, stable)):
        adopted(session, registered(session, version), surface=stable.surface)
    return stable.version_id


def adopted(session: Session, version_id: VersionId, *, surface: Surface = HOME_FEED) -> None:
    stables.adopt(session, surface, version_id, seen_generation=None, by="ada", reason="by hand", now=NOON)


def a_pending_rollout(
    session: Session, candidate: ModelVersion | None = None, *, plan: RolloutPlan | None = None
) -> RolloutId:
    candidate = candidate or a_version("b")
    version_id = registered(session, candidate)
    rollout = arrivals.create(session, candidate.surface, version_id, plan or a_plan(), by="ada", now=NOON)
    return rollout.rollout_id


def a_rollout_in(session: Session, phase: Phase, candidate: ModelVersion | None = None) -> RolloutId:
    """A rollout walked into `phase`; a held or expired one from its first step."""
    rollout_id = a_pending_rollout(session, candidate)
    match phase:
        case Phase.QUEUED:
            raise ValueError("what is queued waits behind another: see `a_queued_rollout`")
        case Phase.PENDING:
            pass
        case Phase.HELD | Phase.EXPIRED:
            walk(session, rollout_id, until=Phase.RAMPING)
            commanded(session, rollout_id, Command.HOLD if phase is Phase.HELD else Command.EXPIRE)
        case Phase.ROLLED_BACK:
            commanded(session, rollout_id, Command.ROLL_BACK)
        case _:
            walk(session, rollout_id, until=phase)
    return rollout_id


def a_queued_rollout(session: Session, candidate: ModelVersion, *, plan: RolloutPlan | None = None) -> RolloutId:
    """Behind the one that its surface carries."""
    version_id = registered(session, candidate)
    rollout = arrivals.create(
        session, candidate.surface, version_id, plan or a_plan(), by="ada", now=NOON, on_busy=OnBusy.QUEUE
    )
    return rollout.rollout_id


def walk(session: Session, rollout_id: RolloutId, *, until: Phase) -> Rollout:
    """Advance on passing verdicts."""
    rollout = rollouts.get(session, rollout_id)
    while rollout.phase is not until:
        if rollout.phase is Phase.PENDING:
            rollout = commanded(session, rollout_id, Command.START)
        else:
            rollout = commanded(session, rollout_id, Command.ADVANCE, verdict_id=a_passing_verdict(session, rollout_id))
    return rollout


def commanded(
    session: Session,
    rollout_id: RolloutId,
    command: Command,
    *,
    by: str = "ada",
    reason: str = "",
    now: datetime = NOON,
    verdict_id: int | None = None,
    groups: Collection[str] = (),
) -> Rollout:
    return rollouts.apply_command(
        session, rollout_id, command, by=by, reason=reason, now=now, verdict_id=verdict_id, groups=groups
    )


def a_passing_verdict(session: Session, rollout_id: RolloutId, *, now: datetime = NOON) -> int:
    return a_stored_verdict(session, rollout_id, Outcome.ADVANCE, now=now)


def a_stored_verdict(
    session: Session, rollout_id: RolloutId, outcome: Outcome, *, now: datetime = NOON, generation: int | None = None
) -> int:
    """A verdict of the surface's present generation, unless another is given."""
    if generation is None:
        generation = surfaces.get(session, rollouts.get(session, rollout_id).surface).generation
    verdict = a_verdict(outcome, generation=generation)
    return evidence.record_verdict(session, rollout_id, verdict, b"inputs", now=now, next_check_at=now)
