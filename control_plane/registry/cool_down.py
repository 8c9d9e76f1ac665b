"""What was rolled back a short while ago, and may not start again at once under another version's name."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from control_plane.domain.model_version import Digest, Part, VersionId
from control_plane.domain.rollout import Command, Phase, Rollout
from control_plane.registry import model_versions, quarantine, rollout_rows
from control_plane.registry.tables import HistoryRow, QuarantineRow, RolloutRow

COOLING_PARTS = (Part.TRUNK, Part.SURFACE_EXPORT, Part.CALIBRATOR)  # a signature is a contract, it does no harm
HEATING = (Command.ROLL_BACK.value, quarantine.COMMAND)  # an abort says nothing against the candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class Cooling:
    digest: Digest
    until: datetime


def cooling(session: Session, rollout: Rollout, *, now: datetime) -> Cooling | None:
    """The part of the candidate that was rolled back last, on any surface, if its cool-down lasts still.

    Only parts count that differ from stable's, in the rollout that was rolled back as in this one. Where the part to
    blame was quarantined with it, the others are cleared. The plan of the rollout that was rolled back says how long.
    """
    own = _own_parts(session, rollout.candidate, rollout.stable)
    found = [
        Cooling(digest=min(shared), until=ended.entered_at + timedelta(seconds=ended.plan.cool_down_seconds))
        for ended in _rolled_back(session, own)
        if (shared := own & _suspects(session, ended))
    ]
    latest = max(found, key=lambda cooling: cooling.until, default=None)
    return latest if latest is not None and now < latest.until else None


def _rolled_back(session: Session, digests: frozenset[Digest]) -> list[Rollout]:
    """Rollouts that had started, of candidates with one of these parts."""
    was_rolled_back = exists().where(
        HistoryRow.rollout_id == RolloutRow.rollout_id,
        HistoryRow.surface == RolloutRow.surface,
        HistoryRow.command.in_(HEATING),
    )
    rows = session.scalars(
        select(RolloutRow)
        .where(
            RolloutRow.phase == Phase.ROLLED_BACK.value,
            RolloutRow.started_at.is_not(None),
            RolloutRow.candidate.in_(model_versions.versions_with(session, digests)),
            was_rolled_back,
        )
        .execution_options(populate_existing=True)
    )
    return [rollout_rows.rollout_of(row) for row in rows]


def _suspects(session: Session, ended: Rollout) -> frozenset[Digest]:
    own = _own_parts(session, ended.candidate, ended.stable)
    blamed = session.scalars(
        select(QuarantineRow.digest).where(QuarantineRow.digest.in_(own), QuarantineRow.at == ended.entered_at)
    )
    return frozenset(Digest(digest) for digest in blamed) or own


def _own_parts(session: Session, candidate: VersionId, stable: VersionId) -> frozenset[Digest]:
    one, other = (model_versions.get(session, version_id).manifest.version for version_id in (candidate, stable))
    return frozenset(one.digest_of_part(part) for part in COOLING_PARTS) - frozenset(
        other.digest_of_part(part) for part in COOLING_PARTS
    )
