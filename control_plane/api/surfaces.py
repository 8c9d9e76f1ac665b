"""Surfaces: what serves where, adopting a stable by hand, and the button for three in the morning."""

from fastapi import APIRouter, Response, status
from sqlalchemy.orm import Session

from control_plane.api.deps import MatchedGeneration, Now, Operator, Sessions, generation_tag, seen_generation
from control_plane.api.errors import documented, documented_write
from control_plane.api.idempotency import Once, answer
from control_plane.api.schemas import Name
from control_plane.api.surface_schemas import AdoptIn, SurfaceIn, SurfaceOut, SurfaceRollBackIn, SurfacesOut
from control_plane.domain.model_version import Surface, VersionId, ViewType
from control_plane.registry import stables, surfaces
from control_plane.registry.idempotency import Answer
from control_plane.registry.surfaces import SurfaceState

router = APIRouter(prefix="/v1/surfaces", tags=["surfaces"])


@router.get("", summary="List the surfaces", responses=documented())
def list_surfaces(sessions: Sessions) -> SurfacesOut:
    with sessions.reading() as session:
        return SurfacesOut(surfaces=[SurfaceOut.of(state) for state in surfaces.list_surfaces(session)])


@router.post(
    "",
    summary="Create a surface",
    status_code=status.HTTP_201_CREATED,
    response_model=SurfaceOut,
    responses=documented_write(409),
)
def create_surface(body: SurfaceIn, once: Once, operator: Operator, now: Now) -> Response:
    """Nothing serves on it until a version is adopted as its stable."""
    surface, view_types = Surface(body.surface), [ViewType(name) for name in body.view_types]

    def create(session: Session) -> Answer:
        stables.create_surface(session, surface, view_types, by=operator, now=now)
        return _answer(surfaces.get(session, surface), status=status.HTTP_201_CREATED)

    return once(create)


@router.get("/{surface}", summary="Read a surface", responses=documented(404))
def read_surface(surface: Name, sessions: Sessions, response: Response) -> SurfaceOut:
    with sessions.reading() as session:
        state = surfaces.get(session, Surface(surface))
    response.headers["ETag"] = generation_tag(state.generation)
    return SurfaceOut.of(state)


@router.put(
    "/{surface}/stable",
    summary="Adopt a stable by hand",
    response_model=SurfaceOut,
    responses=documented_write(404, 409, 412, 423),
)
def adopt(
    surface: Name, body: AdoptIn, once: Once, operator: Operator, matched: MatchedGeneration, now: Now
) -> Response:
    """All traffic moves at once, unjudged; refused while a rollout is active.

    Answers 412 (`If-Match`) or 409 (`seen_generation`) with `current_generation` when the surface has moved since the
    generation that was seen.
    """
    named, seen = Surface(surface), seen_generation(matched, body.seen_generation)

    def adopt_it(session: Session) -> Answer:
        version = VersionId(body.version_id)
        stables.adopt(session, named, version, seen_generation=seen, by=operator, reason=body.reason, now=now)
        return _answer(surfaces.get(session, named))

    return once(adopt_it)


@router.post(
    "/{surface}/rollback",
    summary="Roll the surface back, now",
    response_model=SurfaceOut,
    responses=documented_write(404, 409),
)
def roll_back(surface: Name, body: SurfaceRollBackIn, once: Once, operator: Operator, now: Now) -> Response:
    """Takes back what users got last: a candidate with weight or, without one, stable, for the last proven version.

    Asks for no generation and no approval. Where users were taken home last it changes nothing for them, so that two
    people who press at once do not go back two versions; with the present generation as `seen_generation`, stable goes.
    """

    def go_back(session: Session) -> Answer:
        state = stables.roll_back_surface(
            session,
            Surface(surface),
            by=operator,
            reason=body.reason,
            now=now,
            seen_generation=body.seen_generation,
        )
        return _answer(state)

    return once(go_back)


def _answer(state: SurfaceState, *, status: int = status.HTTP_200_OK) -> Answer:
    return answer(SurfaceOut.of(state), status=status, generation=state.generation)
