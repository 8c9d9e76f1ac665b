import pytest
from sqlalchemy import text

from control_plane.domain.errors import NoSafeVersion, Quarantined, UnknownName
from control_plane.domain.model_version import Digest, ModelVersion, Part, Surface, VersionId, digest_of
from control_plane.domain.rollout import Command, Phase
from control_plane.registry import history, model_versions, rollouts, surfaces
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, a_version
from tests.registry import scene
from tests.registry.scene import LATER, RELATED_PINS, SEARCH, SURFACES

BAD = digest_of(b"bad trunk")


def a_bad_version(surface: Surface, name: str = "bad") -> ModelVersion:
    return a_version(name, surface=surface, trunk="bad trunk")


def stables(sessions: Sessions) -> dict[Surface, VersionId | None]:
    with sessions.reading() as session:
        return {state.surface: state.stable for state in surfaces.list_surfaces(session)}


def quarantined(sessions: Sessions, digest: Digest = BAD) -> tuple[Surface, ...]:
    with sessions.writing() as session:
        return rollouts.quarantine(session, digest, by="on-call", reason="scrambled", now=LATER)


def test_a_bad_trunk_leaves_every_surface_in_one_transaction(sessions: Sessions) -> None:
    """A candidate on home_feed, one waiting on search, the stable version of related_pins."""
    with sessions.writing() as session:
        for surface in (HOME_FEED, SEARCH):
            scene.a_serving_surface(session, a_version("good", surface=surface))
        scene.a_serving_surface(session, a_bad_version(RELATED_PINS), before=a_version("good", surface=RELATED_PINS))
        ramping = scene.a_rollout_in(session, Phase.RAMPING, a_bad_version(HOME_FEED))
        pending = scene.a_rollout_in(session, Phase.PENDING, a_bad_version(SEARCH))

    moved = quarantined(sessions)

    with sessions.reading() as session:
        assert moved == SURFACES
        assert stables(sessions) == {s: a_version("good", surface=s).version_id for s in SURFACES}
        assert all(state.candidate is None and state.rollout_id is None for state in surfaces.list_surfaces(session))
        assert {rollouts.get(session, rollout_id).phase for rollout_id in (ramping, pending)} == {Phase.ROLLED_BACK}
        assert {entry.command for entry in history.list_history(session, limit=3)} == {"quarantine"}
        assert history.verify(session) == []


def test_a_damaged_rollout_elsewhere_keeps_no_surface_on_a_bad_trunk(sessions: Sessions) -> None:
    with sessions.writing() as session:
        for surface in (HOME_FEED, SEARCH):
            scene.a_serving_surface(session, a_version("good", surface=surface))
        scene.a_rollout_in(session, Phase.RAMPING, a_bad_version(HOME_FEED))
        elsewhere = scene.a_rollout_in(session, Phase.RAMPING, a_version("sound", surface=SEARCH))
        session.execute(text("UPDATE rollout SET plan = '{}' WHERE rollout_id = :damaged"), {"damaged": elsewhere})

    assert quarantined(sessions) == (HOME_FEED,)


def test_one_surface_with_nowhere_to_go_keeps_all_of_them_where_they_are(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session, a_version("good"))
        scene.a_rollout_in(session, Phase.RAMPING, a_bad_version(HOME_FEED))
        scene.a_serving_surface(session, a_bad_version(SEARCH))
        before = surfaces.list_surfaces(session)

    with sessions.writing() as session, pytest.raises(NoSafeVersion) as refusal:
        rollouts.quarantine(session, BAD, by="on-call", reason="scrambled", now=LATER)

    with sessions.reading() as session:
        assert refusal.value.surface == SEARCH
        assert surfaces.list_surfaces(session) == before
        assert rollouts.list_quarantined(session) == []


def test_a_last_proven_version_with_the_same_trunk_is_no_way_out(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session, a_bad_version(HOME_FEED), before=a_bad_version(HOME_FEED, "worse"))

    with pytest.raises(NoSafeVersion):
        quarantined(sessions)


def test_a_last_proven_version_quarantined_earlier_is_no_way_out(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session, a_version("b"), before=a_bad_version(HOME_FEED))
    assert quarantined(sessions) == (), "the last proven version serves nobody"

    with pytest.raises(NoSafeVersion):
        quarantined(sessions, a_version("b").calibrator)


def test_a_bad_calibrator_leaves_only_its_own_surface(sessions: Sessions) -> None:
    with sessions.writing() as session:
        for surface in (HOME_FEED, SEARCH):
            scene.a_serving_surface(session, a_version("good", surface=surface))
            scene.a_rollout_in(session, Phase.RAMPING, a_version("new", surface=surface))

    moved = quarantined(sessions, a_version("new", surface="search").calibrator)

    with sessions.reading() as session:
        assert moved == (SEARCH,)
        assert surfaces.get(session, HOME_FEED).candidate_bp == 100


def test_a_rollout_whose_stable_version_is_bad_ends_without_a_stain(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session, a_bad_version(HOME_FEED), before=a_version("good"))
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING, a_version("new"))

    quarantined(sessions)

    with sessions.writing() as session:
        state = surfaces.get(session, HOME_FEED)
        assert (state.stable, state.candidate) == (a_version("good").version_id, None)
        assert rollouts.get(session, rollout_id).phase is Phase.ROLLED_BACK
        scene.a_pending_rollout(session, a_version("new"))


def test_a_finished_rollout_of_a_bad_trunk_counts_as_rolled_back(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.DONE, a_bad_version(HOME_FEED))

    quarantined(sessions)

    with sessions.reading() as session:
        assert rollouts.get(session, rollout_id).phase is Phase.ROLLED_BACK
        assert stables(sessions) == {HOME_FEED: a_version("a").version_id}


def test_a_quarantined_digest_is_refused_until_it_is_released(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.registered(session, a_bad_version(HOME_FEED))
    quarantined(sessions)

    with sessions.writing() as session:
        assert model_versions.get(session, a_bad_version(HOME_FEED).version_id).quarantined_parts == ("trunk",)
        with pytest.raises(Quarantined, match="scrambled"):
            scene.a_pending_rollout(session, a_bad_version(HOME_FEED))
        with pytest.raises(Quarantined, match="scrambled"):
            scene.adopted(session, a_bad_version(HOME_FEED).version_id)
        rollouts.release_quarantine(session, BAD, by="ada", reason="the probe was broken", now=LATER)
        scene.a_pending_rollout(session, a_bad_version(HOME_FEED))


def test_quarantining_twice_moves_nothing_more(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.RAMPING, a_bad_version(HOME_FEED))

    assert quarantined(sessions) == (HOME_FEED,)
    assert quarantined(sessions) == ()
    with sessions.reading() as session:
        assert [(held.digest, held.by) for held in rollouts.list_quarantined(session)] == [(BAD, "on-call")]


def test_a_digest_can_be_quarantined_again_after_its_release(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.registered(session, a_bad_version(HOME_FEED))
    quarantined(sessions)
    with sessions.writing() as session:
        rollouts.release_quarantine(session, BAD, by="ada", reason="looked fine", now=LATER)

    quarantined(sessions)

    with sessions.reading() as session:
        assert len(rollouts.list_quarantined(session)) == 1


def test_a_digest_of_no_version_is_refused(sessions: Sessions) -> None:
    with pytest.raises(UnknownName, match="no digest"):
        quarantined(sessions, digest_of(b"a typing error"))


def test_releasing_what_is_free_is_refused(sessions: Sessions) -> None:
    with sessions.writing() as session, pytest.raises(UnknownName):
        rollouts.release_quarantine(session, BAD, by="ada", reason="", now=LATER)


def test_a_roll_back_quarantines_the_parts_to_blame_everywhere(sessions: Sessions) -> None:
    with sessions.writing() as session:
        for surface in (HOME_FEED, SEARCH):
            scene.a_serving_surface(session, a_version("good", surface=surface))
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING, a_bad_version(HOME_FEED))
        scene.a_rollout_in(session, Phase.SHADOW, a_bad_version(SEARCH))

        rollouts.apply_command(
            session, rollout_id, Command.ROLL_BACK, by="scheduler", now=LATER, quarantine_parts=(Part.TRUNK,)
        )

        assert [held.digest for held in rollouts.list_quarantined(session)] == [BAD]
        assert surfaces.get(session, SEARCH).shadow is None
        assert history.verify(session) == []


def test_a_part_that_stable_shares_is_not_to_blame(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session, a_version("good", trunk="shared"))
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING, a_version("new", trunk="shared"))

        rollouts.apply_command(
            session,
            rollout_id,
            Command.ROLL_BACK,
            by="scheduler",
            now=LATER,
            quarantine_parts=(Part.TRUNK, Part.CALIBRATOR),
        )

        held = [quarantine.digest for quarantine in rollouts.list_quarantined(session)]
        assert held == [a_version("new").calibrator]


def test_a_roll_back_happens_even_where_the_quarantine_cannot(sessions: Sessions) -> None:
    """Search serves the same trunk as its only version; home_feed must still be rid of it."""
    with sessions.writing() as session:
        scene.a_serving_surface(session, a_version("good"))
        scene.a_serving_surface(session, a_bad_version(SEARCH))
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING, a_bad_version(HOME_FEED))

        rollouts.apply_command(
            session, rollout_id, Command.ROLL_BACK, by="scheduler", now=NOON, quarantine_parts=(Part.TRUNK,)
        )

        assert surfaces.get(session, HOME_FEED).candidate is None
        assert rollouts.list_quarantined(session) == []
        assert "not quarantined: search has no version left" in history.list_history(session, HOME_FEED, 1)[0].reason


def test_a_part_of_the_version_that_a_roll_back_lands_on_is_not_to_blame(sessions: Sessions) -> None:
    """An adoption put another version with the candidate's trunk where the roll back of a finished rollout lands."""
    candidate, adopted = a_version("b", trunk="new"), a_version("c", trunk="new")
    with sessions.writing() as session:
        scene.a_serving_surface(session, a_version("a", trunk="old"))
        done = scene.a_rollout_in(session, Phase.DONE, candidate)
        scene.adopted(session, scene.registered(session, adopted))
        scene.adopted(session, candidate.version_id)

    with sessions.writing() as session:
        rollouts.apply_command(
            session, done, Command.ROLL_BACK, by="ada", now=LATER, quarantine_parts=[Part.TRUNK, Part.SURFACE_EXPORT]
        )

    with sessions.reading() as session:
        assert stables(sessions) == {HOME_FEED: adopted.version_id}
        assert [entry.digest for entry in rollouts.list_quarantined(session)] == [candidate.surface_export]
