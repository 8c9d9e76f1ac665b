"""Rollouts: creating one, commanding it, and reading where it stands."""

from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from control_plane.api.deps import (
    Id,
    Limit,
    LiveSince,
    MatchedGeneration,
    Now,
    Operator,
    Sessions,
    generation_tag,
    seen_generation,
)
from control_plane.api.errors import documented, documented_write
from control_plane.api.schemas import (
    CommandIn,
    Name,
    RolloutIn,
    RolloutLineOut,
    RolloutOut,
    RolloutsOut,
    VerdictOut,
    VerdictsOut,
)
from control_plane.api.standing import Standing, standing_of
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.rollout import RolloutId
from control_plane.registry import evidence, rollouts

router = APIRouter(prefix="/v1/rollouts", tags=["rollouts"])


@router.get("", summary="List the rollouts", responses=documented())
def list_rollouts(
    sessions: Sessions,
    now: Now,
    live_since: LiveSince,
    surface: Annotated[Name | None, Query()] = None,
    active: Annotated[bool, Query(description="only those that are not finished")] = False,
    limit: Limit = 100,
) -> RolloutsOut:
    """The latest first."""
    named = None if surface is None else Surface(surface)
    with sessions.reading() as session:
        found = rollouts.list_rollouts(session, surface=named, active_only=active)
        latest = sorted(found, key=lambda rollout: rollout.rollout_id, reverse=True)[:limit]
        standings = [standing_of(session, rollout, now=now, live_since=live_since) for rollout in latest]
    return RolloutsOut(rollouts=[RolloutLineOut.of_standing(standing) for standing in standings])


@router.post(
    "",
    summary="Create a rollout",
    status_code=status.HTTP_201_CREATED,
    responses=documented_write(404, 409, 423),
)
def create_rollout(
    body: RolloutIn, sessions: Sessions, operator: Operator, now: Now, live_since: LiveSince, response: Response
) -> RolloutOut:
    """Pending until it is started. A malformed plan answers 422 with the `field`, the `rule` and, of YAML, the `line`.

    Answers 409 while the surface is busy with another rollout, 423 if a part of the candidate is quarantined.
    """
    plan = body.read_plan()
    with sessions.writing() as session:
        rollout = rollouts.create(session, Surface(body.surface), VersionId(body.candidate), plan, by=operator, now=now)
        standing = standing_of(session, rollout, now=now, live_since=live_since)
    response.headers["Location"] = f"/v1/rollouts/{rollout.rollout_id}"
    return _render(standing, response)


@router.get("/{rollout_id}", summary="Read a rollout", responses=documented(404))
def read_rollout(rollout_id: Id, sessions: Sessions, now: Now, live_since: LiveSince, response: Response) -> RolloutOut:
    """With what it waits for, until about when, and how many runtimes serve the weights that were set."""
    with sessions.reading() as session:
        rollout = rollouts.get(session, RolloutId(rollout_id))
        standing = standing_of(session, rollout, now=now, live_since=live_since)
    return _render(standing, response)


@router.post("/{rollout_id}/commands", summary="Command a rollout", responses=documented_write(404, 409, 423))
def send_command(
    rollout_id: Id,
    body: CommandIn,
    sessions: Sessions,
    operator: Operator,
    matched: MatchedGeneration,
    now: Now,
    live_since: LiveSince,
    response: Response,
) -> RolloutOut:
    """Start, advance, hold, resume, approve, expire, roll back or abort.

    Answers 409 when the rollout's phase does not take the command, when it would grow without a passing verdict or a
    reason, or, with `current_generation`, when the surface has moved since the generation that was seen.
    Rolling back twice is the same as once.
    """
    with sessions.writing() as session:
        rollout = rollouts.apply_command(
            session,
            RolloutId(rollout_id),
            body.command,
            by=operator,
            now=now,
            reason=body.reason,
            seen_generation=seen_generation(matched, body.seen_generation),
            verdict_id=body.verdict_id,
        )
        standing = standing_of(session, rollout, now=now, live_since=live_since)
    return _render(standing, response)


@router.get("/{rollout_id}/verdicts", summary="List a rollout's verdicts", responses=documented(404))
def list_verdicts(rollout_id: Id, sessions: Sessions, limit: Limit = 100) -> VerdictsOut:
    """The latest first."""
    with sessions.reading() as session:
        rollout = rollouts.get(session, RolloutId(rollout_id))
        found = evidence.list_verdicts(session, rollout.rollout_id, limit)
    return VerdictsOut(verdicts=[VerdictOut.of(stored) for stored in found])


def _render(standing: Standing, response: Response) -> RolloutOut:
    response.headers["ETag"] = generation_tag(standing.generation)
    return RolloutOut.of_standing(standing)
