"""Events: exposures, shadow scores and engagements in, each row checked, the bad ones counted and told."""

from enum import StrEnum
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, HTTPException, Query, Request, status

from control_plane.api.deps import Now, Operator, Parts, parts_of
from control_plane.api.errors import documented_write
from control_plane.api.event_schemas import ReceiptOut
from control_plane.domain.errors import InvalidField
from control_plane.domain.events import EventKind
from control_plane.evidence.collect import Receipt, collect
from control_plane.registry import model_versions, surfaces

router = APIRouter(prefix="/v1/events", tags=["events"])


class EventFormat(StrEnum):
    ARROW = "application/vnd.apache.arrow.stream"
    NDJSON = "application/x-ndjson"


BODY = {
    "required": True,
    "content": {
        EventFormat.ARROW: {"schema": {"type": "string", "format": "binary"}},
        EventFormat.NDJSON: {"schema": {"type": "string"}},
    },
}


@router.post(
    "",
    summary="Report events",
    responses=documented_write(415, 507),
    openapi_extra={"requestBody": BODY},
)
async def report_events(
    request: Request,
    operator: Operator,
    now: Now,
    kind: Annotated[EventKind | None, Query(description="of an Arrow stream; NDJSON rows carry their own")] = None,
    content_type: Annotated[str, Header(include_in_schema=False)] = "",
) -> ReceiptOut:
    """Rows that break a rule are refused one by one and counted, the rest kept. A body that is not what it says it is
    is refused whole. Sending a batch again is harmless: each event counts once.

    Answers 507 when the log's disk is full; then nothing of the batch was kept.
    """
    event_format = _format_of(content_type)
    if event_format is EventFormat.ARROW and kind is None:
        raise InvalidField("kind", f"an Arrow stream needs one of {', '.join(EventKind)}")
    body = await request.body()
    arrow_kind = kind if event_format is EventFormat.ARROW else None
    parts = parts_of(request)
    now_ms = round(now.timestamp() * 1_000)
    receipt = await to_thread.run_sync(_collect, parts, body, arrow_kind, now_ms, limiter=parts.event_lane)
    counted = parts.instruments.events
    counted.labels("accepted").inc(receipt.accepted)
    counted.labels("refused").inc(receipt.refused)
    return ReceiptOut.model_validate(receipt)


def _format_of(content_type: str) -> EventFormat:
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in tuple(EventFormat):
        expected = " or ".join(EventFormat)
        raise HTTPException(status.HTTP_415_UNSUPPORTED_MEDIA_TYPE, f"Content-Type must be {expected}")
    return EventFormat(media_type)


def _collect(parts: Parts, body: bytes, kind: EventKind | None, now_ms: int) -> Receipt:
    """Off the event loop: a large batch takes a second."""
    with parts.sessions.reading() as session:
        view_types = {str(state.surface): state.view_types for state in surfaces.list_surfaces(session)}
        known = model_versions.known_version_ids(session)
    return collect(parts.event_log, body, kind, now_ms=now_ms, surfaces=view_types, known_versions=known)
