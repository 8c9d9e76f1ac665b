"""What serves on each surface. Reads only; `rollouts` is the writer, `served` tells what was earlier."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from control_plane.domain.errors import UnknownName
from control_plane.domain.model_version import Surface, VersionId, ViewType
from control_plane.domain.rollout import RolloutId
from control_plane.domain.split import Split
from control_plane.registry.tables import SplitRow, SurfaceRow


@dataclass(frozen=True, kw_only=True, slots=True)
class SurfaceState:
    """A surface's row of truth. `stable` is None only before the first adoption, at generation 0."""

    surface: Surface
    view_types: tuple[ViewType, ...]
    generation: int
    stable: VersionId | None
    candidate: VersionId | None
    candidate_bp: int
    shadow: VersionId | None
    shadow_sample_bp: int
    last_proven: VersionId | None
    rollout_id: RolloutId | None
    salt: str
    unwatched_seconds: float | None
    lease_renewed_at: datetime | None
    changed_at: datetime

    def split(self, *, now: datetime) -> Split | None:
        """The snapshot that runtimes may hold from `now` on; None before the first adoption."""
        if self.stable is None:
            return None
        return Split(
            surface=self.surface,
            generation=self.generation,
            salt=self.salt,
            stable=self.stable,
            candidate=self.candidate,
            candidate_bp=self.candidate_bp,
            shadow=self.shadow,
            shadow_sample_bp=self.shadow_sample_bp,
            unwatched_seconds_left=self._unwatched_seconds_left(now),
        )

    def home_since(self, *, now: datetime) -> datetime | None:
        """Since when runtimes have had an unwatched candidate at home; None while it is watched or has no weight."""
        if self._unwatched_seconds_left(now) != 0:
            return None
        if self.lease_renewed_at is None or self.unwatched_seconds is None:
            return self.changed_at
        return self.lease_renewed_at + timedelta(seconds=self.unwatched_seconds)

    def without_candidate(self) -> "SurfaceState":
        """All traffic on stable, and no rollout."""
        return replace(
            self,
            candidate=None,
            candidate_bp=0,
            shadow=None,
            shadow_sample_bp=0,
            rollout_id=None,
            unwatched_seconds=None,
            lease_renewed_at=None,
        )

    def _unwatched_seconds_left(self, now: datetime) -> float | None:
        if self.candidate_bp == 0 or self.unwatched_seconds is None:
            return None
        if self.lease_renewed_at is None:
            return 0.0
        unwatched_for = max(0.0, (now - self.lease_renewed_at).total_seconds())
        return max(0.0, self.unwatched_seconds - unwatched_for)


def get(session: Session, surface: Surface) -> SurfaceState:
    row = session.scalar(_fresh().where(SurfaceRow.surface == surface))
    if row is None:
        raise UnknownName("surface", surface, known=_names(session))
    return state_of(row)


def list_surfaces(session: Session) -> list[SurfaceState]:
    return [state_of(row) for row in session.scalars(_fresh().order_by(SurfaceRow.surface))]


def splits(session: Session, *, now: datetime) -> dict[Surface, Split]:
    """What serves on each surface that has a stable version."""
    found = {state.surface: state.split(now=now) for state in list_surfaces(session)}
    return {surface: split for surface, split in found.items() if split is not None}


def shares_since(session: Session, surface: Surface, generation: int) -> dict[int, int]:
    """The candidate's weight in every generation from `generation` on."""
    rows = session.execute(
        select(SplitRow.generation, SplitRow.candidate_bp)
        .where(SplitRow.surface == surface, SplitRow.generation >= generation)
        .order_by(SplitRow.generation)
    )
    return {row.generation: row.candidate_bp for row in rows}


def state_of(row: SurfaceRow) -> SurfaceState:
    return SurfaceState(
        surface=Surface(row.surface),
        view_types=tuple(ViewType(view_type) for view_type in row.view_types),
        generation=row.generation,
        stable=_version(row.stable),
        candidate=_version(row.candidate),
        candidate_bp=row.candidate_bp,
        shadow=_version(row.shadow),
        shadow_sample_bp=row.shadow_sample_bp,
        last_proven=_version(row.last_proven),
        rollout_id=None if row.rollout_id is None else RolloutId(row.rollout_id),
        salt=row.salt,
        unwatched_seconds=row.unwatched_seconds,
        lease_renewed_at=row.lease_renewed_at,
        changed_at=row.changed_at,
    )


def _fresh() -> Select[SurfaceRow]:
    """Read from the database even what the session has seen: the writer updates rows behind its back."""
    return select(SurfaceRow).execution_options(populate_existing=True)


def _names(session: Session) -> Sequence[str]:
    return session.scalars(select(SurfaceRow.surface).order_by(SurfaceRow.surface)).all()


def _version(value: str | None) -> VersionId | None:
    return None if value is None else VersionId(value)
