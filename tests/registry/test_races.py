"""Two at once. Each test runs real threads, each in its own session, against one database."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from sqlalchemy.orm import Session

from control_plane.domain.errors import ControlPlaneError, StaleGeneration, SurfaceBusy
from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Command, Phase
from control_plane.domain.surface_graph import Edge, OnUpstreamRollback
from control_plane.registry import arrivals, history, leases, release_rows, rollouts, stables, surfaces
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, a_plan, a_version
from tests.registry import scene
from tests.registry.scene import SEARCH, SURFACES

Deed = Callable[[Session], object]


def outcomes(sessions: Sessions, *deeds: Deed) -> list[object]:
    """What each of these returned or raised, all started at the same moment."""
    barrier = Barrier(len(deeds))

    def run(deed: Deed) -> object:
        barrier.wait(timeout=10)
        try:
            with sessions.writing() as session:
                return deed(session)
        except ControlPlaneError as error:
            return error

    with ThreadPoolExecutor(len(deeds)) as pool:
        return list(pool.map(run, deeds))


def test_of_two_commands_on_the_same_generation_exactly_one_wins(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        seen = surfaces.get(session, HOME_FEED).generation

    def command(by: str, wanted: Command) -> Deed:
        return lambda session: rollouts.apply_command(
            session, rollout_id, wanted, by=by, now=NOON, seen_generation=seen, reason="looks fine"
        )

    found = outcomes(sessions, command("ada", Command.SKIP), command("grace", Command.APPROVE))

    assert sorted(isinstance(outcome, StaleGeneration) for outcome in found) == [False, True]
    with sessions.reading() as session:
        assert surfaces.get(session, HOME_FEED).generation == seen + 1
        assert history.verify(session) == []


def test_of_two_rollouts_for_one_surface_exactly_one_is_made(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        candidates = [scene.registered(session, a_version(name)) for name in ("b", "c")]

    found = outcomes(
        sessions,
        *(
            lambda session, candidate=candidate: arrivals.create(
                session, HOME_FEED, candidate, a_plan(), by="ada", now=NOON
            )
            for candidate in candidates
        ),
    )

    assert sorted(isinstance(outcome, SurfaceBusy) for outcome in found) == [False, True]


def test_a_roll_back_gets_through_whatever_the_scheduler_does(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        epoch = leases.acquire(session, leases.SCHEDULER, "one", 60)
        seen = surfaces.get(session, HOME_FEED).generation

    def tick(session: Session) -> object:
        verdict_id = scene.a_passing_verdict(session, rollout_id)
        return rollouts.apply_command(
            session,
            rollout_id,
            Command.ADVANCE,
            by="scheduler",
            now=NOON,
            seen_generation=seen,
            verdict_id=verdict_id,
            epoch=epoch,
        )

    def button(session: Session) -> object:
        return stables.roll_back_surface(session, HOME_FEED, by="on-call", reason="", now=NOON)

    _, pressed = outcomes(sessions, tick, button)

    assert not isinstance(pressed, Exception)
    with sessions.reading() as session:
        assert surfaces.get(session, HOME_FEED).candidate is None
        assert history.verify(session) == []


def test_quarantines_and_rollouts_on_all_surfaces_at_once_leave_nothing_bad_serving(sessions: Sessions) -> None:
    with sessions.writing() as session:
        for surface in SURFACES:
            scene.a_serving_surface(session, a_version("good", surface=surface))
            scene.registered(session, a_version("bad", surface=surface, trunk="bad"))

    def start(surface: Surface) -> Deed:
        candidate = a_version("bad", surface=surface, trunk="bad").version_id
        return lambda session: arrivals.create(session, surface, candidate, a_plan(), by="ada", now=NOON)

    def ban(session: Session) -> object:
        return rollouts.quarantine(session, a_version(trunk="bad").trunk, by="on-call", reason="", now=NOON)

    outcomes(sessions, *(start(surface) for surface in reversed(SURFACES)), ban)

    with sessions.reading() as session:
        assert [state.rollout_id for state in surfaces.list_surfaces(session)] == [None, None, None]
        assert history.verify(session) == []


def test_of_many_schedulers_exactly_one_gets_the_lease(sessions: Sessions) -> None:
    def acquire(holder: str) -> Deed:
        return lambda session: leases.acquire(session, leases.SCHEDULER, holder, 60)

    found = outcomes(sessions, *(acquire(f"replica {number}") for number in range(5)))

    assert sorted(found, key=str) == [1, None, None, None, None]


def test_a_roll_back_that_waited_while_its_rollout_came_to_be_done_takes_along_what_now_stands_on_it(
    sessions: Sessions,
) -> None:
    """On PostgreSQL it read the rollout before it was done, and has to lock more than it thought."""
    cascade = Edge(
        upstream=HOME_FEED, downstream=SEARCH, share_bp=100, held_seconds=0, on_rollback=OnUpstreamRollback.CASCADE
    )
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_serving_surface(session, a_version("a", surface=SEARCH))
        first = scene.a_rollout_in(session, Phase.WATCHING)
        candidates = {
            surface: scene.registered(session, a_version("c", surface=surface)) for surface in (HOME_FEED, SEARCH)
        }

    def roll_back() -> None:
        with sessions.writing() as session:
            rollouts.apply_command(session, first, Command.ROLL_BACK, by="on-call", now=NOON)

    with ThreadPoolExecutor(1) as pool:
        with sessions.writing() as session:
            scene.walk(session, first, until=Phase.DONE)
            waiting = pool.submit(roll_back)
            time.sleep(0.5)
            release_id = arrivals.create_release(session, candidates, a_plan(), [cascade], by="ada", now=NOON)
        waiting.result(timeout=20)

    with sessions.reading() as session:
        assert rollouts.get(session, first).phase is Phase.ROLLED_BACK
        followed = release_rows.rollouts_of(session, release_id).values()
        assert {rollout.phase for rollout in followed} == {Phase.ROLLED_BACK}
        assert surfaces.get(session, HOME_FEED).stable == a_version("a").version_id
        assert history.verify(session) == []
