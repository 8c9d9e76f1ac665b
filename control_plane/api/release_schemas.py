"""Releases and their edges, as they cross HTTP."""

from datetime import datetime

from pydantic import BaseModel, Field

from control_plane.api.rollout_schemas import PlanIn, RolloutFactsOut
from control_plane.api.schemas import MAX_ENTRIES, In, Name, VersionName
from control_plane.domain.plan_reader import Reader
from control_plane.domain.release_mapping import read_edge
from control_plane.domain.rollout import OnBusy
from control_plane.domain.surface_graph import Edge, OnUpstreamRollback


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
    on_busy: OnBusy = Field(OnBusy.REJECT, description="where a surface carries another rollout")


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
