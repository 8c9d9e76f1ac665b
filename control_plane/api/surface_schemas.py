"""Surfaces and their splits, as they cross HTTP."""

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, Field

from control_plane.api.schemas import MAX_ENTRIES, Generation, GivenReason, In, Name, Reason, VersionName
from control_plane.domain.model_version import VersionId
from control_plane.domain.split import Split
from control_plane.registry.surfaces import SurfaceState


class SurfaceIn(In):
    surface: Name
    view_types: list[Name] = Field(min_length=1, max_length=MAX_ENTRIES)


class AdoptIn(In):
    version_id: VersionName
    reason: GivenReason
    seen_generation: Generation | None = None


class RollBackIn(In):
    reason: Reason = ""


class SurfaceRollBackIn(RollBackIn):
    seen_generation: Generation | None = Field(
        None, description="the present one: stable goes even if users were taken home just now; others change nothing"
    )


class SurfaceOut(BaseModel):
    """One surface's row of truth."""

    surface: str
    view_types: list[str]
    generation: int
    stable: str | None
    candidate: str | None
    candidate_bp: int
    shadow: str | None
    shadow_sample_bp: int
    last_proven: str | None
    rollout_id: int | None
    unwatched_seconds: float | None
    lease_renewed_at: datetime | None
    changed_at: datetime

    @classmethod
    def of(cls, state: SurfaceState) -> "SurfaceOut":
        return cls.model_validate(state, from_attributes=True)


class SurfacesOut(BaseModel):
    surfaces: list[SurfaceOut]


class SplitOut(BaseModel):
    """What serves on one surface; `unwatched_seconds_left` counts down on the reader's monotonic clock."""

    surface: str
    generation: int
    salt: str
    stable: str
    candidate: str | None
    weights_bp: dict[str, int]
    shadow: str | None
    shadow_sample_bp: int
    unwatched_seconds_left: float | None


class SplitsOut(BaseModel):
    """Every surface that serves, and where the versions lie that the splits name."""

    splits: list[SplitOut]
    versions: dict[str, str]

    @classmethod
    def of(cls, splits: tuple[Split, ...], artifact_uris: Mapping[VersionId, str]) -> "SplitsOut":
        rendered = [SplitOut.model_validate(split.to_json()) for split in splits]
        return cls(splits=rendered, versions={str(version): uri for version, uri in artifact_uris.items()})
