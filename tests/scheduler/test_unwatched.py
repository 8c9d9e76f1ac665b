"""The scheduler stops for longer than the plan allows, the candidate goes home, and the scheduler is back."""

from pathlib import Path

import pytest

from control_plane.domain.decision import Decision
from control_plane.domain.rollout import Command, Phase, RolloutId
from control_plane.domain.verdict import Rule
from control_plane.evidence.aggregate import MomentsReader
from control_plane.registry import evidence, history, rollouts
from control_plane.registry.history import Entry
from control_plane.scheduler.applied import apply
from control_plane.scheduler.judged import judge_evidence
from control_plane.scheduler.loaded import load
from tests.builders import HOME_FEED
from tests.stories.world import HOUR, LOOK, Behaviour, World

LOOKS_AWAY = 9  # 27 h of traffic: 12 h unwatched as the plan allows, then at home beyond the idle stop's patience


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, "home_feed")


def in_the_ramp(world: World, behaviour: Behaviour | None = None) -> RolloutId:
    """One look into the step at 10 %."""
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed", behaviour=behaviour))
    world.live_until(rollout_id, Phase.RAMPING, at_most_days=2)
    world.live(1)
    assert world.rollout(rollout_id).phase is Phase.RAMPING
    return rollout_id


def unwatched(world: World) -> None:
    for _ in range(LOOKS_AWAY):
        world.heartbeat()
        world.serve(9_000)
        world.now += LOOK
    world.heartbeat()


def last_change(world: World) -> Entry:
    with world.sessions.reading() as session:
        assert history.verify(session) == []
        return history.list_history(session, HOME_FEED, limit=1)[0]


def test_the_candidate_comes_back_under_a_new_generation_and_nothing_else_happens(world: World) -> None:
    rollout_id = in_the_ramp(world)
    before, entered_at = world.surface("home_feed"), world.rollout(rollout_id).entered_at
    unwatched(world)

    report = world.tick()

    after, change = world.surface("home_feed"), last_change(world)
    assert report.commands == {}
    assert (after.generation, after.candidate_bp) == (before.generation + 1, before.candidate_bp)
    assert after.lease_renewed_at == world.now
    assert (change.command, change.by) == ("renew_watch", "scheduler")
    assert change.reason == "nobody watched for 27 h; the candidate had gone home and comes back"
    assert world.rollout(rollout_id).entered_at == entered_at + 15 * HOUR
    with world.sessions.reading() as session:
        latest = evidence.latest(session, rollout_id)
    assert latest is not None
    assert latest.verdict.generation == before.generation


def test_users_who_found_the_candidate_at_home_hold_nothing(world: World) -> None:
    rollout_id = in_the_ramp(world)
    unwatched(world)

    world.live_until(rollout_id, Phase.DONE, Phase.HELD, Phase.ROLLED_BACK, at_most_days=6)

    with world.sessions.reading() as session:
        rules = {stored.verdict.rule for stored in evidence.list_verdicts(session, rollout_id, 1_000)}
    assert world.rollout(rollout_id).phase is Phase.DONE
    assert rules.isdisjoint({Rule.SAMPLE_RATIO, Rule.HARD_STOP})


def test_a_verdict_to_advance_waits_until_the_candidate_is_back(world: World) -> None:
    rollout_id = in_the_ramp(world)
    step = world.rollout(rollout_id).step
    unwatched(world)
    loaded = load(world.sessions, rollout_id, now=world.now, live_since=world.now - HOUR)
    judged = judge_evidence(loaded, MomentsReader(world.log))

    decision = Decision(command=Command.ADVANCE, reason="shown safe")
    applied = apply(world.sessions, loaded, judged, decision, now=world.now, epoch=None)

    assert applied is None
    assert world.rollout(rollout_id).step == step
    assert last_change(world).command == "renew_watch"


def test_a_roll_back_does_not_wait(world: World) -> None:
    rollout_id = in_the_ramp(world)
    generation = world.surface("home_feed").generation
    unwatched(world)
    loaded = load(world.sessions, rollout_id, now=world.now, live_since=world.now - HOUR)
    judged = judge_evidence(loaded, MomentsReader(world.log))

    decision = Decision(command=Command.ROLL_BACK, reason="harm")
    applied = apply(world.sessions, loaded, judged, decision, now=world.now, epoch=None)

    assert applied is Command.ROLL_BACK
    assert world.rollout(rollout_id).phase is Phase.ROLLED_BACK
    assert world.surface("home_feed").generation == generation + 1


def test_a_rollout_held_by_a_person_comes_back_held(world: World) -> None:
    rollout_id = in_the_ramp(world)
    with world.sessions.writing() as session:
        rollouts.apply_command(session, rollout_id, Command.HOLD, by="ann", now=world.now, reason="look")
    unwatched(world)

    world.tick()

    assert world.rollout(rollout_id).phase is Phase.HELD
    assert last_change(world).command == "renew_watch"
