"""Going back: where one lands, that it always works, and that what was taken back stays away."""

from pathlib import Path

import pytest
from httpx import Client

from control_plane.app import create_app
from control_plane.domain.decision import Decision
from control_plane.domain.errors import NoSafeVersion, Quarantined, StaleGeneration, SurfaceBusy
from control_plane.domain.model_version import Part
from control_plane.domain.rollout import ACTIVE, Command, OnBusy, Phase
from control_plane.evidence.aggregate import MomentsReader
from control_plane.registry import arrivals, history, model_versions, rollouts, stables, surfaces
from control_plane.registry.session import Sessions
from control_plane.scheduler.applied import apply
from control_plane.scheduler.judged import judge_evidence
from control_plane.scheduler.loaded import load
from control_plane.settings import Settings
from tests.builders import HOME_FEED, NOON, a_plan, a_version
from tests.http_client import in_process
from tests.registry import scene
from tests.registry.scene import LATER
from tests.stories.world import LOOK, Behaviour, World

WAYS_BACK = (Command.ABORT, Command.ROLL_BACK)
UNDER_WAY = sorted(ACTIVE)


def splits_of(client: Client) -> dict[str, int]:
    (split,) = client.get("/v1/splits").json()["splits"]
    weights: dict[str, int] = split["weights_bp"]
    return weights


@pytest.mark.parametrize("ends", WAYS_BACK)
@pytest.mark.parametrize("phase", UNDER_WAY)
def test_argo_3039_a_rollback_never_lands_on_an_aborted_version(
    sessions: Sessions, phase: Phase, ends: Command
) -> None:
    """Aborted between the two good ones, in whatever phase: the way back leads around it."""
    with sessions.writing() as session:
        first = scene.a_serving_surface(session, a_version("first"))
        aborted = scene.a_rollout_in(session, phase, a_version("aborted"))
        scene.commanded(session, aborted, ends)
        second = scene.a_rollout_in(session, Phase.DONE, a_version("second"))

        scene.commanded(session, second, Command.ROLL_BACK)

        assert surfaces.get(session, HOME_FEED).stable == first
        with pytest.raises(Quarantined, match="taken back"):
            scene.adopted(session, a_version("aborted").version_id)


def test_argo_3039_where_only_an_aborted_version_is_left_a_rollback_says_so_and_stays(sessions: Sessions) -> None:
    with sessions.writing() as session:
        first = scene.a_serving_surface(session, a_version("first"))
        second = scene.a_rollout_in(session, Phase.DONE, a_version("second"))
        scene.commanded(session, second, Command.ROLL_BACK)
        third = scene.a_rollout_in(session, Phase.DONE, a_version("third"))
        assert surfaces.get(session, HOME_FEED).last_proven == first
        model_versions.mark_aborted(session, first, now=LATER, because="found to be broken after all")

    with sessions.writing() as session, pytest.raises(NoSafeVersion):
        scene.commanded(session, third, Command.ROLL_BACK)

    with sessions.reading() as session:
        assert surfaces.get(session, HOME_FEED).stable == a_version("third").version_id


def test_kserve_1968_a_rollback_lands_on_stable_and_not_on_the_version_before_it(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session, a_version("stable"), before=a_version("older"))
        rollout_id = scene.a_rollout_in(session, Phase.WATCHING, a_version("candidate"))

        scene.commanded(session, rollout_id, Command.ROLL_BACK)

        state = surfaces.get(session, HOME_FEED)
        assert (state.stable, state.candidate) == (a_version("stable").version_id, None)
        assert state.last_proven == a_version("older").version_id


@pytest.mark.parametrize("ends", WAYS_BACK)
@pytest.mark.parametrize("phase", UNDER_WAY)
def test_argo_1292_an_abort_while_nothing_moves_leaves_stable_with_all_traffic(
    sessions: Sessions, phase: Phase, ends: Command
) -> None:
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, phase)

        scene.commanded(session, rollout_id, ends)

        split = surfaces.get(session, HOME_FEED).split(now=NOON)
        assert split is not None
        assert split.weights_bp == {stable: 10_000}


def test_argo_1152_an_aborted_candidate_is_never_promoted_however_well_it_did(world: World) -> None:
    """The abort comes while the judge has its passing evidence in hand; later ticks see it aborted."""
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    world.live_until(rollout_id, Phase.RAMPING, at_most_days=2)
    world.live(4)
    loaded = load(world.sessions, rollout_id, now=world.now, live_since=world.now - LOOK)
    judged = judge_evidence(loaded, MomentsReader(world.log))
    with world.sessions.writing() as session:
        rollouts.apply_command(session, rollout_id, Command.ABORT, by="ann", now=world.now, reason="no")

    with pytest.raises(StaleGeneration):
        apply(
            world.sessions,
            loaded,
            judged,
            Decision(command=Command.ADVANCE, reason="shown safe"),
            now=world.now,
            epoch=None,
        )
    world.live(12)

    assert world.rollout(rollout_id).phase is Phase.ROLLED_BACK
    assert world.surface("home_feed").candidate_bp == 0


@pytest.mark.parametrize("ends", WAYS_BACK)
def test_argo_2929_an_aborted_rollout_does_not_try_again_by_itself(world: World, ends: Command) -> None:
    candidate = world.candidate("home_feed")
    rollout_id = world.roll_out("home_feed", candidate)
    world.live_until(rollout_id, Phase.RAMPING, at_most_days=2)
    with world.sessions.writing() as session:
        rollouts.apply_command(session, rollout_id, ends, by="ann", now=world.now, reason="no")
    ended = world.surface("home_feed")

    world.live(16)

    assert world.surface("home_feed") == ended
    assert world.rollout(rollout_id).phase is Phase.ROLLED_BACK
    with pytest.raises(Quarantined, match="does not return"):
        world.roll_out("home_feed", candidate)


@pytest.mark.parametrize("ends", WAYS_BACK)
def test_argo_2048_a_fixed_version_goes_its_way_right_after_an_abort(world: World, ends: Command) -> None:
    broken = world.roll_out("home_feed", world.candidate("home_feed", name="broken", trunk="trunk-broken"))
    world.live_until(broken, Phase.RAMPING, at_most_days=2)
    with world.sessions.writing() as session:
        rollouts.apply_command(session, broken, ends, by="ann", now=world.now, reason="broken")

    fixed = world.roll_out("home_feed", world.candidate("home_feed", name="fixed", trunk="trunk-fixed"))
    reached = world.live_until(fixed, Phase.RAMPING, Phase.ROLLED_BACK, at_most_days=2)

    assert reached.phase is Phase.RAMPING


def test_argo_3331_of_two_rollouts_at_once_neither_sticks(world: World) -> None:
    """The second is refused with the first one's number, or waits its turn; the first goes on as if nothing came."""
    first = world.roll_out("home_feed", world.candidate("home_feed", name="first", trunk="t1"))
    world.live_until(first, Phase.RAMPING, at_most_days=2)
    second_candidate = world.candidate("home_feed", name="second", trunk="t2")
    with pytest.raises(SurfaceBusy, match=f"rollout {first}"):
        world.roll_out("home_feed", second_candidate)
    with world.sessions.writing() as session:
        second = arrivals.create(
            session,
            HOME_FEED,
            second_candidate,
            world.rollout(first).plan,
            by="bob",
            now=world.now,
            on_busy=OnBusy.QUEUE,
        )

    world.live(8)
    went_on = world.rollout(first)
    with world.sessions.writing() as session:
        rollouts.apply_command(session, first, Command.ABORT, by="ann", now=world.now, reason="enough")
    after = world.live_until(second.rollout_id, Phase.RAMPING, Phase.ROLLED_BACK, at_most_days=2)

    assert (went_on.phase, went_on.step) == (Phase.RAMPING, 1)
    assert after.phase is Phase.RAMPING


@pytest.mark.parametrize("phase", [*UNDER_WAY, Phase.DONE])
def test_flagger_1588_no_phase_is_one_that_cannot_be_rolled_back(
    tmp_path: Path, sessions: Sessions, registry_url: str, phase: Phase
) -> None:
    """Over HTTP, without a word of the generation: in one call."""
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, phase)
    settings = Settings(data_dir=tmp_path, database_url=registry_url, runs_scheduler=False)
    with in_process(create_app(settings, lambda: LATER)) as client:
        answer = client.post(f"/v1/rollouts/{rollout_id}/commands", json={"command": "roll_back"})

        assert (answer.status_code, answer.json()["phase"]) == (200, "rolled_back")
        assert splits_of(client) == {stable: 10_000}


def test_flagger_413_there_is_a_button_to_roll_back_and_it_works(
    tmp_path: Path, sessions: Sessions, registry_url: str
) -> None:
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.RAMPING)
    settings = Settings(data_dir=tmp_path, database_url=registry_url, runs_scheduler=False)
    with in_process(create_app(settings, lambda: LATER), headers={"Sec-Fetch-Site": "same-origin"}) as client:
        page = client.get("/").text
        form = {"reason": "pager", "seen_generation": "0"}
        pressed = client.post("/surfaces/home_feed/roll_back", data=form, follow_redirects=False)

        assert 'action="/surfaces/home_feed/roll_back"' in page
        assert pressed.status_code == 303
        assert splits_of(client) == {stable: 10_000}


def test_flagger_616_a_candidate_that_fails_after_its_promotion_goes_back_in_one_call(sessions: Sessions) -> None:
    with sessions.writing() as session:
        before = scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.DONE)

    with sessions.writing() as session:
        stables.roll_back_surface(session, HOME_FEED, by="ann", reason="clicks fell", now=LATER)

    with sessions.reading() as session:
        state = surfaces.get(session, HOME_FEED)
        assert (state.stable, state.candidate, state.rollout_id) == (before, None, None)
        assert history.verify(session) == []


@pytest.mark.slow
def test_flagger_616_what_turns_bad_at_full_traffic_is_taken_back_by_the_watch(world: World) -> None:
    before = world.surface("home_feed").stable
    candidate = world.candidate("home_feed")
    rollout_id = world.roll_out("home_feed", candidate)
    world.live_until(rollout_id, Phase.WATCHING, at_most_days=6)
    world.behaviours[candidate] = Behaviour(predicted=1.6)  # its feature store broke

    ended = world.live_until(rollout_id, Phase.DONE, Phase.ROLLED_BACK, at_most_days=2)

    assert ended.phase is Phase.ROLLED_BACK
    assert world.surface("home_feed").stable == before


def test_a_trunk_that_was_taken_back_serves_nowhere_under_another_versions_name(sessions: Sessions) -> None:
    """An aborted digest stays away; a quarantined part stays away in every version that holds it."""
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        bad = scene.a_rollout_in(session, Phase.RAMPING, a_version("bad", trunk="bad trunk"))
        rollouts.apply_command(
            session, bad, Command.ROLL_BACK, by="scheduler", now=LATER, quarantine_parts=(Part.TRUNK,)
        )

        with pytest.raises(Quarantined):
            arrivals.create(
                session,
                HOME_FEED,
                scene.registered(session, a_version("bad again", trunk="bad trunk")),
                a_plan(),
                by="ada",
                now=LATER,
            )
