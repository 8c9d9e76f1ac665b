"""Releases: one checkpoint's candidates on several surfaces, in the order that a surface graph allows."""

from datetime import datetime

from fastapi import APIRouter, Response, status
from sqlalchemy.orm import Session

from control_plane.api.deps import Id, Now, Operator, Sessions
from control_plane.api.errors import documented, documented_write
from control_plane.api.schemas import EdgeOut, ReleaseIn, ReleaseOut, RolloutFactsOut
from control_plane.api.standing import blocker_of
from control_plane.domain.model_version import Surface, VersionId
from control_plane.registry import rollouts

router = APIRouter(prefix="/v1/releases", tags=["releases"])


@router.post(
    "",
    summary="Create a release",
    status_code=status.HTTP_201_CREATED,
    responses=documented_write(404, 409, 423),
)
def create_release(body: ReleaseIn, sessions: Sessions, operator: Operator, now: Now, response: Response) -> ReleaseOut:
    """One pending rollout per surface, all or none; each starts when the edges that lead to it are satisfied."""
    plan = body.read_plan()
    edges = [edge.to_edge(f"edges[{index}]") for index, edge in enumerate(body.edges)]
    candidates = {Surface(surface): VersionId(version) for surface, version in body.candidates.items()}
    with sessions.writing() as session:
        release_id = rollouts.create_release(session, candidates, plan, edges, by=operator, now=now)
        release = _render(session, release_id, now)
    response.headers["Location"] = f"/v1/releases/{release_id}"
    return release


@router.get("/{release_id}", summary="Read a release", responses=documented(404))
def read_release(release_id: Id, sessions: Sessions, now: Now) -> ReleaseOut:
    with sessions.reading() as session:
        return _render(session, release_id, now)


def _render(session: Session, release_id: int, now: datetime) -> ReleaseOut:
    edges = rollouts.release_edges(session, release_id)
    found = rollouts.list_rollouts(session, release_id=release_id)
    blockers = {rollout.surface: blocker_of(session, rollout, now=now) for rollout in found}
    return ReleaseOut(
        release_id=release_id,
        edges=[EdgeOut.model_validate(edge, from_attributes=True) for edge in edges],
        rollouts=[RolloutFactsOut.of(rollout) for rollout in found],
        blocked={str(surface): blocker for surface, blocker in blockers.items() if blocker is not None},
    )
