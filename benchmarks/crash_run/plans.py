"""The rules that rollouts of a crash run go by: a way of minutes, judged at every one."""

from enum import Enum
from typing import Any

STEPS = [{"share": "5%", "bake": "5m"}, {"share": "25%", "bake": "5m"}, {"share": "100%", "bake": "5m"}]
BUDGET = {"max_stage_margin": "90%", "novelty_days": 0, "min_users": 100}


class Kind(Enum):
    PLAIN = "plain"
    APPROVED = "approved"  # the second step is left only with an approval
    UNMONITORED = "unmonitored"  # the first step is left by people only
    ADAPTIVE = "adaptive"  # weights between the steps, as far as a small budget allows


def a_plan_mapping(kind: Kind = Kind.PLAIN) -> dict[str, Any]:
    """Margins that the recorded sums resolve at once, or, for an adaptive ramp, after a raise or two."""
    return {
        "name": f"crash-{kind.value}",
        "steps": _steps(kind),
        "shadow": {"bake": "5m", "ne_harm_margin": "2%", "ne_safe_margin": "5%", "max_psi": 1.0},
        "guardrails": [{"metric": "ctr", "harm_margin": "3%", "safe_margin": "12%", "window": "1m"}],
        "calibration": {"epsilon": "5%", "band": "25%", "view_type_epsilon": "8%", "view_type_band": "35%"},
        "judge": {**BUDGET, "loss_budget": "3%" if kind is Kind.ADAPTIVE else "20%"},
        "adaptive": kind is Kind.ADAPTIVE,
        "check_every": "2m",
        "lateness": "1m",
        "unwatched": "40m",
        "max_stage": "90m",
        "max_total": "6h",
        "min_days_before_full": 0,
        "cool_down": "0s",
    }


def _steps(kind: Kind) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [dict(step) for step in STEPS]
    first, second = steps[:2]
    match kind:
        case Kind.PLAIN:
            pass
        case Kind.APPROVED:
            second["approvals"] = 1
        case Kind.UNMONITORED:
            first |= {"monitored": False, "approvals": 1}
        case Kind.ADAPTIVE:
            second["share"] = "60%"
    return steps
