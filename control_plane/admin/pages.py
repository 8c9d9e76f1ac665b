"""The admin page: what an operator reads. What they do is in `actions`, what moves by itself in `live`."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.exceptions import HTTPException

from control_plane.admin import actions, freeze_actions, live, release_actions, served, webhooks
from control_plane.admin.history import lines, withdrawn
from control_plane.admin.overview import load_overview
from control_plane.admin.problems import PageRoute
from control_plane.admin.rendering import render, static_file
from control_plane.admin.rollout import HISTORY_READ, load_rollout
from control_plane.admin.verdict import load_verdict
from control_plane.admin.versions import load_version, load_versions
from control_plane.api.deps import Id, LiveSince, Now, Sessions, Settings
from control_plane.api.schemas import Name, VersionName
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.rollout import RolloutId
from control_plane.registry import history, principals, rollouts, surfaces

router = APIRouter(route_class=PageRoute, include_in_schema=False)

HISTORY_LIMIT = 200

SurfaceFilter = Annotated[Name | None, Query()]


@router.get("/")
def read_overview(
    request: Request, sessions: Sessions, settings: Settings, now: Now, live_since: LiveSince
) -> Response:
    with sessions.reading() as session:
        view = load_overview(
            session,
            now=now,
            live_since=live_since,
            tick_seconds=settings.tick_seconds,
            is_replay=settings.clock_file is not None,
        )
    return render(request, "overview.html", page="/", view=view)


@router.get("/rollouts")
def read_rollouts(request: Request, sessions: Sessions) -> Response:
    with sessions.reading() as session:
        found = sorted(rollouts.list_rollouts(session), key=lambda rollout: rollout.rollout_id, reverse=True)
        aborted = withdrawn(history.list_history(session, limit=HISTORY_READ))
    return render(request, "rollouts.html", page="/rollouts", rollouts=found, withdrawn=aborted)


@router.get("/rollouts/{rollout_id}")
def read_rollout(
    request: Request, rollout_id: Id, sessions: Sessions, settings: Settings, now: Now, live_since: LiveSince
) -> Response:
    with sessions.reading() as session:
        view = load_rollout(session, RolloutId(rollout_id), now=now, live_since=live_since)
    members = () if view.approvals is None else principals.members_of(settings.groups, view.approvals.group)
    return render(request, "rollout.html", page="/rollouts", view=view, members=members, lines=lines(view.changes))


@router.get("/versions")
def read_versions(request: Request, sessions: Sessions, surface: SurfaceFilter = None) -> Response:
    with sessions.reading() as session:
        found = load_versions(session, None if surface is None else Surface(surface))
        names = [state.surface for state in surfaces.list_surfaces(session)]
    return render(request, "versions.html", page="/versions", versions=found, surface=surface, surfaces=names)


@router.get("/versions/{version_id}")
def read_version(request: Request, version_id: VersionName, sessions: Sessions) -> Response:
    with sessions.reading() as session:
        view = load_version(session, VersionId(version_id))
    return render(request, "version.html", page="/versions", view=view)


@router.get("/history")
def read_history(request: Request, sessions: Sessions, surface: SurfaceFilter = None) -> Response:
    with sessions.reading() as session:
        found = history.list_history(session, None if surface is None else Surface(surface), limit=HISTORY_LIMIT)
        names = [state.surface for state in surfaces.list_surfaces(session)]
    return render(request, "history.html", page="/history", lines=lines(found), surface=surface, surfaces=names)


@router.get("/verdicts/{verdict_id}")
def read_verdict(request: Request, verdict_id: Id, sessions: Sessions) -> Response:
    with sessions.reading() as session:
        view = load_verdict(session, verdict_id)
    return render(request, "verdict.html", page="/rollouts", view=view)


@router.get("/static/{name}")
def read_static(name: str) -> Response:
    found = static_file(name)
    if found is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"no static file {name!r}")
    return found


@router.get("/favicon.ico")
def read_icon() -> Response:
    return read_static("surefoot.svg")


router.include_router(actions.router)
router.include_router(freeze_actions.router)
router.include_router(release_actions.router)
router.include_router(served.router)
router.include_router(webhooks.router)
router.include_router(live.router)
