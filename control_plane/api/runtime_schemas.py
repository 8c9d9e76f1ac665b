"""Runtimes and their heartbeats, as they cross HTTP."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from control_plane.api import patterns
from control_plane.api.schemas import MAX_ENTRIES, Count, Generation, In, Name, VersionName
from control_plane.domain.latency import NUM_LATENCY_BINS
from control_plane.domain.model_version import VersionId
from control_plane.domain.moments import ServingCounts
from control_plane.registry.runtimes import Heartbeat


def _all_bins_or_none(bins: list[int]) -> list[int]:
    if len(bins) not in (0, NUM_LATENCY_BINS):
        raise ValueError(f"must hold {NUM_LATENCY_BINS} counts, or none, not {len(bins)}")
    return bins


LatencyBins = Annotated[list[Count], AfterValidator(_all_bins_or_none)]


class CountsIn(In):
    """A version's counts since the runtime started, as `ServingCounts` explains them; what is not told is 0."""

    requests: Count = 0
    errors: Count = 0
    timeouts: Count = 0
    scores: Count = 0
    bad_scores: Count = 0
    distinct_scores: Count = 0
    calls: Count = 0
    error_shares: Count = 0
    timeout_shares: Count = 0
    bad_score_shares: Count = 0
    batches: Count = 0
    latency_bins: LatencyBins = Field(default_factory=list)
    latency_us: Count = 0
    split_batches: Count = 0
    rows: Count = 0
    users_encoded: Count = 0
    gate_samples: Count = 0
    gate_entropy: Count = 0
    feature_samples: Count = 0
    feature_nulls: Count = 0
    feature_nulls_expected: Count = 0
    features: Count = 0
    features_lost: Count = 0


class HeartbeatIn(In):
    generations: dict[Name, Generation] = Field(default_factory=dict, max_length=MAX_ENTRIES)
    loaded: list[VersionName] = Field(default_factory=list, max_length=MAX_ENTRIES)
    counts: dict[VersionName, CountsIn] = Field(default_factory=dict, max_length=MAX_ENTRIES)
    shadow_dropped: Count = 0
    splits_mode: Annotated[str, StringConstraints(pattern=patterns.SPLITS_MODE)] = ""

    def to_heartbeat(self, runtime_id: str) -> Heartbeat:
        return Heartbeat(
            runtime_id=runtime_id,
            generations=dict(self.generations),
            loaded=tuple(VersionId(version) for version in self.loaded),
            counts={
                VersionId(name): ServingCounts.from_mapping(counts.model_dump()) for name, counts in self.counts.items()
            },
            shadow_dropped=self.shadow_dropped,
            splits_mode=self.splits_mode,
        )


class RuntimeOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    runtime_id: str
    seen_at: datetime = Field(description="wall time of its last heartbeat")
    generations: dict[str, int]
    loaded: list[str]
    shadow_dropped: int
    splits_mode: str


class RuntimesOut(BaseModel):
    runtimes: list[RuntimeOut]
