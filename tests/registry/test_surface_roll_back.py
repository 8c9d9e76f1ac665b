"""The button for three in the morning takes back what users got last, in one call, and twice is the same as once."""

import pytest
from sqlalchemy.orm import Session

from control_plane.domain.errors import NoSafeVersion, StaleGeneration
from control_plane.domain.model_version import VersionId
from control_plane.domain.rollout import Command, Phase
from control_plane.domain.verdict import Outcome
from control_plane.registry import arrivals, history, model_versions, rollouts, stables, surfaces
from control_plane.registry.session import Sessions
from control_plane.registry.surfaces import SurfaceState
from tests.builders import HOME_FEED, NOON, VIEW_TYPES, a_version
from tests.registry import scene
from tests.registry.scene import LATER

STABLE, PROVEN = a_version("a").version_id, a_version("first").version_id
WITHOUT_WEIGHT = (Phase.PENDING, Phase.WARMING, Phase.SHADOW)


def serving(session: Session) -> None:
    """Stable a over the last proven first, both set by hand."""
    scene.a_serving_surface(session, a_version("a"), before=a_version("first"))


def pressed(session: Session, *, seen_generation: int | None = None) -> SurfaceState:
    return stables.roll_back_surface(
        session, HOME_FEED, by="on-call", reason="clicks fell", now=LATER, seen_generation=seen_generation
    )


def roles(state: SurfaceState) -> tuple[VersionId | None, VersionId | None, int]:
    return state.stable, state.candidate, state.candidate_bp


@pytest.mark.parametrize("phase", [Phase.RAMPING, Phase.WATCHING, Phase.HELD, Phase.EXPIRED])
def test_a_candidate_with_weight_goes_home_and_stable_stays(sessions: Sessions, phase: Phase) -> None:
    with sessions.writing() as session:
        serving(session)
        rollout_id = scene.a_rollout_in(session, phase)

        first, again = pressed(session), pressed(session)

        assert roles(first) == (STABLE, None, 0)
        assert again == first
        assert rollouts.get(session, rollout_id).phase is Phase.ROLLED_BACK
        assert history.verify(session) == []


@pytest.mark.parametrize("phase", WITHOUT_WEIGHT)
def test_with_a_candidate_that_answers_nobody_stable_goes_to_last_proven(sessions: Sessions, phase: Phase) -> None:
    with sessions.writing() as session:
        serving(session)
        rollout_id = scene.a_rollout_in(session, phase)

        first, again = pressed(session), pressed(session)
        end = history.list_history(session, HOME_FEED, 2)[1]

        assert roles(first) == (PROVEN, None, 0)
        assert again == first
        assert (rollouts.get(session, rollout_id).phase, end.command) == (Phase.ROLLED_BACK, "make_way")
        assert end.reason == "home_feed's stable is rolled back: clicks fell"
        assert not model_versions.get(session, a_version("b").version_id).is_aborted, "nothing was said against it"
        assert history.verify(session) == []


def test_a_stable_that_a_rollout_made_goes_with_that_rollout(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        done = scene.a_rollout_in(session, Phase.DONE)
        scene.a_rollout_in(session, Phase.SHADOW, a_version("c"))

        state = pressed(session)

        assert roles(state) == (STABLE, None, 0)
        assert rollouts.get(session, done).phase is Phase.ROLLED_BACK


@pytest.mark.parametrize("phase", WITHOUT_WEIGHT)
def test_where_stable_has_nothing_to_go_back_to_the_rollout_ends(sessions: Sessions, phase: Phase) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, phase)

        first, again = pressed(session), pressed(session)

        assert roles(first) == (STABLE, None, 0)
        assert again == first
        assert rollouts.get(session, rollout_id).phase is Phase.ROLLED_BACK
        with pytest.raises(NoSafeVersion):
            pressed(session, seen_generation=first.generation)


def test_who_presses_after_the_queue_moved_on_does_not_go_back_a_second_version(sessions: Sessions) -> None:
    with sessions.writing() as session:
        serving(session)
        scene.a_rollout_in(session, Phase.RAMPING)
        queued = scene.a_queued_rollout(session, a_version("c"))
        pressed(session)
        arrivals.dequeue(session, HOME_FEED, now=LATER)

        state = pressed(session)

        assert state.stable == STABLE
        assert rollouts.get(session, queued).phase is Phase.ROLLED_BACK
        assert not model_versions.get(session, a_version("c").version_id).is_aborted


@pytest.mark.parametrize("command", [Command.ROLL_BACK, Command.ABORT])
def test_who_saw_that_users_are_home_takes_stable_away_too_and_once(sessions: Sessions, command: Command) -> None:
    with sessions.writing() as session:
        serving(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        scene.commanded(session, rollout_id, command)
        seen = surfaces.get(session, HOME_FEED).generation

        assert pressed(session).stable == STABLE
        first, again = pressed(session, seen_generation=seen), pressed(session, seen_generation=seen)

        assert (first.stable, again) == (PROVEN, first)


def test_a_restart_has_taken_users_home_already(sessions: Sessions) -> None:
    with sessions.writing() as session:
        serving(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        rollouts.restart(session, rollout_id, plan=None, by="ada", reason="log gap", now=NOON, seen_generation=None)

        assert pressed(session).stable == STABLE


def test_a_stable_that_another_adopted_meanwhile_does_not_go_by_a_press_that_saw_the_one_before(
    sessions: Sessions,
) -> None:
    with sessions.writing() as session:
        serving(session)
        seen = surfaces.get(session, HOME_FEED).generation
        scene.adopted(session, scene.registered(session, a_version("mended")))

        with pytest.raises(StaleGeneration):
            pressed(session, seen_generation=seen)


def test_a_press_that_saw_less_weight_takes_the_candidate_home_all_the_same(sessions: Sessions) -> None:
    with sessions.writing() as session:
        serving(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        seen = surfaces.get(session, HOME_FEED).generation
        verdict_id = scene.a_stored_verdict(session, rollout_id, Outcome.ADVANCE)
        scene.commanded(session, rollout_id, Command.ADVANCE, verdict_id=verdict_id)

        assert roles(pressed(session, seen_generation=seen)) == (STABLE, None, 0)


def test_a_surface_where_nothing_ever_served_has_no_way_back(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)

        with pytest.raises(NoSafeVersion):
            pressed(session)
