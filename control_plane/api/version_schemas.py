"""Model versions, as they cross HTTP."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from control_plane.api import patterns
from control_plane.api.schemas import In
from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Part
from control_plane.registry.model_versions import VersionRecord


class VersionIn(In):
    artifact_uri: Annotated[str, StringConstraints(min_length=1, max_length=4_096, pattern=patterns.SOME_NO_NUL)]

    def folder(self) -> Path:
        path = Path(self.artifact_uri)
        if not path.is_absolute():
            raise InvalidField("artifact_uri", "must be an absolute path: every runtime reads it from where it runs")
        return path


class VersionOut(BaseModel):
    version_id: str
    surface: str
    model_name: str
    view_types: list[str]
    digest: str
    parts: dict[str, str]
    training_run: str
    artifact_uri: str
    registered_at: datetime
    registered_by: str
    is_aborted: bool
    quarantined_parts: list[str]

    @classmethod
    def of(cls, record: VersionRecord) -> "VersionOut":
        version = record.manifest.version
        return cls(
            version_id=record.version_id,
            surface=version.surface,
            model_name=record.manifest.model_name,
            view_types=list(record.manifest.view_types),
            digest=version.digest,
            parts={part.value: version.digest_of_part(part) for part in Part},
            training_run=record.manifest.training_run,
            artifact_uri=record.artifact_uri,
            registered_at=record.registered_at,
            registered_by=record.registered_by,
            is_aborted=record.is_aborted,
            quarantined_parts=list(record.quarantined_parts),
        )


class VersionEntryOut(BaseModel):
    """One entry of a version's own history: how it was registered, and where it was read from since."""

    model_config = ConfigDict(from_attributes=True)

    version_id: str
    seq: int
    at: datetime
    by: str
    command: str
    artifact_uri: str
    manifest_digest: str
    code_version: str
    previous_hash: str
    hash: str


class VersionHistoryOut(BaseModel):
    history: list[VersionEntryOut]


class VersionsOut(BaseModel):
    versions: list[VersionOut]
