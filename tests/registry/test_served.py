from datetime import timedelta

import pytest
from sqlalchemy import event

from control_plane.domain.errors import NothingServed, UnknownName
from control_plane.domain.rollout import Command, Phase
from control_plane.registry import rollouts, runtimes
from control_plane.registry.served import Followers, followers, served_at
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, a_version
from tests.registry import scene

LATER = NOON + timedelta(hours=1)


def test_what_served_at_a_moment_is_told_with_who_set_it_and_why(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        scene.commanded(session, rollout_id, Command.ROLL_BACK, now=LATER)

        before = served_at(session, HOME_FEED, LATER - timedelta(seconds=1))
        after = served_at(session, HOME_FEED, LATER)

    assert (before.stable, before.candidate, before.weight_bp) == (stable, a_version("b").version_id, 100)
    assert (before.command, before.by, before.rollout_id, before.until) == ("advance", "ada", rollout_id, LATER)
    assert (after.candidate, after.weight_bp, after.since, after.until) == (None, 0, LATER, None)
    assert after.generation == before.generation + 1
    assert before.verdict_id is not None


def test_when_runtimes_took_a_stage_on_is_known_after_the_stage_too(sessions: Sessions) -> None:
    minute = timedelta(minutes=1)
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        seen = served_at(session, HOME_FEED, NOON).generation
        rollouts.acknowledge(session, rollout_id, seen_generation=seen, at=NOON + minute)
        standing = served_at(session, HOME_FEED, NOON + 2 * minute)
        scene.commanded(session, rollout_id, Command.HOLD, now=LATER)
        held = served_at(session, HOME_FEED, LATER)
        scene.commanded(session, rollout_id, Command.ROLL_BACK, now=LATER + minute)

        early = served_at(session, HOME_FEED, NOON)
        then = served_at(session, HOME_FEED, NOON + 2 * minute)
        at_hold = served_at(session, HOME_FEED, LATER)
        home = served_at(session, HOME_FEED, LATER + minute)

    assert [served.acknowledged_at for served in (standing, held, early, then, at_hold)] == [NOON + minute] * 5
    assert [served.was_acknowledged for served in (early, then)] == [False, True]
    assert (home.acknowledged_at, home.was_acknowledged) == (None, None)


def test_who_follows_at_present_is_told_of_what_serves_still_alone(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        before = served_at(session, HOME_FEED, NOON)
        for runtime_id, generation in (("gpu-a", before.generation), ("gpu-b", before.generation - 1)):
            beat = runtimes.Heartbeat(
                runtime_id=runtime_id,
                generations={HOME_FEED: generation},
                loaded=(),
                counts={},
                shadow_dropped=0,
                splits_mode="push",
            )
            runtimes.record_heartbeat(session, beat, now=NOON, seen_at=NOON)

        assert followers(session, before, live_since=NOON) == Followers(live=2, serving=1)
        assert followers(session, before, live_since=LATER) == Followers(live=0, serving=0)
        scene.commanded(session, rollout_id, Command.ROLL_BACK, now=LATER)
        assert followers(session, served_at(session, HOME_FEED, NOON), live_since=NOON) is None


def test_before_anything_was_adopted_nothing_served(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)

        with pytest.raises(NothingServed, match=r"home_feed served nothing yet at 2026-03-02 12:00:00"):
            served_at(session, HOME_FEED, NOON - timedelta(days=1))


def test_an_unknown_surface_is_told_as_such(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)

        with pytest.raises(UnknownName, match="known: home_feed"):
            served_at(session, scene.SEARCH, NOON)


def test_it_takes_one_query(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
    asked: list[str] = []
    event.listen(sessions.engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))

    with sessions.reading() as session:
        served_at(session, HOME_FEED, NOON)

    assert len([statement for statement in asked if statement.lstrip().startswith("SELECT")]) == 1
