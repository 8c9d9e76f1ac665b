"""Model versions of a crash run: nothing of them is ever loaded."""

from datetime import datetime

from sqlalchemy.orm import Session

from control_plane.domain.manifest import Manifest
from control_plane.domain.model_version import ModelVersion, Surface, VersionId, ViewType, digest_of
from control_plane.registry import model_versions

VIEW_TYPES = (ViewType("grid"),)


def a_version(surface: Surface, name: str, *, trunk: str) -> ModelVersion:
    return ModelVersion(
        surface=surface,
        trunk=digest_of(trunk.encode()),
        surface_export=digest_of(f"{surface}/{name}".encode()),
        calibrator=digest_of(f"{surface}/{name}/calibrator".encode()),
        feature_signature=digest_of(b"signature"),
    )


def register(session: Session, version: ModelVersion, *, now: datetime) -> VersionId:
    manifest = Manifest(
        version=version,
        model_name="unified",
        view_types=VIEW_TYPES,
        golden=digest_of(b"golden"),
        golden_tolerance=1e-5,
        training_run="crash",
        config={},
    )
    record = model_versions.register(session, manifest, artifact_uri="/models/any", by="ann", now=now)
    return record.version_id
