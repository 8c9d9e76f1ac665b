"""An adaptive ramp beside the same plan without it: does it ever put too much at risk, and what is it worth?

Rollouts are rehearsed on simulated traffic, by the judge and the decisions that run real ones, with looks every
three hours. A loss is the same on every day. "Beyond the budget" counts the runs in which any raise within a step put
weight × true loss above the loss budget; "let through" those that a candidate with a loss of the safe margin or more
passed the first step's gate. Of both the one-sided 95 % Clopper–Pearson bound must be at most α.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.guardrail_bars.outcome import upper_bound
from benchmarks.report import report
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.plan_mapping import plan_from_mapping
from control_plane.rehearsal.audience import Audience, Effects
from control_plane.rehearsal.rehearse import Trial
from control_plane.rehearsal.run import Ending, Run
from control_plane.rehearsal.scenarios import Scenario
from control_plane.rehearsal.sources import Simulated

SEED = 20_260_303
LOSSES = (0.03, 0.05, 0.10)  # of clicks: the safe margin, and losses that allow 10 % and 5 % of the traffic
LOOKS_PER_DAY = 8
AUDIENCE = Audience(users=300_000, ctr=0.05, ctr_spread=0.4, impressions_per_day=4.0, view_types={"grid": 1.0})
PLAN = {
    "name": "adaptive ramp",
    "steps": [{"share": share, "bake": "3h"} for share in ("1%", "25%", "50%", "100%")],
    "shadow": {"bake": "3h"},
    "guardrails": [{"metric": "ctr"}],
    "check_every": "3h",
    "unwatched": "6h",
    "min_days_before_full": 2,
    "max_stage": "8d",
    "max_total": "16d",
}
COLUMNS = (
    *("candidate", "runs", "beyond the budget", "let through", "shipped", "days", "clicks lost"),
    *("fixed: shipped", "days", "clicks lost"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Of many runs; what is lost is a part of the surface's clicks while the rollout ran."""

    runs: int
    beyond_budget: int
    let_through: int
    shipped: int
    days: float
    lost: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs")
    runs, fewer = (2, 2) if parser.parse_args().quick else (150, 20)
    rows, figures = [], {"runs": float(runs)}
    for loss in (0.0, *LOSSES):
        adaptive = outcome_of(loss, is_adaptive=True, runs=runs if loss else fewer)
        fixed = outcome_of(loss, is_adaptive=False, runs=fewer)
        rows.append(_row(loss, adaptive, fixed))
        figures |= dict(_figures(loss, adaptive, fixed))
    report("adaptive_ramp", columns=COLUMNS, rows=rows, figures=figures)


def outcome_of(loss: float, *, is_adaptive: bool, runs: int) -> Outcome:
    plan = plan_from_mapping({**PLAN, "adaptive": is_adaptive})
    trial = Trial(plan=plan, source=Simulated(audience=AUDIENCE), seed=SEED, looks_per_day=LOOKS_PER_DAY)
    scenario = Scenario(name="loss", sentence="Clicks are lost.", effects=Effects(ctr=-loss))
    done = [trial.run(scenario, number) for number in range(runs)]
    return Outcome(
        runs=runs,
        beyond_budget=sum(most_at_risk(plan, run, loss) > plan.judge.loss_budget for run in done),
        let_through=sum(reached(run) >= plan.steps[1].share_bp for run in done),
        shipped=sum(run.ending is Ending.SHIPPED for run in done),
        days=float(np.mean([run.days for run in done])),
        lost=float(np.mean([run.lost["clicks"] / run.at_stable["clicks"] for run in done])),
    )


def most_at_risk(plan: RolloutPlan, run: Run, loss: float) -> float:
    """The largest weight × loss of any raise within a step; 0 where none was raised."""
    steps = {step.share_bp for step in plan.steps}
    return max((share_bp for _, share_bp in run.path if share_bp not in steps), default=0) / 10_000 * loss


def reached(run: Run) -> int:
    return max(share_bp for _, share_bp in run.path)


def _row(loss: float, adaptive: Outcome, fixed: Outcome) -> list[str]:
    told = f"{-100 * loss:.0f} % clicks" if loss else "equal"
    bounded = [adaptive.beyond_budget, adaptive.let_through] if loss else []
    counted = [f"{count} (≤ {100 * upper_bound(count, adaptive.runs):.1f} %)" for count in bounded] or ["", ""]
    return [told, str(adaptive.runs), *counted, *_told(adaptive), *_told(fixed)]


def _told(outcome: Outcome) -> list[str]:
    return [f"{100 * outcome.shipped / outcome.runs:.0f} %", f"{outcome.days:.1f}", f"{100 * outcome.lost:.3f} %"]


def _figures(loss: float, adaptive: Outcome, fixed: Outcome) -> Iterator[tuple[str, float]]:
    suffix = f"_{100 * loss:.0f}pct" if loss else "_equal"
    if loss:
        yield f"beyond_budget{suffix}", adaptive.beyond_budget / adaptive.runs
        yield f"beyond_budget_upper95{suffix}", upper_bound(adaptive.beyond_budget, adaptive.runs)
        yield f"let_through{suffix}", adaptive.let_through / adaptive.runs
        yield f"let_through_upper95{suffix}", upper_bound(adaptive.let_through, adaptive.runs)
    for name, outcome in (("adaptive", adaptive), ("fixed", fixed)):
        yield f"shipped_{name}{suffix}", outcome.shipped / outcome.runs
        yield f"days_{name}{suffix}", round(outcome.days, 2)
        yield f"clicks_lost_{name}{suffix}", round(outcome.lost, 6)


if __name__ == "__main__":
    main()
