"""Model versions: registering an artifact folder, and reading what is registered."""

from typing import Annotated

from fastapi import APIRouter, Query, Response, status
from sqlalchemy.orm import Session

from control_plane.api.deps import Now, Operator, Sessions
from control_plane.api.errors import documented, documented_write
from control_plane.api.idempotency import Once, answer
from control_plane.api.schemas import Name, VersionName
from control_plane.api.version_schemas import VersionEntryOut, VersionHistoryOut, VersionIn, VersionOut, VersionsOut
from control_plane.domain.model_version import Surface, VersionId
from control_plane.registry import artifacts, model_versions, version_history
from control_plane.registry.idempotency import Answer

router = APIRouter(prefix="/v1/versions", tags=["versions"])


@router.get("", summary="List the versions", responses=documented(404))
def list_versions(sessions: Sessions, surface: Annotated[Name | None, Query()] = None) -> VersionsOut:
    with sessions.reading() as session:
        found = model_versions.list_versions(session, surface=None if surface is None else Surface(surface))
        return VersionsOut(versions=[VersionOut.of(record) for record in found])


@router.post(
    "",
    summary="Register a version",
    status_code=status.HTTP_201_CREATED,
    response_model=VersionOut,
    responses=documented_write(404, 409, 423),
)
def register(body: VersionIn, once: Once, operator: Operator, now: Now) -> Response:
    """Reads the artifact folder, and refuses it if any file's bytes are not what its manifest promises.

    Registering the same bytes again answers as the first time did.
    """
    if (replayed := once.replay()) is not None:  # the folder may be gone since
        return replayed
    manifest = artifacts.verify_artifact(body.folder())

    def register_it(session: Session) -> Answer:
        record = model_versions.register(session, manifest, artifact_uri=body.artifact_uri, by=operator, now=now)
        return answer(VersionOut.of(record), status=status.HTTP_201_CREATED)

    return once(register_it)


@router.get("/{version_id}", summary="Read a version", responses=documented(404))
def read_version(version_id: VersionName, sessions: Sessions) -> VersionOut:
    with sessions.reading() as session:
        return VersionOut.of(model_versions.get(session, VersionId(version_id)))


@router.get("/{version_id}/history", summary="Read a version's history", responses=documented(404))
def read_history(version_id: VersionName, sessions: Sessions) -> VersionHistoryOut:
    """Who registered it, and who moved it since: a chain of hashes of its own, the first entry first."""
    with sessions.reading() as session:
        known = model_versions.get(session, VersionId(version_id)).version_id
        found = version_history.list_entries(session, known)
        return VersionHistoryOut(history=[VersionEntryOut.model_validate(entry) for entry in found])
