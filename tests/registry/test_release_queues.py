"""Releases that find a surface busy, and rollouts of a release that wait in line while its other surfaces go back."""

from dataclasses import replace

import pytest
from sqlalchemy.orm import Session

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface, digest_of
from control_plane.domain.rollout import Command, OnBusy, Phase
from control_plane.domain.surface_graph import Edge, OnUpstreamRollback
from control_plane.registry import arrivals, history, release_rows, releases, rollouts, surfaces
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, a_plan, a_version
from tests.registry import scene
from tests.registry.scene import LATER, RELATED_PINS, SEARCH, SURFACES

HOLD, CASCADE, IGNORE = OnUpstreamRollback
EDGE = Edge(upstream=HOME_FEED, downstream=SEARCH, share_bp=100, held_seconds=3_600.0)


def serving(session: Session) -> None:
    for surface in SURFACES:
        scene.a_serving_surface(session, a_version("a", surface=surface))


def released(
    session: Session,
    policy: OnUpstreamRollback = HOLD,
    *,
    on_busy: OnBusy = OnBusy.QUEUE,
    upstream: Surface = HOME_FEED,
    name: str = "b",
    trunk: str = "trunk",
) -> int:
    """`upstream` → search. Only upstream's candidate has the trunk."""
    candidates = {
        upstream: scene.registered(session, a_version(name, surface=upstream, trunk=trunk)),
        SEARCH: scene.registered(session, a_version(name, surface=SEARCH)),
    }
    edges = [replace(EDGE, upstream=upstream, on_rollback=policy)]
    return arrivals.create_release(session, candidates, a_plan(), edges, by="grace", now=NOON, on_busy=on_busy)


def phases(session: Session, release_id: int) -> dict[str, Phase]:
    return {surface: found.phase for surface, found in release_rows.rollouts_of(session, release_id).items()}


def rolled_back(session: Session, release_id: int, surface: Surface = HOME_FEED) -> None:
    rollout_id = release_rows.rollouts_of(session, release_id)[surface].rollout_id
    rollouts.apply_command(session, rollout_id, Command.ROLL_BACK, by="on-call", now=LATER, reason="clicks fell")


def test_a_release_queues_where_a_surface_is_busy_and_says_behind_what(sessions: Sessions) -> None:
    with sessions.writing() as session:
        serving(session)
        busy = scene.a_rollout_in(session, Phase.RAMPING, a_version("c", surface=SEARCH))

        release_id = released(session)
        blocked = releases.blockers(
            session,
            release_rows.load(session, release_id),
            release_rows.rollouts_of(session, release_id),
            now=LATER,
        )

        assert phases(session, release_id) == {HOME_FEED: Phase.PENDING, SEARCH: Phase.QUEUED}
        assert rollouts.get(session, busy).phase is Phase.RAMPING
        assert blocked == {SEARCH: "home_feed to reach 1 %"}
        scene.walk(session, release_rows.rollouts_of(session, release_id)[HOME_FEED].rollout_id, until=Phase.RAMPING)
        assert releases.blockers(
            session,
            release_rows.load(session, release_id),
            release_rows.rollouts_of(session, release_id),
            now=LATER,
        ) == {SEARCH: f"rollout {busy} to end"}
        assert history.verify(session) == []


def test_a_release_that_replaces_aborts_every_rollout_in_its_way_and_what_follows_those(sessions: Sessions) -> None:
    with sessions.writing() as session:
        serving(session)
        first = released(session, CASCADE, on_busy=OnBusy.REJECT)
        scene.walk(session, release_rows.rollouts_of(session, first)[HOME_FEED].rollout_id, until=Phase.RAMPING)

        second = released(session, name="c", on_busy=OnBusy.REPLACE)

        assert set(phases(session, first).values()) == {Phase.ROLLED_BACK}
        assert set(phases(session, second).values()) == {Phase.PENDING}
        carried = [surfaces.get(session, surface).rollout_id for surface in (HOME_FEED, SEARCH)]
        found = release_rows.rollouts_of(session, second)
        assert carried == [found[surface].rollout_id for surface in (HOME_FEED, SEARCH)]
        assert surfaces.get(session, HOME_FEED).candidate_bp == 0
        assert history.verify(session) == []


def test_a_release_that_may_not_replace_on_one_surface_replaces_on_none(sessions: Sessions) -> None:
    with sessions.writing() as session:
        serving(session)
        standing = scene.a_rollout_in(session, Phase.RAMPING, a_version("c", surface=HOME_FEED))
        scene.a_rollout_in(session, Phase.RAMPING, a_version("b", surface=SEARCH))
        before = surfaces.list_surfaces(session)

    with pytest.raises(InvalidField, match="restart that one"), sessions.writing() as session:
        released(session, on_busy=OnBusy.REPLACE)

    with sessions.reading() as session:
        assert rollouts.get(session, standing).phase is Phase.RAMPING
        assert surfaces.list_surfaces(session) == before
        assert release_rows.list_releases(session, limit=1) == []


def test_a_queued_follower_loses_its_place_with_its_upstream_and_what_serves_on_its_surface_stays(
    sessions: Sessions,
) -> None:
    with sessions.writing() as session:
        serving(session)
        standing = scene.a_rollout_in(session, Phase.RAMPING, a_version("c", surface=SEARCH))
        release_id = released(session, CASCADE)
        before = surfaces.get(session, SEARCH)

        rolled_back(session, release_id)
        after, told = surfaces.get(session, SEARCH), history.list_history(session, SEARCH, 1)[0]

        assert set(phases(session, release_id).values()) == {Phase.ROLLED_BACK}
        assert (after.rollout_id, after.candidate_bp) == (standing, before.candidate_bp)
        assert (told.command, told.reason) == ("roll_back", "home_feed was rolled back: clicks fell")
        assert rollouts.list_queued(session) == []
        assert history.verify(session) == []
        scene.a_queued_rollout(session, a_version("b", surface=SEARCH))  # it bears no stain


def test_a_queued_follower_that_holds_keeps_its_place_and_then_waits_for_a_person(sessions: Sessions) -> None:
    with sessions.writing() as session:
        serving(session)
        standing = scene.a_rollout_in(session, Phase.RAMPING, a_version("c", surface=SEARCH))
        release_id = released(session, HOLD)

        rolled_back(session, release_id)
        scene.commanded(session, standing, Command.ABORT)
        taken = arrivals.dequeue(session, SEARCH, now=LATER)

        assert taken is not None
        assert phases(session, release_id)[SEARCH] is Phase.PENDING
        assert releases.blocker(session, release_id, SEARCH, now=LATER) == "a person: home_feed was rolled back"


def test_a_queued_follower_that_ignores_its_upstream_keeps_its_place(sessions: Sessions) -> None:
    with sessions.writing() as session:
        serving(session)
        scene.a_rollout_in(session, Phase.RAMPING, a_version("c", surface=SEARCH))
        release_id = released(session, IGNORE)

        rolled_back(session, release_id)

        assert phases(session, release_id)[SEARCH] is Phase.QUEUED


def test_what_follows_an_upstream_that_leaves_its_queue_goes_with_it(sessions: Sessions) -> None:
    with sessions.writing() as session:
        serving(session)
        scene.a_rollout_in(session, Phase.RAMPING, a_version("c"))
        release_id = released(session, CASCADE)
        assert phases(session, release_id) == {HOME_FEED: Phase.QUEUED, SEARCH: Phase.PENDING}

        rolled_back(session, release_id)

        assert set(phases(session, release_id).values()) == {Phase.ROLLED_BACK}
        assert surfaces.get(session, SEARCH).rollout_id is None


def test_what_follows_a_queued_upstream_that_may_not_serve_any_more_goes_with_it(sessions: Sessions) -> None:
    with sessions.writing() as session:
        serving(session)
        standing = scene.a_rollout_in(session, Phase.SHADOW, a_version("c"))
        release_id = released(session, CASCADE, trunk="bad")
        rollouts.quarantine(session, digest_of(b"bad"), by="ann", reason="NaN scores", now=NOON)
        scene.commanded(session, standing, Command.ABORT)

        assert arrivals.dequeue(session, HOME_FEED, now=LATER) is None
        assert set(phases(session, release_id).values()) == {Phase.ROLLED_BACK}
        assert history.verify(session) == []


def test_two_followers_of_one_surface_one_serving_and_one_queued_go_back_in_one_transaction(
    sessions: Sessions,
) -> None:
    with sessions.writing() as session:
        serving(session)
        first = released(session, CASCADE, trunk="bad")
        second = released(session, CASCADE, trunk="bad", upstream=RELATED_PINS, name="d")
        scene.walk(session, release_rows.rollouts_of(session, first)[SEARCH].rollout_id, until=Phase.RAMPING)
        assert phases(session, second)[SEARCH] is Phase.QUEUED

    with sessions.writing() as session:
        rollouts.quarantine(session, digest_of(b"bad"), by="ann", reason="NaN scores", now=LATER)

    with sessions.reading() as session:
        assert set(phases(session, first).values()) == set(phases(session, second).values()) == {Phase.ROLLED_BACK}
        assert surfaces.get(session, SEARCH).candidate_bp == 0
        assert history.verify(session) == []
