"""Runtimes: what each serves, has loaded and counted."""

from fastapi import APIRouter, status

from control_plane.api.deps import LiveSince, Now, Operator, Sessions, WallNow
from control_plane.api.errors import documented, documented_write
from control_plane.api.schemas import HeartbeatIn, RuntimeName, RuntimeOut, RuntimesOut
from control_plane.registry import runtimes

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
def record_heartbeat(
    runtime_id: RuntimeName, body: HeartbeatIn, sessions: Sessions, operator: Operator, now: Now, wall_now: WallNow
) -> None:
    """Acknowledges the generations it serves; counts are totals since the runtime started."""
    with sessions.writing() as session:
        runtimes.record_heartbeat(session, body.to_heartbeat(runtime_id), now=now, seen_at=wall_now)
