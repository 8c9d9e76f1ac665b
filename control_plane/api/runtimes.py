"""Runtimes: what each serves, has loaded and counted."""

from datetime import datetime

from anyio import to_thread
from fastapi import APIRouter, Request, status

from control_plane.api.deps import LiveSince, Now, Operator, Sessions, WallNow, parts_of
from control_plane.api.errors import documented, documented_write
from control_plane.api.runtime_schemas import HeartbeatIn, RuntimeOut, RuntimesOut
from control_plane.api.schemas import RuntimeName
from control_plane.registry import runtimes
from control_plane.registry.runtimes import Heartbeat
from control_plane.registry.session import Sessions as RegistrySessions

router = APIRouter(prefix="/v1/runtimes", tags=["runtimes"])


@router.get("", summary="List the live runtimes", responses=documented())
def list_runtimes(sessions: Sessions, live_since: LiveSince) -> RuntimesOut:
    """Those that were heard of lately; a silent one is gone."""
    with sessions.reading() as session:
        found = runtimes.live(session, since=live_since)
    return RuntimesOut(runtimes=[RuntimeOut.model_validate(live) for live in found])


@router.post(
    "/{runtime_id}/heartbeat",
    summary="Report a runtime's heartbeat",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=documented_write(),
)
async def record_heartbeat(
    request: Request, runtime_id: RuntimeName, body: HeartbeatIn, operator: Operator, now: Now, wall_now: WallNow
) -> None:
    """Acknowledges the generations it serves; counts are totals since the runtime started."""
    parts = parts_of(request)
    heartbeat = body.to_heartbeat(runtime_id)
    await to_thread.run_sync(_record, parts.sessions, heartbeat, now, wall_now, limiter=parts.heartbeat_lane)


def _record(sessions: RegistrySessions, heartbeat: Heartbeat, now: datetime, seen_at: datetime) -> None:
    with sessions.writing() as session:
        runtimes.record_heartbeat(session, heartbeat, now=now, seen_at=seen_at)
