from datetime import timedelta
from pathlib import Path

import pytest

from control_plane.domain.decision import Decision
from control_plane.domain.errors import Deposed, StaleGeneration
from control_plane.domain.rollout import Command, Phase, RolloutId
from control_plane.evidence.aggregate import MomentsReader
from control_plane.guardrails.replay import replay
from control_plane.registry import evidence, leases, rollouts
from control_plane.scheduler.aggregator import aggregate_once
from control_plane.scheduler.applied import apply
from control_plane.scheduler.judged import judge_evidence
from control_plane.scheduler.loaded import load
from control_plane.scheduler.tick import tick
from tests.stories.world import HOUR, LOOK, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, "home_feed")


def test_a_rollout_starts_warms_and_enters_its_shadow(world: World) -> None:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    world.heartbeat()
    phases = []
    for _ in range(2):
        world.tick()
        phases.append(world.rollout(rollout_id).phase)
        world.heartbeat()

    assert phases == [Phase.WARMING, Phase.SHADOW]


def test_warming_waits_for_a_runtime(world: World) -> None:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))

    for _ in range(3):
        world.tick()

    assert world.rollout(rollout_id).phase is Phase.WARMING


def in_shadow(world: World) -> RolloutId:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    world.heartbeat()
    world.tick()
    world.heartbeat()
    world.tick()
    assert world.rollout(rollout_id).phase is Phase.SHADOW
    return rollout_id


def test_a_check_is_due_only_after_its_interval(world: World) -> None:
    in_shadow(world)
    world.now += LOOK
    first = world.tick()
    again = world.tick()
    world.now += LOOK
    later = world.tick()

    assert (first.checked, again.checked, later.checked) == (1, 0, 1)


def test_every_check_leaves_a_verdict_that_replays(world: World) -> None:
    rollout_id = in_shadow(world)
    world.live(1)

    with world.sessions.reading() as session:
        stored = evidence.latest(session, rollout_id)
        assert stored is not None
        inputs = evidence.inputs(session, stored.verdict_id)
    assert replay(inputs).to_json() == stored.verdict.to_json()


def test_a_missed_day_catches_up_without_skipping_a_gate(world: World) -> None:
    rollout_id = in_shadow(world)
    for _ in range(8):
        world.heartbeat()
        world.serve(9_000)
        world.now += LOOK  # the scheduler is dead
    world.heartbeat()

    commands = [world.tick().commands.get(rollout_id) for _ in range(5)]

    assert commands.count(Command.ADVANCE) <= 1
    assert world.rollout(rollout_id).step <= 0


def test_result_is_dropped_when_generation_moved_while_judging(world: World) -> None:
    rollout_id = in_shadow(world)
    world.heartbeat()
    loaded = load(world.sessions, rollout_id, now=world.now, live_since=world.now - HOUR)
    judged = judge_evidence(loaded, MomentsReader(world.log))
    with world.sessions.writing() as session:
        rollouts.apply_command(session, rollout_id, Command.HOLD, by="ann", now=world.now, reason="look")

    decision = Decision(command=Command.ADVANCE, reason="late")
    with pytest.raises(StaleGeneration):
        apply(world.sessions, loaded, judged, decision, now=world.now, epoch=None)

    assert world.rollout(rollout_id).phase is Phase.HELD
    with world.sessions.reading() as session:
        assert evidence.latest(session, rollout_id) is None


def test_a_deposed_scheduler_writes_nothing(world: World) -> None:
    rollout_id = in_shadow(world)
    world.now += HOUR
    with world.sessions.writing() as session:
        epoch = leases.acquire(session, "scheduler", "one", 0.0)
    with world.sessions.writing() as session:
        assert leases.acquire(session, "scheduler", "two", 60.0) != epoch

    with pytest.raises(Deposed):
        tick(world.sessions, world.log, now=world.now, live_since=world.now, epoch=epoch)

    with world.sessions.reading() as session:
        assert evidence.latest(session, rollout_id) is None


def test_one_rollout_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    world = World(tmp_path, "home_feed", "search")
    for surface in ("home_feed", "search"):
        world.roll_out(surface, world.candidate(surface))
    world.live(2)
    for path in (tmp_path / "events").rglob("*.parquet"):
        path.write_bytes(b"not parquet")
    search_candidate = world.candidate("search", name="other")
    with world.sessions.writing() as session:
        (active,) = rollouts.list_rollouts(session, surface=world.rollout(RolloutId(2)).surface, active_only=True)
        rollouts.apply_command(session, active.rollout_id, Command.ABORT, by="ann", now=world.now, reason="test")
    pending = world.roll_out("search", search_candidate)
    world.now += LOOK

    report = tick(world.sessions, world.log, now=world.now, live_since=world.now - timedelta(days=1), epoch=None)

    assert list(report.failed) == [1]
    assert report.commands[pending] is Command.START


def test_the_aggregator_computes_what_the_tick_will_need(world: World) -> None:
    in_shadow(world)
    world.live(2)

    assert aggregate_once(world.sessions, world.log, now=world.now) == 1


def test_events_still_on_their_way_are_waited_for(world: World) -> None:
    rollout_id = in_shadow(world)
    start = world.rollout(rollout_id).started_at
    assert start is not None

    at_once = load(world.sessions, rollout_id, now=world.now, live_since=world.now)
    later = load(world.sessions, rollout_id, now=world.now + HOUR, live_since=world.now)

    assert at_once.query.as_of_ms == round(start.timestamp() * 1_000)
    assert later.query.as_of_ms == round((world.now + HOUR - timedelta(minutes=5)).timestamp() * 1_000)
