from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from control_plane.domain.errors import InvalidPlan, SurfaceBusy, UnknownName
from control_plane.domain.rollout import Command, Phase, RolloutId
from control_plane.domain.surface_graph import Edge, blocked_by
from control_plane.domain.verdict import Answer, Finding, Outcome
from control_plane.registry import evidence, rollouts
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, a_plan, a_verdict, a_version
from tests.registry import scene
from tests.registry.scene import LATER, SEARCH

EDGE = Edge(upstream=HOME_FEED, downstream=SEARCH, share_bp=100, held_seconds=3_600.0)


def a_release(session: Session) -> int:
    candidates = {}
    for surface in (HOME_FEED, SEARCH):
        scene.a_serving_surface(session, a_version("a", surface=surface))
        candidates[surface] = scene.registered(session, a_version("b", surface=surface))
    return rollouts.create_release(session, candidates, a_plan(), [EDGE], by="ada", now=NOON)


def rollout_on(session: Session, surface: str) -> RolloutId:
    return next(rollout.rollout_id for rollout in rollouts.list_rollouts(session) if rollout.surface == surface)


def test_a_release_makes_one_pending_rollout_a_surface(sessions: Sessions) -> None:
    with sessions.writing() as session:
        release_id = a_release(session)

        made = rollouts.list_rollouts(session, release_id=release_id)

        assert {rollout.surface for rollout in made} == {HOME_FEED, SEARCH}
        assert {(rollout.phase, rollout.release_id) for rollout in made} == {(Phase.PENDING, release_id)}
        assert rollouts.release_edges(session, release_id) == (EDGE,)


def test_a_release_is_made_whole_or_not_at_all(sessions: Sessions) -> None:
    with sessions.writing() as session:
        for surface in (HOME_FEED, SEARCH):
            scene.a_serving_surface(session, a_version("a", surface=surface))
            scene.registered(session, a_version("b", surface=surface))
        busy = scene.a_pending_rollout(session, a_version("c", surface=SEARCH))
    candidates = {surface: a_version("b", surface=surface).version_id for surface in (HOME_FEED, SEARCH)}

    with pytest.raises(SurfaceBusy), sessions.writing() as session:
        rollouts.create_release(session, candidates, a_plan(), [], by="ada", now=NOON)

    with sessions.reading() as session:
        assert [rollout.rollout_id for rollout in rollouts.list_rollouts(session)] == [busy]


def test_edges_that_lead_out_of_the_release_are_refused(sessions: Sessions) -> None:
    with sessions.writing() as session, pytest.raises(InvalidPlan, match=r"edges\[0\].upstream"):
        rollouts.create_release(session, {}, a_plan(), [EDGE], by="ada", now=NOON)


def test_search_waits_until_home_feed_held_its_share_with_green_guardrails(sessions: Sessions) -> None:
    with sessions.writing() as session:
        release_id = a_release(session)

        def blocker() -> str | None:
            progress = rollouts.progress(session, release_id, now=LATER)
            return blocked_by(SEARCH, rollouts.release_edges(session, release_id), progress, now=LATER)

        home_feed = rollout_on(session, HOME_FEED)
        assert blocker() == "home_feed to reach 1 %"
        scene.walk(session, home_feed, until=Phase.RAMPING)
        assert blocker() is None
        harm = Finding(metric="ctr", segment="*", answer=Answer.HARM, gates=True)
        evidence.record_verdict(session, home_feed, a_verdict(findings=(harm,)), b"", now=LATER, next_check_at=LATER)
        assert blocker() == "home_feed's guardrails to be green"
        scene.commanded(session, home_feed, Command.ROLL_BACK)
        assert blocker() == "a person: home_feed was rolled back"


def test_a_share_counts_from_when_it_was_reached_over_holds_and_done(sessions: Sessions) -> None:
    with sessions.writing() as session:
        release_id = a_release(session)
        home_feed = rollout_on(session, HOME_FEED)
        scene.walk(session, home_feed, until=Phase.WATCHING)
        scene.commanded(session, home_feed, Command.HOLD, now=LATER)
        scene.commanded(session, home_feed, Command.RESUME, now=LATER)
        scene.walk(session, home_feed, until=Phase.DONE)

        progress = rollouts.progress(session, release_id, now=LATER + timedelta(days=1))[HOME_FEED]

    assert (progress.candidate_bp, progress.share_since(10_000), progress.is_green) == (10_000, NOON, True)


def test_without_a_verdict_nothing_is_green(sessions: Sessions) -> None:
    with sessions.writing() as session:
        release_id = a_release(session)

        assert not rollouts.progress(session, release_id, now=NOON)[SEARCH].is_green
        scene.a_stored_verdict(session, rollout_on(session, SEARCH), Outcome.HOLD)
        assert rollouts.progress(session, release_id, now=NOON)[SEARCH].is_green


def test_an_unknown_release_is_named(sessions: Sessions) -> None:
    with sessions.reading() as session, pytest.raises(UnknownName, match="release '404'"):
        rollouts.release_edges(session, 404)
