"""Rollouts: creating one, commanding it, and reading where it stands."""

from typing import Annotated

from fastapi import APIRouter, Query, Response, status
from sqlalchemy.orm import Session

from control_plane.api.deps import (
    Groups,
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
from control_plane.api.idempotency import Once, answer
from control_plane.api.rollout_schemas import (
    CommandIn,
    RestartIn,
    RolloutIn,
    RolloutLineOut,
    RolloutOut,
    RolloutsOut,
    VerdictOut,
    VerdictsOut,
)
from control_plane.api.schemas import Name
from control_plane.api.standing import Standing, standing_of
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.rollout import RolloutId
from control_plane.registry import arrivals, evidence, rollouts
from control_plane.registry.idempotency import Answer

router = APIRouter(prefix="/v1/rollouts", tags=["rollouts"])


@router.get("", summary="List the rollouts", responses=documented())
def list_rollouts(
    sessions: Sessions,
    now: Now,
    live_since: LiveSince,
    surface: Annotated[Name | None, Query()] = None,
    active: Annotated[bool, Query(description="only those that are not finished, queued ones too")] = False,
    limit: Limit = 100,
) -> RolloutsOut:
    """The latest first."""
    named = None if surface is None else Surface(surface)
    with sessions.reading() as session:
        found = rollouts.list_rollouts(session, surface=named, active_only=active)
        found += rollouts.list_queued(session, named) if active else []
        latest = sorted(found, key=lambda rollout: rollout.rollout_id, reverse=True)[:limit]
        standings = [standing_of(session, rollout, now=now, live_since=live_since) for rollout in latest]
    return RolloutsOut(rollouts=[RolloutLineOut.of_standing(standing) for standing in standings])


@router.post(
    "",
    summary="Create a rollout",
    status_code=status.HTTP_201_CREATED,
    response_model=RolloutOut,
    responses=documented_write(404, 409, 423),
)
def create_rollout(body: RolloutIn, once: Once, operator: Operator, now: Now, live_since: LiveSince) -> Response:
    """Pending until it is started. A malformed plan answers 422 with the `field`, the `rule` and, of YAML, the `line`.

    While the surface is busy with another rollout it answers 409, or, as `on_busy` says, queues behind it or replaces
    it: the other is aborted and this one created in one transaction. Answers 423 if a part of the candidate is
    quarantined.
    """
    plan = body.read_plan()
    surface, candidate = Surface(body.surface), VersionId(body.candidate)

    def create(session: Session) -> Answer:
        rollout = arrivals.create(session, surface, candidate, plan, by=operator, now=now, on_busy=body.on_busy)
        standing = standing_of(session, rollout, now=now, live_since=live_since)
        location = f"/v1/rollouts/{rollout.rollout_id}"
        return _answer(standing, status=status.HTTP_201_CREATED, location=location)

    return once(create)


@router.get("/{rollout_id}", summary="Read a rollout", responses=documented(404))
def read_rollout(rollout_id: Id, sessions: Sessions, now: Now, live_since: LiveSince, response: Response) -> RolloutOut:
    """With what it waits for, until about when, and how many runtimes serve the weights that were set."""
    with sessions.reading() as session:
        rollout = rollouts.get(session, RolloutId(rollout_id))
        standing = standing_of(session, rollout, now=now, live_since=live_since)
    response.headers["ETag"] = generation_tag(standing.generation)
    return RolloutOut.of_standing(standing)


@router.post(
    "/{rollout_id}/commands",
    summary="Command a rollout",
    response_model=RolloutOut,
    responses=documented_write(403, 404, 409, 412, 423),
)
def send_command(
    rollout_id: Id,
    body: CommandIn,
    once: Once,
    operator: Operator,
    groups: Groups,
    matched: MatchedGeneration,
    now: Now,
    live_since: LiveSince,
) -> Response:
    """Start, advance, skip, hold, resume, approve, expire, roll back or abort.

    Answers 409 when the rollout's phase does not take the command, when it would advance without a passing verdict (a
    skip needs a reason instead), while the candidate cools down, or, with `current_generation`, when the surface has
    moved since `seen_generation`; 412 when it has moved since `If-Match`. Answers 423 to what would grow in a freeze,
    and 403 to an approval by the rollout's creator or by nobody of the step's group. Rolling back is never refused,
    and twice is the same as once.
    """
    seen = seen_generation(matched, body.seen_generation)

    def carry_out(session: Session) -> Answer:
        rollout = rollouts.apply_command(
            session,
            RolloutId(rollout_id),
            body.command,
            by=operator,
            now=now,
            reason=body.reason,
            seen_generation=seen,
            verdict_id=body.verdict_id,
            groups=groups,
        )
        return _answer(standing_of(session, rollout, now=now, live_since=live_since))

    return once(carry_out)


@router.post(
    "/{rollout_id}/restart",
    summary="Begin a rollout anew",
    response_model=RolloutOut,
    responses=documented_write(404, 409, 412, 423),
)
def restart(
    rollout_id: Id,
    body: RestartIn,
    once: Once,
    operator: Operator,
    matched: MatchedGeneration,
    now: Now,
    live_since: LiveSince,
) -> Response:
    """Under another plan or its own: back to the shadow, without weight, evidence or approvals.

    The one way in which the plan of a rollout under way changes. Answers 409 if it is finished.
    """
    plan, seen = body.read_new_plan(), seen_generation(matched, body.seen_generation)

    def begin_anew(session: Session) -> Answer:
        rollout = rollouts.restart(
            session, RolloutId(rollout_id), plan=plan, by=operator, reason=body.reason, now=now, seen_generation=seen
        )
        return _answer(standing_of(session, rollout, now=now, live_since=live_since))

    return once(begin_anew)


@router.get("/{rollout_id}/verdicts", summary="List a rollout's verdicts", responses=documented(404))
def list_verdicts(rollout_id: Id, sessions: Sessions, limit: Limit = 100) -> VerdictsOut:
    """The latest first."""
    with sessions.reading() as session:
        rollout = rollouts.get(session, RolloutId(rollout_id))
        found = evidence.list_verdicts(session, rollout.rollout_id, limit)
    return VerdictsOut(verdicts=[VerdictOut.of(stored) for stored in found])


def _answer(standing: Standing, *, status: int = status.HTTP_200_OK, location: str | None = None) -> Answer:
    told = RolloutOut.of_standing(standing)
    return answer(told, status=status, location=location, generation=standing.generation)
