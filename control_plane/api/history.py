"""History: every change of every surface, and whether its hash chain still holds."""

from typing import Annotated

from fastapi import APIRouter, Query

from control_plane.api.deps import Limit, Sessions
from control_plane.api.errors import documented
from control_plane.api.schemas import ChangeOut, HistoryOut, Name, VerificationOut
from control_plane.domain.model_version import Surface
from control_plane.registry import history

router = APIRouter(prefix="/v1/history", tags=["history"])


@router.get("", summary="List the changes", responses=documented())
def list_history(sessions: Sessions, surface: Annotated[Name | None, Query()] = None, limit: Limit = 100) -> HistoryOut:
    """The latest first."""
    named = None if surface is None else Surface(surface)
    with sessions.reading() as session:
        found = history.list_history(session, surface=named, limit=limit)
    return HistoryOut(history=[ChangeOut.of(entry) for entry in found])


@router.get("/verification", summary="Walk the hash chain", responses=documented())
def verify_history(sessions: Sessions) -> VerificationOut:
    """Reads every change there ever was; `problems` is empty if none was altered, inserted or taken out."""
    with sessions.reading() as session:
        problems = history.verify(session)
    return VerificationOut(holds=not problems, problems=problems)
