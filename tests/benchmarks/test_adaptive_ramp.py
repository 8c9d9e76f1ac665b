import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.adaptive_ramp import PLAN, most_at_risk
from control_plane.domain.plan_mapping import plan_from_mapping
from control_plane.domain.rollout import Phase
from control_plane.domain.verdict import Rule
from control_plane.rehearsal.run import Ending, Run

ROOT = Path(__file__).parents[2]


def a_run(*shares_bp: int) -> Run:
    return Run(
        ending=Ending.ROLLED_BACK,
        phase=Phase.ROLLED_BACK,
        step=0,
        rule=Rule.HARM,
        reason="",
        culprits=(),
        open_gates=(),
        days=1.0,
        days_of_traffic=1.0,
        candidate_impressions=0,
        harmed_impressions=0.0,
        lost={},
        at_stable={},
        path=tuple((float(day), share) for day, share in enumerate(shares_bp)),
    )


@pytest.mark.parametrize(
    ("shares_bp", "risk"),
    [((0, 100, 2_500), 0.0), ((0, 100, 700, 900, 2_500), 0.09 * 0.05), ((0, 100, 1_200, 0), 0.12 * 0.05)],
)
def test_what_is_put_at_risk_is_the_largest_raise_within_a_step(shares_bp: tuple[int, ...], risk: float) -> None:
    assert most_at_risk(plan_from_mapping(PLAN), a_run(*shares_bp), 0.05) == pytest.approx(risk)


@pytest.mark.slow
def test_a_quick_run_prints_what_is_risked_and_what_it_is_worth() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.adaptive_ramp", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    for loss in ("3pct", "5pct", "10pct"):
        assert figures[f"beyond_budget_{loss}"] <= figures[f"beyond_budget_upper95_{loss}"] < 1
        assert figures[f"let_through_{loss}"] <= figures[f"let_through_upper95_{loss}"] < 1
    assert figures["days_adaptive_equal"] < figures["days_fixed_equal"]
