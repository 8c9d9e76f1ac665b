"""Small plans and audiences for rehearsals that take a second."""

from control_plane.domain.plan import RolloutPlan
from control_plane.rehearsal.audience import Audience, Effects, Faults
from control_plane.rehearsal.rehearse import Trial
from control_plane.rehearsal.scenarios import Scenario
from control_plane.rehearsal.sources import Simulated
from tests.builders import a_plan

AUDIENCE = Audience(
    users=20_000,
    ctr=0.2,
    ctr_spread=0.3,
    impressions_per_day=2.0,
    view_types={"grid": 0.5, "list": 0.5},
)
EQUAL = Scenario(name="equal", sentence="Equal.")


def a_quick_plan(**overrides: object) -> RolloutPlan:
    """Margins that a few days of a small audience can show."""
    return a_plan(
        **{
            "steps": [{"share": "25%", "bake": "6h"}, {"share": "50%", "bake": "6h"}, {"share": "100%", "bake": "6h"}],
            "guardrails": [{"metric": "ctr", "harm_margin": "3%", "safe_margin": "12%"}],
            "calibration": {"epsilon": 0.03, "band": 0.2, "view_type_epsilon": 0.08, "view_type_band": 0.3},
            "judge": {"loss_budget": 0.1},
            "shadow": {"bake": "6h"},
            "min_days_before_full": 2,
            "check_every": "6h",
            "unwatched": "12h",
            **overrides,
        }
    )


def a_trial(audience: Audience = AUDIENCE, *, seed: int = 1, looks_per_day: int = 4, **overrides: object) -> Trial:
    return Trial(
        plan=a_quick_plan(**overrides), source=Simulated(audience=audience), seed=seed, looks_per_day=looks_per_day
    )


def a_scenario(effects: Effects | None = None, faults: Faults | None = None, *, name: str = "own") -> Scenario:
    return Scenario(name=name, sentence="Own.", effects=effects or Effects(), faults=faults or Faults())
