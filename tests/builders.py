"""Inputs for tests: every builder gives something whole, and takes what the test is about by name."""

from datetime import UTC, datetime
from typing import Any

from control_plane.domain.manifest import Manifest
from control_plane.domain.model_version import ModelVersion, Surface, VersionId, ViewType, digest_of
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.plan_mapping import plan_from_mapping
from control_plane.domain.rollout import Phase, Rollout, RolloutId
from control_plane.domain.verdict import Blame, Outcome, Rule, Verdict

NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
HOME_FEED = Surface("home_feed")
STABLE = VersionId("a" * 16)
CANDIDATE = VersionId("b" * 16)
VIEW_TYPES = (ViewType("position_1"), ViewType("position_2"), ViewType("position_3"))


def a_plan_mapping(**overrides: object) -> dict[str, object]:
    return {
        "name": "standard",
        "steps": [
            {"share": "1%", "bake": "1h"},
            {"share": "25%", "bake": "2h"},
            {"share": "100%", "bake": "1d"},
        ],
        "guardrails": [{"metric": "ctr"}],
        **overrides,
    }


def a_plan(**overrides: object) -> RolloutPlan:
    return plan_from_mapping(a_plan_mapping(**overrides))


def a_version(name: str = "a", *, surface: str = "home_feed", trunk: str = "trunk") -> ModelVersion:
    return ModelVersion(
        surface=Surface(surface),
        trunk=digest_of(trunk.encode()),
        surface_export=digest_of(f"{surface}/{name}".encode()),
        calibrator=digest_of(f"{surface}/{name}/calibrator".encode()),
        feature_signature=digest_of(b"signature"),
    )


def a_rollout(phase: Phase = Phase.RAMPING, *, step: int | None = None, **overrides: Any) -> Rollout:
    ramps = phase in (Phase.RAMPING, Phase.WATCHING, Phase.DONE)
    plan = overrides.pop("plan", None) or a_plan()
    default_step = (len(plan.steps) - 1 if phase is not Phase.RAMPING else 0) if ramps else -1
    fields: dict[str, Any] = {
        "rollout_id": RolloutId(1),
        "surface": HOME_FEED,
        "stable": STABLE,
        "candidate": CANDIDATE,
        "plan": plan,
        "phase": phase,
        "created_at": NOON,
        "started_at": None if phase in (Phase.QUEUED, Phase.PENDING) else NOON,
        "acknowledged_at": None if phase in (Phase.QUEUED, Phase.PENDING, Phase.WARMING) else NOON,
        "entered_at": NOON,
        "step": default_step if step is None else step,
        "paused_phase": Phase.SHADOW if phase in (Phase.HELD, Phase.EXPIRED) else None,
    }
    return Rollout(**{**fields, **overrides})


def a_verdict(outcome: Outcome = Outcome.HOLD, **overrides: Any) -> Verdict:
    rules = {Outcome.ADVANCE: Rule.SHOWN_SAFE, Outcome.HOLD: Rule.INSUFFICIENT, Outcome.ROLL_BACK: Rule.HARM}
    fields: dict[str, Any] = {
        "outcome": outcome,
        "rule": rules[outcome],
        "reason": f"test says {outcome}",
        "findings": (),
        "culprits": (),
        "blame": Blame.MODEL if outcome is Outcome.ROLL_BACK else Blame.NONE,
        "log_e_rollback": 0.0,
        "log_e_threshold": 2.995732273553991,
        "log_e_sample_ratio": 0.0,
        "cross_exposure": 0.0,
        "psi": None,
        "users_stable": 10_000,
        "users_candidate": 1_000,
        "window_start_ms": None,
        "as_of_ms": round(NOON.timestamp() * 1_000),
        "phase": Phase.RAMPING.value,
        "step": 0,
        "share_bp": 100,
        "generation": 1,
    }
    return Verdict(**{**fields, **overrides})


def a_manifest(version: ModelVersion | None = None, **overrides: Any) -> Manifest:
    fields: dict[str, Any] = {
        "version": version or a_version(),
        "model_name": "unified",
        "view_types": VIEW_TYPES,
        "golden": digest_of(b"golden"),
        "golden_tolerance": 1e-4,
        "training_run": "run-1",
        "config": {},
    }
    return Manifest(**{**fields, **overrides})
