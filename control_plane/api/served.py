"""What served on a surface at a moment: the question after every incident."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from control_plane.api.deps import LiveSince, Now, Sessions
from control_plane.api.errors import documented
from control_plane.api.schemas import Name
from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface
from control_plane.domain.wall_time import moment
from control_plane.registry.served import Followers, Served, followers, served_at

router = APIRouter(prefix="/v1/surfaces", tags=["history"])

At = Annotated[
    str, Query(max_length=100, description="'2026-11-17 14:05', with an offset or in `zone`; 'tuesday 14:05'; '14:05'")
]
Zone = Annotated[str, Query(max_length=100, description="of a time without an offset, such as Europe/Berlin")]


class ServedOut(BaseModel):
    """What was ordered, and what is known of the runtimes that followed.

    `until` is null while it serves still. `acknowledged_at`: when nearly all live runtimes had said that they serve it,
    and `was_acknowledged`, whether that was so at the moment asked for; null where it is not known. `live_runtimes` and
    `serving_runtimes` are those at present, null of what is over.
    """

    surface: str
    at: datetime
    generation: int
    since: datetime
    until: datetime | None
    stable: str
    candidate: str | None
    weight_bp: int
    shadow: str | None
    command: str
    by: str
    reason: str
    rollout_id: int | None
    verdict_id: int | None
    acknowledged_at: datetime | None
    was_acknowledged: bool | None
    live_runtimes: int | None
    serving_runtimes: int | None

    @classmethod
    def of(cls, served: Served, followed: Followers | None) -> "ServedOut":
        return cls(
            **asdict(served),
            was_acknowledged=served.was_acknowledged,
            live_runtimes=None if followed is None else followed.live,
            serving_runtimes=None if followed is None else followed.serving,
        )


@router.get("/{surface}/served", summary="What served at a moment", responses=documented(404))
def read_served(
    surface: Name, at: At, sessions: Sessions, now: Now, live_since: LiveSince, zone: Zone = "UTC"
) -> ServedOut:
    """Stable, candidate and weight, since when and until when, who had set it and why."""
    asked = moment(at, zone, now=now)
    if asked > now:
        raise InvalidField("at", "lies in the future")
    with sessions.reading() as session:
        served = served_at(session, Surface(surface), asked)
        return ServedOut.of(served, followers(session, served, live_since=live_since))
