"""What crosses HTTP: `…In` is checked here once, `…Out` is rendered from domain and registry values."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from control_plane.api import patterns
from control_plane.api.standing import Standing
from control_plane.domain.errors import InvalidField
from control_plane.domain.latency import NUM_LATENCY_BINS
from control_plane.domain.model_version import Part, VersionId
from control_plane.domain.moments import ServingCounts
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.plan_mapping import plan_from_mapping, plan_to_mapping
from control_plane.domain.plan_reader import Reader
from control_plane.domain.release_mapping import read_edge
from control_plane.domain.rollout import Command, OnBusy, Phase, Rollout
from control_plane.domain.split import Split
from control_plane.domain.surface_graph import Edge, OnUpstreamRollback
from control_plane.domain.verdict import Verdict
from control_plane.plan_file import MAX_PLAN_CHARACTERS, read_plan
from control_plane.registry.evidence import StoredVerdict
from control_plane.registry.history import Entry
from control_plane.registry.model_versions import VersionRecord
from control_plane.registry.runtimes import Heartbeat
from control_plane.registry.surfaces import SurfaceState

MAX_ENTRIES = 1_000  # surfaces, versions or rows that one request may name
MAX_NUMBER = 2**53  # counts stay exact in every JSON reader

Name = Annotated[str, StringConstraints(pattern=patterns.NAME)]
VersionName = Annotated[str, StringConstraints(pattern=patterns.VERSION_ID)]
DigestText = Annotated[str, StringConstraints(pattern=patterns.DIGEST)]
RuntimeName = Annotated[str, StringConstraints(pattern=patterns.RUNTIME)]
Reason = Annotated[str, StringConstraints(max_length=1_000, pattern=patterns.NO_NUL, strip_whitespace=True)]
GivenReason = Annotated[str, StringConstraints(min_length=1, max_length=1_000, pattern=patterns.NOT_BLANK)]
Generation = Annotated[int, Field(ge=0, le=2**31 - 1)]  # the registry's integer column
Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]


class In(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SurfaceIn(In):
    surface: Name
    view_types: list[Name] = Field(min_length=1, max_length=MAX_ENTRIES)


class AdoptIn(In):
    version_id: VersionName
    reason: GivenReason
    seen_generation: Generation | None = None


class RollBackIn(In):
    reason: Reason = ""


class VersionIn(In):
    artifact_uri: Annotated[str, StringConstraints(min_length=1, max_length=4_096, pattern=patterns.SOME_NO_NUL)]

    def folder(self) -> Path:
        path = Path(self.artifact_uri)
        if not path.is_absolute():
            raise InvalidField("artifact_uri", "must be an absolute path: every runtime reads it from where it runs")
        return path


class PlanIn(In):
    plan: dict[str, Any] | None = Field(None, description="the plan as a mapping")
    plan_yaml: Annotated[str, StringConstraints(max_length=MAX_PLAN_CHARACTERS)] | None = Field(
        None, description="the plan as a YAML file's text; errors then carry the line"
    )

    def read_plan(self) -> RolloutPlan:
        if (self.plan is None) == (self.plan_yaml is None):
            raise InvalidField("plan", "give one of plan and plan_yaml")
        return plan_from_mapping(self.plan) if self.plan_yaml is None else read_plan(self.plan_yaml)


class RolloutIn(PlanIn):
    surface: Name
    candidate: VersionName
    on_busy: OnBusy = Field(OnBusy.REJECT, description="if the surface carries another rollout")


class RestartIn(PlanIn):
    """Without a plan the rollout keeps its own."""

    seen_generation: Generation | None = Field(None, description="of the surface; 409 if it has moved since")
    reason: Reason = Field("", description="required: evidence, approvals and weight are given up")

    def read_new_plan(self) -> RolloutPlan | None:
        return None if self.plan is None and self.plan_yaml is None else self.read_plan()


class CommandIn(In):
    command: Command
    seen_generation: Generation | None = Field(None, description="of the surface; 409 if it has moved since")
    reason: Reason = Field("", description="required to skip, and to overrule a freeze or a cool-down")
    verdict_id: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(None, description="the verdict acted on")


class EdgeIn(In):
    upstream: Name
    downstream: Name
    share: str = Field(description="what upstream's candidate must hold, like '25%' or '500bp'", max_length=40)
    held: str = Field(description="for how long, like '24h'", max_length=40)
    needs_green: bool = Field(True, description="and none of upstream's guardrails speaks against it")
    on_rollback: OnUpstreamRollback = Field(
        OnUpstreamRollback.HOLD, description="what downstream does when upstream is rolled back"
    )

    def to_edge(self, path: str) -> Edge:
        return read_edge(Reader(self.model_dump(), path))


class ReleaseIn(PlanIn):
    candidates: dict[Name, VersionName] = Field(min_length=1, max_length=MAX_ENTRIES)
    edges: list[EdgeIn] = Field(default_factory=list, max_length=MAX_ENTRIES)


class QuarantineIn(In):
    digest: DigestText
    reason: GivenReason


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


class VerdictOut(BaseModel):
    """One look of the judge, as stored; `/inputs` has what it looked at."""

    verdict_id: int
    rollout_id: int
    at: datetime
    code_version: str
    verdict: Verdict

    @classmethod
    def of(cls, stored: StoredVerdict) -> "VerdictOut":
        return cls.model_validate(stored, from_attributes=True)


class ExplainedVerdictOut(VerdictOut):
    explanation: str = Field(description="the verdict in plain words")
    verdict_json: str = Field(description="the verdict as stored, byte for byte")


class RolloutFactsOut(BaseModel):
    """One rollout as stored."""

    rollout_id: int
    surface: str
    release_id: int | None
    stable: str
    candidate: str
    phase: Phase
    paused_phase: Phase | None
    step: int = Field(description="index into the plan's steps; -1 before the ramp")
    candidate_bp: int = Field(description="weight of the candidate as set")
    next_share_bp: int
    is_monitored: bool = Field(description="whether verdicts let the present stage go on; if not, only people do")
    approvals: list[str]
    approvals_needed: int
    approval_group: str = Field(description="whose members may approve the present step; empty: anyone else")
    created_by: str
    created_at: datetime
    started_at: datetime | None
    entered_at: datetime
    acknowledged_at: datetime | None = Field(description="since when nearly all live runtimes serve the present stage")
    stage_began_at: datetime | None = Field(description="since when it bakes and its evidence counts")
    first_generation: int
    stage_generation: int

    @classmethod
    def of(cls, rollout: Rollout) -> "RolloutFactsOut":
        return cls(**_facts(rollout))


class RolloutLineOut(RolloutFactsOut):
    """One rollout, what it waits for, and how far the runtimes follow."""

    changed_parts: list[Part] = Field(description="in which the candidate differs from stable; a calibrator may alone")
    generation: int = Field(description="of the surface; what a command's seen_generation is compared with")
    waiting_for: str | None
    until: datetime | None = Field(description="an estimate, where one exists")
    live_runtimes: int
    loaded_runtimes: int = Field(description="live ones that have the candidate in memory")
    acknowledged_runtimes: int = Field(description="live ones that serve the present weights")
    acknowledged_bp: int = Field(description="weight of the candidate as far as live runtimes acknowledged it")

    @classmethod
    def of_standing(cls, standing: Standing) -> "RolloutLineOut":
        return cls(**_facts(standing.rollout), **_following(standing))


class RolloutOut(RolloutLineOut):
    """One rollout with its plan and its latest verdict."""

    plan: dict[str, Any]
    verdict: VerdictOut | None = Field(description="the latest")

    @classmethod
    def of_standing(cls, standing: Standing) -> "RolloutOut":
        return cls(
            **_facts(standing.rollout),
            **_following(standing),
            plan=plan_to_mapping(standing.rollout.plan),
            verdict=None if standing.verdict is None else VerdictOut.of(standing.verdict),
        )


class EdgeOut(BaseModel):
    upstream: str
    downstream: str
    share_bp: int
    held_seconds: float
    needs_green: bool
    on_rollback: OnUpstreamRollback


class ReleaseOut(BaseModel):
    """One checkpoint on its way over several surfaces."""

    release_id: int
    created_at: datetime
    created_by: str
    edges: list[EdgeOut]
    rollouts: list[RolloutFactsOut]
    blocked: dict[str, str] = Field(description="what each pending surface waits for")


class ReleaseRolledBackOut(ReleaseOut):
    stays: dict[str, str] = Field(description="surfaces that could not go back, and why")


class ReleasesOut(BaseModel):
    releases: list[ReleaseOut]


class QuarantinedOut(BaseModel):
    """A digest that may serve nowhere."""

    digest: str
    at: datetime
    by: str
    reason: str


class MovedOut(BaseModel):
    digest: str
    surfaces: list[str] = Field(description="that moved off it")


class RefusalOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    row: int = Field(description="of the body, from 0")
    field: str
    rule: str


class ReceiptOut(BaseModel):
    """What became of a batch. Only the first refused rows are listed."""

    model_config = ConfigDict(from_attributes=True)

    accepted: int
    refused: int
    reasons: dict[str, int]
    first_refused: list[RefusalOut]


class RuntimeOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    runtime_id: str
    seen_at: datetime = Field(description="wall time of its last heartbeat")
    generations: dict[str, int]
    loaded: list[str]
    shadow_dropped: int
    splits_mode: str


class ChangeOut(BaseModel):
    """One change of one surface; `seq` is the generation it made."""

    surface: str
    seq: int
    at: datetime
    by: str
    command: str
    reason: str
    before: dict[str, Any]
    after: dict[str, Any]
    rollout_id: int | None
    verdict_id: int | None
    evidence_digest: str | None = None
    code_version: str
    previous_hash: str
    hash: str

    @classmethod
    def of(cls, entry: Entry) -> "ChangeOut":
        return cls(**{**asdict(entry), "before": json.loads(entry.before), "after": json.loads(entry.after)})


class VerificationOut(BaseModel):
    holds: bool
    problems: list[str]


class SurfacesOut(BaseModel):
    surfaces: list[SurfaceOut]


class VersionsOut(BaseModel):
    versions: list[VersionOut]


class RolloutsOut(BaseModel):
    rollouts: list[RolloutLineOut]


class VerdictsOut(BaseModel):
    verdicts: list[VerdictOut]


class QuarantineOut(BaseModel):
    quarantined: list[QuarantinedOut]


class RuntimesOut(BaseModel):
    runtimes: list[RuntimeOut]


class HistoryOut(BaseModel):
    history: list[ChangeOut]


def _facts(rollout: Rollout) -> dict[str, Any]:
    names = set(RolloutFactsOut.model_fields) - {"approvals", "approval_group"}
    step = rollout.standing_step
    return {
        **{name: getattr(rollout, name) for name in names},
        "approvals": sorted(rollout.approvals),
        "approval_group": "" if step is None else step.approval_group,
    }


def _following(standing: Standing) -> dict[str, Any]:
    names = set(RolloutLineOut.model_fields) - set(RolloutFactsOut.model_fields)
    return {name: getattr(standing, name) for name in names}
