"""History: every change of every surface, whether its hash chain still holds, and the whole of it as a file."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from control_plane.api.deps import Limit, Sessions, WallNow
from control_plane.api.errors import documented
from control_plane.api.history_schemas import ChangeOut, HistoryOut, VerificationOut
from control_plane.api.schemas import Name
from control_plane.domain.errors import InputsPruned, InvalidMoments
from control_plane.domain.model_version import Surface
from control_plane.guardrails import replay
from control_plane.guardrails.external import EXTERNAL
from control_plane.registry import evidence, history, history_file, surfaces

router = APIRouter(prefix="/v1/history", tags=["history"])

JSON_LINES = "application/x-ndjson"
EXPORT = {"description": "JSON lines; `surefoot history verify --file` checks them without a registry"}


@router.get("", summary="List the changes", responses=documented())
def list_history(sessions: Sessions, surface: Annotated[Name | None, Query()] = None, limit: Limit = 100) -> HistoryOut:
    """The latest first."""
    with sessions.reading() as session:
        found = history.list_history(session, surface=_named(surface), limit=limit)
    return HistoryOut(history=[ChangeOut.of(entry) for entry in found])


@router.get("/verification", summary="Walk the hash chain", responses=documented())
def verify_history(sessions: Sessions) -> VerificationOut:
    """Reads every change there ever was; `problems` is empty if none was altered, inserted or taken out."""
    with sessions.reading() as session:
        problems = history.verify(session)
    return VerificationOut(holds=not problems, problems=problems)


@router.get(
    "/export",
    summary="Download the history",
    response_class=StreamingResponse,
    responses={**documented(404), 200: {**EXPORT, "content": {JSON_LINES: {"schema": {"type": "string"}}}}},
)
def export_history(
    sessions: Sessions, now: WallNow, surface: Annotated[Name | None, Query()] = None
) -> StreamingResponse:
    """Every change with who, why, before, after, the verdict it was made on, what other systems had been asked and
    had answered, and the version of the code. The last line is of kind `end`; without it the file was cut off.
    """
    named = _named(surface)
    with sessions.reading() as session:  # once the answer has begun, nothing can be refused any more
        surfaces.get(session, named) if named is not None else surfaces.list_surfaces(session)

    def lines() -> Iterator[str]:
        with sessions.reading() as session:

            def readings_of(verdict_id: int, verdict: str) -> list[dict[str, object]]:
                return _readings(session, verdict_id, verdict)

            yield from history_file.lines(session, surface=named, at=now, readings_of=readings_of)

    return StreamingResponse(lines(), media_type=JSON_LINES)


def _named(surface: str | None) -> Surface | None:
    return None if surface is None else Surface(surface)


def _readings(session: Session, verdict_id: int, verdict: str) -> list[dict[str, object]]:
    """The queries as they were sent, and what came back; they stand in the judge's inputs alone."""
    if f'"{EXTERNAL}:' not in verdict:
        return []
    try:
        return [asdict(reading) for reading in replay.readings(evidence.inputs(session, verdict_id))]
    except (InputsPruned, InvalidMoments):
        return []
