"""Health: whether this process can do its work, and who schedules."""

from datetime import datetime
from importlib.metadata import version

from fastapi import APIRouter
from pydantic import BaseModel

from control_plane.api.deps import Now, Sessions
from control_plane.api.errors import documented
from control_plane.registry import leases

router = APIRouter(prefix="/v1/health", tags=["health"])

VERSION = version("surefoot")


class SchedulerOut(BaseModel):
    holder: str
    epoch: int


class HealthOut(BaseModel):
    status: str
    now: datetime
    last_tick_at: datetime | None
    scheduler: SchedulerOut | None
    version: str


@router.get("", summary="Read the health", responses=documented())
def read_health(sessions: Sessions, now: Now) -> HealthOut:
    """503 when the registry does not answer. `scheduler` is null while nobody holds the lease."""
    with sessions.reading() as session:
        lease = leases.current(session, leases.SCHEDULER)
    return HealthOut(
        status="ok",
        now=now,
        last_tick_at=None if lease is None else lease.last_tick_at,
        scheduler=None
        if lease is None or lease.seconds_left <= 0
        else SchedulerOut(holder=lease.holder, epoch=lease.epoch),
        version=VERSION,
    )
