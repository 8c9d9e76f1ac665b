"""Which versions exist, and which of them may serve."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, bindparam, exists, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from control_plane.domain.errors import AlreadyExists, InvalidManifest, Quarantined, TakenBack, UnknownName
from control_plane.domain.manifest import Manifest, check_calibrator
from control_plane.domain.model_version import Digest, ModelVersion, Part, Surface, VersionId
from control_plane.registry import surfaces, version_history
from control_plane.registry.tables import ModelVersionRow, QuarantineRow, SurfaceRow

PART_COLUMNS = {
    Part.TRUNK: ModelVersionRow.trunk,
    Part.SURFACE_EXPORT: ModelVersionRow.surface_export,
    Part.CALIBRATOR: ModelVersionRow.calibrator,
    Part.FEATURE_SIGNATURE: ModelVersionRow.feature_signature,
}


def _before_registering() -> Select[Sequence[str], str | None, str | None, str | None]:
    """Everything a registration asks, in one statement, a row for each quarantined part: each costs as much as all."""
    same_name = (ModelVersionRow.surface == bindparam("surface"), ModelVersionRow.model_name == bindparam("model_name"))
    signature = select(ModelVersionRow.feature_signature).where(*same_name).limit(1).scalar_subquery()
    same_version = ModelVersionRow.version_id == bindparam("version_id")
    known = select(ModelVersionRow.version_id).where(same_version).scalar_subquery()
    is_a_part = or_(*(QuarantineRow.digest == bindparam(part.value) for part in Part))
    return (
        select(SurfaceRow.view_types, signature, known, QuarantineRow.digest)
        .outerjoin(QuarantineRow, and_(is_a_part, QuarantineRow.released_at.is_(None)))
        .where(SurfaceRow.surface == bindparam("surface"))
    )


BEFORE_REGISTERING = _before_registering()
NEW_ROW = insert(ModelVersionRow.__table__)  # type: ignore[arg-type]  # a mapped class's table is typed as FromClause


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionRecord:
    """`quarantined_parts` names those of its parts whose digests may serve nowhere now."""

    version_id: VersionId
    manifest: Manifest
    artifact_uri: str
    registered_at: datetime
    registered_by: str
    is_aborted: bool
    quarantined_parts: tuple[str, ...]


def register(session: Session, manifest: Manifest, *, artifact_uri: str, by: str, now: datetime) -> VersionRecord:
    """Store a version; the same bytes again are the same version, and move where it is read from.

    Raises:
        UnknownName: no such surface.
        InvalidManifest: a view type of the surface is missing, or the inputs changed under the same model name.
        CalibratorMismatch: its calibrator was fitted on other weights.
        AlreadyExists: the same parts with another golden check or config.
    """
    _check_alone(manifest)
    found = _found(session, manifest)
    _check_fits(manifest, found)
    if found.is_known:
        known = _row(session, manifest.version.version_id, is_to_change=True)
        _take_over(known, manifest)
        _move(session, known, artifact_uri, by=by, now=now)
        return _record(known, found.quarantined)
    record = VersionRecord(
        version_id=manifest.version.version_id,
        manifest=manifest,
        artifact_uri=artifact_uri,
        registered_at=now,
        registered_by=by,
        is_aborted=False,
        quarantined_parts=_quarantined_parts(manifest, found.quarantined),
    )
    columns = _columns(record)
    try:
        session.execute(NEW_ROW, columns)
    except IntegrityError as error:  # PostgreSQL: registered by someone else in this very moment
        raise AlreadyExists("version", manifest.version.version_id) from error
    version_history.begin(
        session, record.version_id, manifest=columns["manifest"], artifact_uri=artifact_uri, by=by, now=now
    )
    return record


def get(session: Session, version_id: VersionId) -> VersionRecord:
    row = _row(session, version_id)
    return _record(row, quarantined_among(session, [row]))


def list_versions(session: Session, surface: Surface | None = None) -> list[VersionRecord]:
    """All versions, the latest registered first."""
    query = select(ModelVersionRow).order_by(ModelVersionRow.registered_at.desc(), ModelVersionRow.version_id)
    if surface is not None:
        query = query.where(ModelVersionRow.surface == surface)
    rows = session.scalars(query.execution_options(populate_existing=True)).all()
    quarantined = quarantined_among(session, rows)
    return [_record(row, quarantined) for row in rows]


def artifact_uris(session: Session, version_ids: Collection[VersionId]) -> dict[VersionId, str]:
    """Where versions are read from now; registering one again moves it."""
    query = select(ModelVersionRow.version_id, ModelVersionRow.artifact_uri)
    found = session.execute(query.where(ModelVersionRow.version_id.in_(version_ids)))
    return {VersionId(version_id): uri for version_id, uri in found}


def changed_parts(session: Session, *, before: VersionId, after: VersionId) -> tuple[Part, ...]:
    """What a rollout from one version to another changes; both are of one surface."""
    query = select(ModelVersionRow.version_id, *PART_COLUMNS.values())
    found = {row[0]: row for row in session.execute(query.where(ModelVersionRow.version_id.in_([before, after])))}
    pairs = zip(PART_COLUMNS, found[before][1:], found[after][1:], strict=True)
    return tuple(part for part, was, becomes in pairs if was != becomes)


def proven_parts(session: Session, version: ModelVersion) -> frozenset[Digest]:
    """Those of its digests that what is stable on some surface has, too."""
    stables = select(SurfaceRow.stable)
    shared = [
        exists().where(column == version.digest_of_part(part), ModelVersionRow.version_id.in_(stables))
        for part, column in PART_COLUMNS.items()
    ]
    found = session.execute(select(*shared)).one()
    return frozenset(
        version.digest_of_part(part) for part, is_shared in zip(PART_COLUMNS, found, strict=True) if is_shared
    )


def known_version_ids(session: Session) -> frozenset[VersionId]:
    return frozenset(VersionId(version_id) for version_id in session.scalars(select(ModelVersionRow.version_id)))


def check_may_serve(session: Session, version_id: VersionId, surface: Surface) -> None:
    """Refuse a version of another surface, one with a quarantined part, and one that was aborted."""
    row = _row(session, version_id)
    if row.surface != surface:
        raise UnknownName(f"version of {surface}", version_id, known=_ids_of(session, surface))
    for digest, reason in quarantined_among(session, [row]).items():
        raise Quarantined(digest, reason=reason)
    if row.aborted_at is not None:
        raise TakenBack(version_id, day=f"{row.aborted_at:%Y-%m-%d}", reason=row.aborted_because)


def mark_aborted(session: Session, version_id: VersionId, *, now: datetime, because: str) -> None:
    session.execute(
        update(ModelVersionRow)
        .where(ModelVersionRow.version_id == version_id, ModelVersionRow.aborted_at.is_(None))
        .values(aborted_at=now, aborted_because=because)
        .execution_options(synchronize_session=False)
    )


def versions_with(session: Session, digests: Collection[Digest]) -> frozenset[VersionId]:
    """The versions, on any surface, that one of these digests is a part of."""
    found = session.scalars(
        select(ModelVersionRow.version_id).where(or_(*(column.in_(digests) for column in PART_COLUMNS.values())))
    )
    return frozenset(VersionId(version_id) for version_id in found)


def quarantined_among(session: Session, rows: Sequence[ModelVersionRow]) -> dict[str, str]:
    """Quarantined digests and their reasons, of those that these versions are made of."""
    digests = {getattr(row, part) for row in rows for part in Part}
    if not digests:
        return {}
    query = select(QuarantineRow.digest, QuarantineRow.reason).where(QuarantineRow.released_at.is_(None))
    if len(rows) == 1:
        query = query.where(QuarantineRow.digest.in_(digests))
    return {found.digest: found.reason for found in session.execute(query) if found.digest in digests}


def _check_alone(manifest: Manifest) -> None:
    check_calibrator(manifest)
    if not manifest.model_name.isprintable():  # no database keeps a NUL or half a character
        raise InvalidManifest("model_name", f"must be printable, not {manifest.model_name!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What a registration depends on; `feature_signature` is that of the model name on the surface, if it has one."""

    view_types: Sequence[str]
    feature_signature: str | None
    is_known: bool
    quarantined: frozenset[str]


def _found(session: Session, manifest: Manifest) -> _Found:
    version = manifest.version
    asked = {"surface": version.surface, "model_name": manifest.model_name, "version_id": version.version_id}
    rows = session.execute(
        BEFORE_REGISTERING, asked | {part.value: version.digest_of_part(part) for part in Part}
    ).all()
    if not rows:
        surfaces.get(session, version.surface)  # says that there is no such surface
    view_types, signature, known, _ = rows[0]
    return _Found(
        view_types=view_types,
        feature_signature=signature,
        is_known=known is not None,
        quarantined=frozenset(digest for *_, digest in rows if digest is not None),
    )


def _check_fits(manifest: Manifest, found: _Found) -> None:
    version = manifest.version
    missing = [view_type for view_type in found.view_types if view_type not in manifest.view_types]
    if missing:
        exported = ", ".join(manifest.view_types)
        raise InvalidManifest(
            "view_types", f"{version.surface} also serves {', '.join(missing)}; the export has {exported}"
        )
    if found.feature_signature not in (None, version.feature_signature):
        raise InvalidManifest(
            "digests.feature_signature",
            f"{manifest.model_name} on {version.surface} takes inputs {found.feature_signature}; "
            "others need another model_name",
        )


def _take_over(known: ModelVersionRow, manifest: Manifest) -> None:
    """The same manifest, or the one of before with the calibrator's tie added; what was told once stays told."""
    told = Manifest.from_json(known.manifest)
    one, other = (replace(each, fitted_on=None, serving=None).to_json() for each in (told, manifest))
    if one != other:  # how fast it was where it was exported is no part of what it is
        raise AlreadyExists("version", known.version_id)
    if told.fitted_on is None:
        known.manifest = manifest.to_json()


def _move(session: Session, known: ModelVersionRow, artifact_uri: str, *, by: str, now: datetime) -> None:
    known.artifact_uri = artifact_uri
    if not session.is_modified(known):
        return
    session.flush()
    version_history.go_on(
        session, VersionId(known.version_id), manifest=known.manifest, artifact_uri=artifact_uri, by=by, now=now
    )


def _columns(record: VersionRecord) -> dict[str, Any]:
    version = record.manifest.version
    return {
        "version_id": record.version_id,
        "surface": version.surface,
        "model_name": record.manifest.model_name,
        **{part.value: version.digest_of_part(part) for part in Part},
        "manifest": record.manifest.to_json(),
        "artifact_uri": record.artifact_uri,
        "registered_at": record.registered_at,
        "registered_by": record.registered_by,
        "aborted_because": "",
    }


def _row(session: Session, version_id: VersionId, *, is_to_change: bool = False) -> ModelVersionRow:
    row = session.get(ModelVersionRow, version_id, populate_existing=True, with_for_update=is_to_change)
    if row is None:
        raise UnknownName("version", version_id)
    return row


def _ids_of(session: Session, surface: Surface) -> Sequence[str]:
    latest = select(ModelVersionRow.version_id).where(ModelVersionRow.surface == surface)
    return session.scalars(latest.order_by(ModelVersionRow.registered_at.desc()).limit(5)).all()


def _record(row: ModelVersionRow, quarantined: Collection[str]) -> VersionRecord:
    manifest = Manifest.from_json(row.manifest)
    return VersionRecord(
        version_id=VersionId(row.version_id),
        manifest=manifest,
        artifact_uri=row.artifact_uri,
        registered_at=row.registered_at,
        registered_by=row.registered_by,
        is_aborted=row.aborted_at is not None,
        quarantined_parts=_quarantined_parts(manifest, quarantined),
    )


def _quarantined_parts(manifest: Manifest, quarantined: Collection[str]) -> tuple[str, ...]:
    return tuple(part.value for part in Part if manifest.version.digest_of_part(part) in quarantined)
