"""The version behind a surface's alias, in one call: what serves as stable on home_feed?"""

from enum import StrEnum

from fastapi import APIRouter, Response

from control_plane.api.deps import Sessions, generation_tag
from control_plane.api.errors import documented
from control_plane.api.memory import RememberedRoute
from control_plane.api.schemas import Name
from control_plane.api.version_schemas import VersionOut
from control_plane.domain.errors import UnknownName
from control_plane.domain.model_version import Surface
from control_plane.registry import model_versions, surfaces


class Alias(StrEnum):
    """A version's part on a surface."""

    STABLE = "stable"
    CANDIDATE = "candidate"
    SHADOW = "shadow"
    LAST_PROVEN = "last_proven"


router = APIRouter(prefix="/v1/surfaces", tags=["surfaces"], route_class=RememberedRoute)


@router.get("/{surface}/versions/{alias}", summary="Read the version behind an alias", responses=documented(404))
def read_alias(surface: Name, alias: Alias, sessions: Sessions, response: Response) -> VersionOut:
    """The ETag is the surface's generation. Answers 404 while nothing serves under the alias."""
    with sessions.reading() as session:
        state = surfaces.get(session, Surface(surface))
        version_id = getattr(state, alias.value)
        if version_id is None:
            raise UnknownName(f"{alias} of", surface)
        record = model_versions.get(session, version_id)
    response.headers["ETag"] = generation_tag(state.generation)
    return VersionOut.of(record)
