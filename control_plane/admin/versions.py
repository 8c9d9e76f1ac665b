"""Model versions: what each is made of, where it serves, and which parts are shared or quarantined."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from control_plane.admin.history import withdrawn
from control_plane.admin.rollout import HISTORY_READ
from control_plane.admin.wording import Chip
from control_plane.domain.model_version import Digest, Part, Surface, VersionId
from control_plane.domain.rollout import Rollout
from control_plane.registry import history, model_versions, rollouts, surfaces
from control_plane.registry.model_versions import VersionRecord
from control_plane.registry.surfaces import SurfaceState

PART_NAMES = {
    Part.TRUNK: "Trunk",
    Part.SURFACE_EXPORT: "Surface export",
    Part.CALIBRATOR: "Calibrator",
    Part.FEATURE_SIGNATURE: "Feature signature",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionLine:
    record: VersionRecord
    chips: tuple[Chip, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PartRow:
    """One part of a version and the other versions that carry the same bytes."""

    name: str
    digest: str
    quarantine_reason: str | None
    shared_with: tuple[VersionRecord, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionPage:
    record: VersionRecord
    chips: tuple[Chip, ...]
    parts: tuple[PartRow, ...]
    rollouts: tuple[Rollout, ...]
    withdrawn: frozenset[int]  # of the rollouts


def load_versions(session: Session, surface: Surface | None) -> tuple[VersionLine, ...]:
    """The latest registered first."""
    states = surfaces.list_surfaces(session)
    records = model_versions.list_versions(session, surface)
    return tuple(VersionLine(record=record, chips=_chips(record, states)) for record in records)


def load_version(session: Session, version_id: VersionId) -> VersionPage:
    record = model_versions.get(session, version_id)
    everything = model_versions.list_versions(session)
    reasons = {found.digest: found.reason for found in rollouts.list_quarantined(session)}
    took_part = [found for found in rollouts.list_rollouts(session) if version_id in (found.stable, found.candidate)]
    return VersionPage(
        record=record,
        chips=_chips(record, surfaces.list_surfaces(session)),
        parts=tuple(_part_row(part, record, everything, reasons.get(_digest(record, part))) for part in Part),
        rollouts=tuple(sorted(took_part, key=lambda found: found.rollout_id, reverse=True)),
        withdrawn=withdrawn(history.list_history(session, record.manifest.version.surface, limit=HISTORY_READ)),
    )


def _part_row(part: Part, record: VersionRecord, everything: Sequence[VersionRecord], reason: str | None) -> PartRow:
    digest = _digest(record, part)
    return PartRow(
        name=PART_NAMES[part],
        digest=digest,
        quarantine_reason=reason,
        shared_with=tuple(
            other for other in everything if other.version_id != record.version_id and _digest(other, part) == digest
        ),
    )


def _digest(record: VersionRecord, part: Part) -> Digest:
    return record.manifest.version.digest_of_part(part)


def _chips(record: VersionRecord, states: Sequence[SurfaceState]) -> tuple[Chip, ...]:
    roles = [
        Chip(words=words, colour=colour, icon=icon)
        for state in states
        for words, colour, icon, version_id in (
            ("stable", "good", "check", state.stable),
            ("candidate", "info", "ramp", state.candidate),
            ("shadow", "info", "shadow", state.shadow),
            ("last proven", "neutral", "back", state.last_proven),
        )
        if version_id == record.version_id
    ]
    if record.quarantined_parts:
        roles.append(Chip(words="quarantined", colour="bad", icon="lock"))
    if record.is_aborted:
        roles.append(Chip(words="aborted", colour="bad", icon="cross"))
    return tuple(roles)
