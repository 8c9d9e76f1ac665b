"""Quarantine: digests that may serve nowhere, and what leaves with them."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, status
from sqlalchemy.orm import Session

from control_plane.api.deps import Now, Operator, Sessions
from control_plane.api.errors import documented, documented_write
from control_plane.api.idempotency import Once, answer
from control_plane.api.quarantine_schemas import MovedOut, QuarantinedOut, QuarantineIn, QuarantineOut
from control_plane.api.schemas import DigestText, GivenReason
from control_plane.domain.model_version import Digest
from control_plane.registry import rollouts
from control_plane.registry.idempotency import Answer

router = APIRouter(prefix="/v1/quarantine", tags=["quarantine"])


@router.get("", summary="List the quarantined digests", responses=documented())
def list_quarantined(sessions: Sessions) -> QuarantineOut:
    with sessions.reading() as session:
        found = rollouts.list_quarantined(session)
    return QuarantineOut(quarantined=[QuarantinedOut.model_validate(entry, from_attributes=True) for entry in found])


@router.post(
    "",
    summary="Quarantine a digest",
    status_code=status.HTTP_201_CREATED,
    response_model=MovedOut,
    responses=documented_write(404, 409),
)
def quarantine(body: QuarantineIn, once: Once, operator: Operator, now: Now) -> Response:
    """Every surface that uses it moves off it in one transaction, or none does: 409 if one has nowhere to go."""
    digest = Digest(body.digest)

    def confine(session: Session) -> Answer:
        moved = rollouts.quarantine(session, digest, by=operator, reason=body.reason, now=now)
        told = MovedOut(digest=digest, surfaces=[str(surface) for surface in moved])
        return answer(told, status=status.HTTP_201_CREATED)

    return once(confine)


@router.delete(
    "/{digest}",
    summary="Let a digest out of quarantine",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=documented_write(404),
)
def release(
    digest: Annotated[DigestText, Path()],
    reason: Annotated[GivenReason, Query()],
    once: Once,
    operator: Operator,
    now: Now,
) -> Response:
    """It may be rolled out again; nothing goes back to it by itself."""

    def let_out(session: Session) -> Answer:
        rollouts.release_quarantine(session, Digest(digest), by=operator, reason=reason, now=now)
        return answer(None, status=status.HTTP_204_NO_CONTENT)

    return once(let_out)
