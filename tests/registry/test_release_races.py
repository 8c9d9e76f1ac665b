"""What is above in a release goes back between a scheduler's look at a surface below and what it does there."""

from datetime import timedelta

from control_plane.domain.decision import decide
from control_plane.domain.rollout import Command, Phase
from control_plane.domain.surface_graph import Edge, OnUpstreamRollback
from control_plane.registry import arrivals, release_rows, rollouts
from control_plane.registry.session import Sessions
from control_plane.scheduler.applied import apply
from control_plane.scheduler.loaded import load
from tests.builders import HOME_FEED, NOON, a_plan, a_version
from tests.registry import scene
from tests.registry.scene import SEARCH

LATER = NOON + timedelta(hours=1)


def test_a_start_that_was_decided_on_before_does_not_happen(sessions: Sessions) -> None:
    edge = Edge(
        upstream=HOME_FEED,
        downstream=SEARCH,
        share_bp=100,
        held_seconds=0.0,
        needs_green=False,
        on_rollback=OnUpstreamRollback.HOLD,
    )
    with sessions.writing() as session:
        candidates = {}
        for surface in (HOME_FEED, SEARCH):
            scene.a_serving_surface(session, a_version("stable", surface=surface))
            candidates[surface] = scene.registered(session, a_version("b", surface=surface, trunk="b"))
        release_id = arrivals.create_release(session, candidates, a_plan(), [edge], by="ada", now=NOON)
        above, below = (release_rows.rollouts_of(session, release_id)[s].rollout_id for s in (HOME_FEED, SEARCH))
        scene.walk(session, above, until=Phase.RAMPING)
    loaded = load(sessions, below, now=LATER, live_since=NOON)
    decision = decide(loaded.rollout, None, readiness=loaded.readiness, now=LATER)
    assert decision.command is Command.START
    with sessions.writing() as session:
        scene.commanded(session, above, Command.ROLL_BACK, reason="bad", now=LATER)

    applied = apply(sessions, loaded, None, decision, now=LATER, epoch=None)

    assert applied is None
    with sessions.reading() as session:
        assert rollouts.get(session, below).phase is Phase.PENDING
