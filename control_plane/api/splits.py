"""Splits: what runtimes serve by; polled with an ETag, or followed as server-sent events."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Response, status
from fastapi.responses import StreamingResponse

from control_plane import failpoints
from control_plane.api.deps import Feed
from control_plane.api.errors import documented
from control_plane.api.split_feed import SplitFeed
from control_plane.api.surface_schemas import SplitsOut

router = APIRouter(prefix="/v1/splits", tags=["splits"])

NO_BUFFERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # on the way: an event is of use at once


class EventStream(StreamingResponse):
    """Events that were rendered before. FastAPI's own would render each of them again for every reader."""

    media_type = "text/event-stream"


@router.get(
    "",
    summary="Read every split",
    response_model=SplitsOut,
    responses={**documented(), 304: {"description": "Nothing changed and no lease was renewed"}},
)
async def read_splits(
    feed: Feed,
    if_none_match: Annotated[str | None, Header(description="the ETag of the answer last seen")] = None,
) -> Response:
    """The ETag changes with a generation, a renewed lease or a moved artifact, not with the seconds that are left."""
    snapshot = await feed.current()
    headers = {"ETag": f'"{snapshot.etag}"'}
    if snapshot.etag == _known_etag(if_none_match):
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    headers["Cache-Control"] = "no-cache"
    return Response(snapshot.body, headers=headers, media_type="application/json")


@router.get(
    "/stream",
    summary="Follow the splits",
    response_class=EventStream,
    responses=documented(),
)
async def follow_splits(feed: Feed) -> Response:
    """Event `splits`, with the same body as `GET /v1/splits`: on connecting, after each change, after each renewed
    lease. The event id is the ETag. A slow reader skips snapshots and gets the latest."""
    return EventStream(_pushed(feed), headers=NO_BUFFERS)


async def _pushed(feed: SplitFeed) -> AsyncIterator[bytes]:
    async for event in feed.events():
        yield event
        failpoints.reach("split.pushed")


def _known_etag(if_none_match: str | None) -> str | None:
    """The one ETag that a poller sends back; lists of several are answered in full."""
    return None if if_none_match is None else if_none_match.strip().removeprefix("W/").strip('"')
