import pytest

from control_plane.domain.errors import InvalidField, MissingReason, SurfaceBusy
from control_plane.domain.rollout import Phase
from control_plane.registry import history, lost_generations, surfaces
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON
from tests.registry import scene


def passed_over(sessions: Sessions, generation: int | None, *, reason: str = "restored") -> None:
    with sessions.writing() as session:
        lost_generations.pass_over(session, HOME_FEED, generation, by="ann", reason=reason, now=NOON)


def test_each_lost_generation_has_its_row_and_what_serves_stays(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)

    passed_over(sessions, 4)

    with sessions.reading() as session:
        state = surfaces.get(session, HOME_FEED)
        assert (state.generation, state.stable) == (5, stable)
        assert [entry.command for entry in history.list_history(session, HOME_FEED, 4)] == ["pass_over"] * 4
        assert history.verify(session) == []


def test_a_generation_that_was_not_lost_changes_nothing(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)

    passed_over(sessions, None)
    passed_over(sessions, 0)

    with sessions.reading() as session:
        assert surfaces.get(session, HOME_FEED).generation == 1


def test_a_surface_with_a_rollout_is_not_passed_over(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.SHADOW)

    with pytest.raises(SurfaceBusy):
        passed_over(sessions, 9)


def test_a_reason_is_asked_for_and_a_slip_of_the_finger_refused(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)

    with pytest.raises(MissingReason):
        passed_over(sessions, 4, reason=" ")
    with pytest.raises(InvalidField, match=r"^generation: must be at most 100001"):
        passed_over(sessions, 10**9)
