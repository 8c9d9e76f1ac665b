"""A plan that asks for the days before its start gets them, split as its users are now."""

from pathlib import Path

import numpy as np

from control_plane.domain.moments import Measure, Moments
from control_plane.domain.rollout import Phase, RolloutId
from control_plane.domain.split import Arm
from control_plane.evidence.aggregate import moments
from control_plane.scheduler.loaded import load
from tests.builders import a_plan
from tests.stories.world import HOUR, LOOK, STORY_PLAN, World

LOOKS_A_DAY = 8


def in_the_ramp(root: Path, *, pre_period_days: int) -> tuple[World, RolloutId]:
    """Traffic flowed for two days before the rollout began."""
    world = World(root, "home_feed")
    for _ in range(2 * LOOKS_A_DAY):
        world.serve(1_000)
        world.now += LOOK
    plan = a_plan(**{**STORY_PLAN, "judge": {"loss_budget": "5%", "pre_period_days": pre_period_days}})
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"), plan)
    assert world.live_until(rollout_id, Phase.RAMPING, at_most_days=2).phase is Phase.RAMPING
    return world, rollout_id


def evidence_of(world: World, rollout_id: RolloutId) -> Moments:
    return moments(world.log, load(world.sessions, rollout_id, now=world.now, live_since=world.now - HOUR).query)


def test_users_of_the_days_before_fall_to_the_arms_of_the_present_split(tmp_path: Path) -> None:
    world, rollout_id = in_the_ramp(tmp_path, pre_period_days=14)

    before = evidence_of(world, rollout_id).before_MGAK

    assert before is not None
    shown_A = before[Measure.IMPRESSIONS, 0].sum(axis=1)
    assert shown_A.sum() == 2 * LOOKS_A_DAY * 1_000
    assert 0.08 < shown_A[Arm.CANDIDATE] / shown_A.sum() < 0.12
    assert np.array_equal(before[:, 0], before[:, 1:].sum(axis=1))


def test_nobody_reads_the_days_before_unless_the_plan_asks(tmp_path: Path) -> None:
    world, rollout_id = in_the_ramp(tmp_path, pre_period_days=0)

    assert evidence_of(world, rollout_id).before_MGAK is None
