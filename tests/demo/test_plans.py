from pathlib import Path

import pytest

from control_plane.demo.story import PLANS
from control_plane.domain.plan import JudgePlan, RolloutPlan
from control_plane.plan_file import read_plan


def plan(name: str) -> RolloutPlan:
    return read_plan((PLANS / name).read_text())


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_plan_of_the_demo_reads(path: Path) -> None:
    assert [step.share_bp for step in read_plan(path.read_text()).steps] == [100, 500, 2_500, 5_000, 10_000]


def test_the_demo_does_not_weaken_the_judge() -> None:
    judge, default = plan("simulated.yaml").judge, JudgePlan()

    assert (judge.alpha_rollback, judge.alpha_advance) == (default.alpha_rollback, default.alpha_advance)
    assert (judge.min_users, judge.min_conversions) == (default.min_users, default.min_conversions)
    assert plan("simulated.yaml").min_days_before_full == 7


def test_what_is_simulated_says_so() -> None:
    assert "SIMULATED" in plan("simulated.yaml").name
    assert "SIMULATED" not in plan("real.yaml").name
