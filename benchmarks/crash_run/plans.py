"""The rules that rollouts of a crash run go by: a way of minutes, judged at every one."""

from typing import Any

STEPS = [{"share": "5%", "bake": "5m"}, {"share": "25%", "bake": "5m"}, {"share": "100%", "bake": "5m"}]


def a_plan_mapping(*, approvals: int = 0) -> dict[str, Any]:
    """Three steps, the second left only with so many approvals; margins that the recorded sums resolve at once."""
    steps: list[dict[str, Any]] = [dict(step) for step in STEPS]
    if approvals:
        steps[1]["approvals"] = approvals
    return {
        "name": "crash",
        "steps": steps,
        "shadow": {"bake": "5m", "ne_harm_margin": "2%", "ne_safe_margin": "5%", "max_psi": 1.0},
        "guardrails": [{"metric": "ctr", "harm_margin": "3%", "safe_margin": "12%", "window": "1m"}],
        "calibration": {"epsilon": "5%", "band": "25%", "view_type_epsilon": "8%", "view_type_band": "35%"},
        "judge": {"loss_budget": "20%", "max_stage_margin": "90%", "novelty_days": 0},
        "check_every": "2m",
        "lateness": "1m",
        "unwatched": "40m",
        "max_stage": "90m",
        "max_total": "6h",
        "min_days_before_full": 0,
        "cool_down": "0s",
    }
