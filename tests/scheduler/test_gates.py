"""What the scheduler waits for beside the judge, and what it does about queues."""

from datetime import timedelta
from pathlib import Path

import pytest

from control_plane.api.standing import standing_of
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.rollout import Command, OnBusy, Phase, RolloutId
from control_plane.registry import arrivals, freezes, history, rollouts, runtimes
from control_plane.registry.runtimes import Heartbeat
from tests.builders import HOME_FEED, a_plan
from tests.stories.world import HOUR, LOOK, STORY_PLAN, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, "home_feed")


def waiting_for(world: World, rollout_id: RolloutId) -> str | None:
    with world.sessions.reading() as session:
        rollout = rollouts.get(session, rollout_id)
        return standing_of(session, rollout, now=world.now, live_since=world.now - LOOK).waiting_for


def lagging_runtime(world: World, number: int) -> None:
    """It lives, and serves what was set first."""
    told = Heartbeat(
        runtime_id=f"lagging-{number}",
        generations={HOME_FEED: 1},
        loaded=(),
        counts={},
        shadow_dropped=0,
        splits_mode="poll",
    )
    with world.sessions.writing() as session:
        runtimes.record_heartbeat(session, told, now=world.now, seen_at=world.now)


def in_the_shadow(world: World) -> RolloutId:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    return world.live_until(rollout_id, Phase.SHADOW, at_most_days=1).rollout_id


def test_a_stage_begins_at_the_first_tick_that_finds_enough_runtimes_serving_it(world: World) -> None:
    rollout_id = in_the_shadow(world)
    entered_at = world.rollout(rollout_id).entered_at
    lagging_runtime(world, 1)
    world.heartbeat()
    world.now += HOUR

    world.tick()
    behind, said = world.rollout(rollout_id), waiting_for(world, rollout_id)
    world.now += LOOK  # the lagging one is silent: it counts no more
    world.heartbeat()
    world.tick()

    assert behind.acknowledged_at is None
    assert said == f"1 of 2 runtimes serve generation {behind.stage_generation}; the stage begins with 95%"
    assert world.rollout(rollout_id).acknowledged_at == entered_at + HOUR + LOOK


def test_a_stage_begins_between_two_checks(world: World) -> None:
    rollout_id = in_the_shadow(world)
    world.tick()
    world.heartbeat()
    world.now += timedelta(seconds=1)

    report = world.tick()

    assert (report.checked, world.rollout(rollout_id).acknowledged_at) == (0, world.now)


def test_no_stage_is_left_while_no_runtime_serves_it(world: World) -> None:
    rollout_id = in_the_shadow(world)
    for _ in range(12):
        lagging_runtime(world, 1)
        world.serve(9_000)
        world.now += LOOK
        world.tick()

    assert world.rollout(rollout_id).phase is Phase.SHADOW


def queued(world: World, candidate: VersionId) -> RolloutId:
    with world.sessions.writing() as session:
        return arrivals.create(
            session, HOME_FEED, candidate, a_plan(**STORY_PLAN), by="bob", now=world.now, on_busy=OnBusy.QUEUE
        ).rollout_id


def test_the_next_in_line_starts_once_the_surface_is_free(world: World) -> None:
    first = in_the_shadow(world)
    second = queued(world, world.candidate("home_feed", name="other", trunk="trunk-3"))
    said = waiting_for(world, second)
    with world.sessions.writing() as session:
        rollouts.apply_command(session, first, Command.ABORT, by="ann", now=world.now, reason="not this week")

    report = world.tick()

    assert said == f"queued; waiting for rollout {first} to end"
    assert (report.dequeued, report.commands) == ([second], {second: Command.START})
    assert world.rollout(second).phase is Phase.WARMING


def test_in_a_freeze_the_queue_stands_and_what_is_ready_says_who_keeps_it(world: World) -> None:
    first = in_the_shadow(world)
    second = queued(world, world.candidate("home_feed", name="other", trunk="trunk-3"))
    with world.sessions.writing() as session:
        freezes.declare(session, Surface("home_feed"), by="carol", reason="the holidays", now=world.now)

    world.live(12)
    ready = waiting_for(world, first)
    with world.sessions.writing() as session:
        rollouts.apply_command(session, first, Command.ROLL_BACK, by="ann", now=world.now, reason="no")
    report = world.tick()

    assert world.rollout(first).phase is Phase.ROLLED_BACK
    assert ready == "frozen by carol: the holidays (freeze 1)"
    assert (report.dequeued, world.rollout(second).phase) == ([], Phase.QUEUED)
    with world.sessions.reading() as session:
        assert history.verify(session) == []


def test_a_candidate_that_went_home_in_a_freeze_comes_back_after_it(world: World) -> None:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    world.live_until(rollout_id, Phase.RAMPING, at_most_days=2)
    world.live(1)
    weight_bp = world.surface("home_feed").candidate_bp
    with world.sessions.writing() as session:
        freeze = freezes.declare(session, HOME_FEED, by="carol", reason="the holidays", now=world.now)
    for _ in range(5):
        world.heartbeat()
        world.serve(9_000)
        world.now += LOOK  # nobody watches
    world.heartbeat()

    world.tick()
    at_home, said = world.surface("home_feed"), waiting_for(world, rollout_id)
    with world.sessions.writing() as session:
        freezes.lift(session, freeze.freeze_id, by="carol", reason="over", now=world.now)
    world.live(1)

    assert at_home.home_since(now=world.now) is not None
    assert said is not None
    assert said.startswith("waiting for the end of the freeze by carol: the holidays")
    back = world.surface("home_feed")
    assert (back.home_since(now=world.now), back.candidate_bp) == (None, weight_bp)
