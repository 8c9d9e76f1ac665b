"""What served on a surface at a moment: asked on the history page, answered on a page of its own."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from control_plane.admin import charts
from control_plane.admin.problems import PageRoute
from control_plane.admin.rendering import render
from control_plane.api.deps import Now, Sessions
from control_plane.api.schemas import Name
from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.domain.wall_time import moment
from control_plane.registry import model_versions, surfaces
from control_plane.registry.served import served_at

router = APIRouter(prefix="/history", route_class=PageRoute, include_in_schema=False)

Asked = Annotated[str, Query(max_length=100)]


@router.get("/served")
def read_served(
    request: Request, sessions: Sessions, now: Now, surface: Annotated[Name, Query()], at: Asked, zone: Asked = "UTC"
) -> Response:
    asked = moment(at, zone.strip() or "UTC", now=now)
    if asked > now:
        raise InvalidField("at", "lies in the future")
    with sessions.reading() as session:
        served = served_at(session, Surface(surface), asked)
        names = [state.surface for state in surfaces.list_surfaces(session)]
        versions = [found for found in (served.stable, served.candidate, served.shadow) if found is not None]
        runs: dict[VersionId, str] = {
            version: model_versions.get(session, version).manifest.training_run for version in versions
        }
    return render(
        request,
        "served.html",
        page="/history",
        served=served,
        runs=runs,
        traffic=charts.traffic_bar(served.weight_bp),
        stable_bp=FULL_TRAFFIC_BP - served.weight_bp,
        surfaces=names,
        asked={"surface": surface, "at": at, "zone": zone},
    )
