"""A lease that has run out is renewed only under a new generation."""

from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from control_plane.domain.errors import Deposed, StaleGeneration
from control_plane.domain.rollout import Command, Phase, Rollout, RolloutId
from control_plane.domain.surface_graph import Edge, blocked_by
from control_plane.domain.verdict import Outcome
from control_plane.registry import arrivals, history, releases, rollouts, surfaces
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, a_plan, a_version
from tests.registry import scene
from tests.registry.scene import SEARCH

UNWATCHED = timedelta(seconds=a_plan().unwatched_seconds)
LONG_AFTER = NOON + timedelta(hours=3, minutes=10)


def renewed(session: Session, rollout_id: RolloutId, *, epoch: int | None = None) -> Rollout:
    """A check long after the lease ran out, and what follows from it."""
    generation = surfaces.get(session, HOME_FEED).generation
    verdict_id = scene.a_stored_verdict(session, rollout_id, Outcome.ADVANCE, now=LONG_AFTER)
    return rollouts.renew_watch(
        session,
        rollout_id,
        by="scheduler",
        now=LONG_AFTER,
        seen_generation=generation,
        verdict_id=verdict_id,
        epoch=epoch,
    )


def test_a_candidate_is_at_home_from_the_moment_its_lease_runs_out(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.RAMPING)
        state = surfaces.get(session, HOME_FEED)

    assert state.home_since(now=NOON + UNWATCHED - timedelta(milliseconds=1)) is None
    assert state.home_since(now=NOON + UNWATCHED) == NOON + UNWATCHED
    assert state.home_since(now=LONG_AFTER) == NOON + UNWATCHED
    assert state.without_candidate().home_since(now=LONG_AFTER) is None


def test_a_check_alone_never_renews_a_lease_that_has_run_out(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)

        scene.a_stored_verdict(session, rollout_id, Outcome.ADVANCE, now=LONG_AFTER)

        assert surfaces.get(session, HOME_FEED).lease_renewed_at == NOON


def test_time_at_home_is_kept_apart_from_the_rollouts_own(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)

        renewed(session, rollout_id)
        rollout = rollouts.get(session, rollout_id)

    at_home = LONG_AFTER - (NOON + UNWATCHED)
    assert rollout.started_at == NOON
    assert (rollout.counted_from, rollout.entered_at) == (NOON + at_home, NOON + at_home)


@pytest.mark.parametrize("phase", [Phase.RAMPING, Phase.WATCHING, Phase.HELD, Phase.EXPIRED])
def test_a_candidate_comes_back_under_a_new_generation_of_its_own(sessions: Sessions, phase: Phase) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, phase)
        before, rollout = surfaces.get(session, HOME_FEED), rollouts.get(session, rollout_id)

        becomes = renewed(session, rollout_id)

        after = surfaces.get(session, HOME_FEED)
        (entry,) = history.list_history(session, HOME_FEED, limit=1)
        split = surfaces.splits(session, now=LONG_AFTER)[HOME_FEED]
        assert history.verify(session) == []
        assert rollouts.get(session, rollout_id) == becomes
    assert (after.generation, after.lease_renewed_at) == (before.generation + 1, LONG_AFTER)
    assert (after.candidate, after.candidate_bp, after.salt) == (before.candidate, before.candidate_bp, before.salt)
    assert split.unwatched_seconds_left == a_plan().unwatched_seconds
    assert (entry.command, entry.by, entry.seq) == ("renew_watch", "scheduler", after.generation)
    assert entry.reason == "nobody watched for 3 h 10 min; the candidate had gone home and comes back"
    assert entry.verdict_id is not None
    assert (becomes.phase, becomes.step, becomes.stage_generation) == (
        rollout.phase, rollout.step, rollout.stage_generation
    )  # fmt: skip
    assert becomes.entered_at - rollout.entered_at == LONG_AFTER - NOON - UNWATCHED


def test_what_was_renewed_is_not_renewed_again(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        once = renewed(session, rollout_id)
        generation = surfaces.get(session, HOME_FEED).generation

        assert renewed(session, rollout_id) == once
        assert surfaces.get(session, HOME_FEED).generation == generation


def test_a_verdict_from_before_the_candidate_came_back_advances_nothing(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        seen = surfaces.get(session, HOME_FEED).generation
        renewed(session, rollout_id)

        with pytest.raises(StaleGeneration):
            rollouts.apply_command(
                session, rollout_id, Command.ADVANCE, by="scheduler", now=LONG_AFTER, seen_generation=seen
            )


def test_a_rollout_that_was_rolled_back_does_not_come_back(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        scene.commanded(session, rollout_id, Command.ROLL_BACK)

        assert renewed(session, rollout_id).phase is Phase.ROLLED_BACK
        assert surfaces.get(session, HOME_FEED).candidate_bp == 0


def test_a_deposed_scheduler_brings_nobody_back(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)

    with pytest.raises(Deposed), sessions.writing() as session:
        renewed(session, rollout_id, epoch=7)


def test_time_at_home_does_not_open_the_way_downstream(sessions: Sessions) -> None:
    edge = Edge(upstream=HOME_FEED, downstream=SEARCH, share_bp=100, held_seconds=7_200.0)
    with sessions.writing() as session:
        candidates = {}
        for surface in (HOME_FEED, SEARCH):
            scene.a_serving_surface(session, a_version("a", surface=surface))
            candidates[surface] = scene.registered(session, a_version("b", surface=surface))
        release_id = arrivals.create_release(session, candidates, a_plan(), [edge], by="ada", now=NOON)
        (rollout,) = rollouts.list_rollouts(session, surface=HOME_FEED)
        scene.walk(session, rollout.rollout_id, until=Phase.RAMPING)
        renewed(session, rollout.rollout_id)

        progress = releases.progress(session, release_id)

    assert blocked_by(SEARCH, [edge], progress, now=LONG_AFTER) == "home_feed to hold 1 % for 2 h"
