"""Rollouts, their plans and verdicts, as they cross HTTP."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from control_plane.api.schemas import Generation, In, Name, Reason, VersionName
from control_plane.api.standing import Standing
from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Part
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.plan_mapping import plan_from_mapping, plan_to_mapping
from control_plane.domain.rollout import Command, OnBusy, Phase, Rollout
from control_plane.domain.verdict import Verdict
from control_plane.plan_file import MAX_PLAN_CHARACTERS, read_plan
from control_plane.registry.evidence import StoredVerdict


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


class VerdictsOut(BaseModel):
    verdicts: list[VerdictOut]


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


class RolloutsOut(BaseModel):
    rollouts: list[RolloutLineOut]


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
