"""Surfaces: what serves where, adopting a stable by hand, and the button for three in the morning."""

from fastapi import APIRouter, Response, status

from control_plane.api.deps import MatchedGeneration, Now, Operator, Sessions, generation_tag, seen_generation
from control_plane.api.errors import documented, documented_write
from control_plane.api.schemas import AdoptIn, Name, RollBackIn, SurfaceIn, SurfaceOut, SurfacesOut
from control_plane.domain.model_version import Surface, VersionId, ViewType
from control_plane.registry import rollouts, surfaces

router = APIRouter(prefix="/v1/surfaces", tags=["surfaces"])


@router.get("", summary="List the surfaces", responses=documented())
def list_surfaces(sessions: Sessions) -> SurfacesOut:
    with sessions.reading() as session:
        return SurfacesOut(surfaces=[SurfaceOut.of(state) for state in surfaces.list_surfaces(session)])


@router.post("", summary="Create a surface", status_code=status.HTTP_201_CREATED, responses=documented_write(409))
def create_surface(body: SurfaceIn, sessions: Sessions, operator: Operator, now: Now, response: Response) -> SurfaceOut:
    """Nothing serves on it until a version is adopted as its stable."""
    surface, view_types = Surface(body.surface), [ViewType(name) for name in body.view_types]
    with sessions.writing() as session:
        rollouts.create_surface(session, surface, view_types, by=operator, now=now)
        state = surfaces.get(session, surface)
    response.headers["ETag"] = generation_tag(state.generation)
    return SurfaceOut.of(state)


@router.get("/{surface}", summary="Read a surface", responses=documented(404))
def read_surface(surface: Name, sessions: Sessions, response: Response) -> SurfaceOut:
    with sessions.reading() as session:
        state = surfaces.get(session, Surface(surface))
    response.headers["ETag"] = generation_tag(state.generation)
    return SurfaceOut.of(state)


@router.put("/{surface}/stable", summary="Adopt a stable by hand", responses=documented_write(404, 409, 423))
def adopt(
    surface: Name,
    body: AdoptIn,
    sessions: Sessions,
    operator: Operator,
    matched: MatchedGeneration,
    now: Now,
    response: Response,
) -> SurfaceOut:
    """All traffic moves at once, unjudged; refused while a rollout is active.

    Answers 409 with `current_generation` when the surface has moved since the generation that was seen.
    """
    with sessions.writing() as session:
        rollouts.adopt(
            session,
            Surface(surface),
            VersionId(body.version_id),
            seen_generation=seen_generation(matched, body.seen_generation),
            by=operator,
            reason=body.reason,
            now=now,
        )
        state = surfaces.get(session, Surface(surface))
    response.headers["ETag"] = generation_tag(state.generation)
    return SurfaceOut.of(state)


@router.post("/{surface}/rollback", summary="Roll the surface back, now", responses=documented_write(404, 409))
def roll_back(
    surface: Name, body: RollBackIn, sessions: Sessions, operator: Operator, now: Now, response: Response
) -> SurfaceOut:
    """Ends the active rollout; without one, goes from stable to last proven. Asks for no generation and no approval."""
    with sessions.writing() as session:
        state = rollouts.roll_back_surface(session, Surface(surface), by=operator, reason=body.reason, now=now)
    response.headers["ETag"] = generation_tag(state.generation)
    return SurfaceOut.of(state)
