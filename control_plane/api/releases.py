"""Releases: one checkpoint's candidates on several surfaces, in the order that a surface graph allows."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Response, status
from sqlalchemy.orm import Session

from control_plane.api.deps import Id, Limit, Now, Operator, Sessions
from control_plane.api.errors import documented, documented_write
from control_plane.api.idempotency import Once, answer
from control_plane.api.release_schemas import EdgeOut, ReleaseIn, ReleaseOut, ReleaseRolledBackOut, ReleasesOut
from control_plane.api.rollout_schemas import RolloutFactsOut
from control_plane.api.surface_schemas import RollBackIn
from control_plane.domain.model_version import Surface, VersionId
from control_plane.registry import arrivals, release_rows, releases, rollouts
from control_plane.registry.idempotency import Answer
from control_plane.registry.release_rows import Release

router = APIRouter(prefix="/v1/releases", tags=["releases"])


@router.get("", summary="List the releases", responses=documented())
def list_releases(sessions: Sessions, now: Now, limit: Limit = 20) -> ReleasesOut:
    """The latest first."""
    with sessions.reading() as session:
        found = release_rows.list_releases(session, limit=limit)
        return ReleasesOut(releases=[ReleaseOut(**_facts(session, release, now)) for release in found])


@router.post(
    "",
    summary="Create a release",
    status_code=status.HTTP_201_CREATED,
    response_model=ReleaseOut,
    responses=documented_write(404, 409, 423),
)
def create_release(body: ReleaseIn, once: Once, operator: Operator, now: Now) -> Response:
    """One rollout per surface, all or none; each starts when the edges that lead to it are satisfied.

    While a surface is busy with another rollout it answers 409, or, as `on_busy` says, queues behind it or replaces it.
    """
    plan = body.read_plan()
    edges = [edge.to_edge(f"edges[{index}]") for index, edge in enumerate(body.edges)]
    candidates = {Surface(surface): VersionId(version) for surface, version in body.candidates.items()}

    def create(session: Session) -> Answer:
        release_id = arrivals.create_release(
            session, candidates, plan, edges, by=operator, now=now, on_busy=body.on_busy
        )
        made = ReleaseOut(**_facts(session, release_rows.load(session, release_id), now))
        return answer(made, status=status.HTTP_201_CREATED, location=f"/v1/releases/{release_id}")

    return once(create)


@router.get("/{release_id}", summary="Read a release", responses=documented(404))
def read_release(release_id: Id, sessions: Sessions, now: Now) -> ReleaseOut:
    with sessions.reading() as session:
        return ReleaseOut(**_facts(session, release_rows.load(session, release_id), now))


@router.post(
    "/{release_id}/rollback",
    summary="Roll a release back",
    response_model=ReleaseRolledBackOut,
    responses=documented_write(404),
)
def roll_back_release(release_id: Id, body: RollBackIn, once: Once, operator: Operator, now: Now) -> Response:
    """Every surface that can goes back in one transaction, furthest downstream first; twice is the same as once."""

    def roll_back(session: Session) -> Answer:
        stays = rollouts.roll_back_release(session, release_id, by=operator, reason=body.reason, now=now)
        release = release_rows.load(session, release_id)
        told = {str(surface): why for surface, why in stays.items()}
        return answer(ReleaseRolledBackOut(**_facts(session, release, now), stays=told))

    return once(roll_back)


def _facts(session: Session, release: Release, now: datetime) -> dict[str, Any]:
    found = release_rows.rollouts_of(session, release.release_id)
    blocked = releases.blockers(session, release, found, now=now)
    return {
        "release_id": release.release_id,
        "created_at": release.created_at,
        "created_by": release.created_by,
        "edges": [EdgeOut.model_validate(edge, from_attributes=True) for edge in release.edges],
        "rollouts": [RolloutFactsOut.of(rollout) for rollout in found.values()],
        "blocked": {str(surface): blocker for surface, blocker in blocked.items()},
    }
