"""Model versions: registering an artifact folder, and reading what is registered."""

from typing import Annotated

from fastapi import APIRouter, Query, status

from control_plane.api.deps import Now, Operator, Sessions
from control_plane.api.errors import documented, documented_write
from control_plane.api.schemas import Name, VersionIn, VersionName, VersionOut, VersionsOut
from control_plane.domain.model_version import Surface, VersionId
from control_plane.registry import artifacts, model_versions

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
    responses=documented_write(404, 409, 423),
)
def register(body: VersionIn, sessions: Sessions, operator: Operator, now: Now) -> VersionOut:
    """Reads the artifact folder, and refuses it if any file's bytes are not what its manifest promises.

    Registering the same bytes again answers as the first time did.
    """
    manifest = artifacts.verify_artifact(body.folder())
    with sessions.writing() as session:
        record = model_versions.register(session, manifest, artifact_uri=body.artifact_uri, by=operator, now=now)
    return VersionOut.of(record)


@router.get("/{version_id}", summary="Read a version", responses=documented(404))
def read_version(version_id: VersionName, sessions: Sessions) -> VersionOut:
    with sessions.reading() as session:
        return VersionOut.of(model_versions.get(session, VersionId(version_id)))
