"""What Surefoot is for, told from end to end on the real registry, event log, judge and scheduler."""

from pathlib import Path

import pytest

from control_plane.domain.rollout import Phase
from control_plane.registry import history, model_versions, rollouts, stables
from tests.stories.world import HOUR, Behaviour, World

SURFACES = ("home_feed", "search", "related_pins")

pytestmark = pytest.mark.slow


def test_a_good_candidate_reaches_full_traffic_and_becomes_stable(tmp_path: Path) -> None:
    world = World(tmp_path, "home_feed")
    good = world.candidate("home_feed")
    before = world.surface("home_feed").stable
    rollout_id = world.roll_out("home_feed", good)

    rollout = world.live_until(rollout_id, Phase.DONE, Phase.ROLLED_BACK, at_most_days=6)

    surface = world.surface("home_feed")
    assert rollout.phase is Phase.DONE
    assert (surface.stable, surface.last_proven, surface.candidate) == (good, before, None)
    assert surface.generation > 5
    with world.sessions.reading() as session:
        assert history.verify(session) == []


def test_a_candidate_that_costs_clicks_is_rolled_back_before_half_the_users_meet_it(tmp_path: Path) -> None:
    world = World(tmp_path, "home_feed")
    before = world.surface("home_feed").stable
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed", behaviour=Behaviour(ctr=0.8)))

    rollout = world.live_until(rollout_id, Phase.DONE, Phase.ROLLED_BACK, at_most_days=6)

    surface = world.surface("home_feed")
    assert rollout.phase is Phase.ROLLED_BACK
    assert rollout.step == 0
    assert (surface.stable, surface.candidate, surface.candidate_bp) == (before, None, 0)


def test_a_candidate_whose_calibrator_is_broken_is_rolled_back_and_only_the_calibrator_is_blamed(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, "home_feed")
    bad = world.candidate("home_feed", behaviour=Behaviour(predicted=1.16))
    rollout_id = world.roll_out("home_feed", bad)

    rollout = world.live_until(rollout_id, Phase.DONE, Phase.ROLLED_BACK, at_most_days=6)

    assert rollout.phase is Phase.ROLLED_BACK
    with world.sessions.reading() as session:
        (entry,) = rollouts.list_quarantined(session)
        version = model_versions.get(session, bad).manifest.version
    assert entry.digest == version.calibrator


def test_a_trunk_that_harms_one_surface_leaves_all_of_them_in_one_step(tmp_path: Path) -> None:
    world = World(tmp_path, *SURFACES)
    harmful = {"home_feed": Behaviour(ctr=0.7)}
    ids = {
        surface: world.roll_out(surface, world.candidate(surface, behaviour=harmful.get(surface)))
        for surface in SURFACES
    }

    world.live_until(ids["home_feed"], Phase.ROLLED_BACK, at_most_days=3)

    after = {surface: world.surface(surface) for surface in SURFACES}
    assert {world.rollout(rollout_id).phase for rollout_id in ids.values()} == {Phase.ROLLED_BACK}
    assert all(state.candidate is None and state.candidate_bp == 0 for state in after.values())
    assert len({state.changed_at for state in after.values()}) == 1


def test_a_lease_runs_down_while_nobody_checks(tmp_path: Path) -> None:
    world = World(tmp_path, "home_feed")
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    world.live_until(rollout_id, Phase.RAMPING, at_most_days=2)
    watched = world.splits()[world.rollout(rollout_id).surface].unwatched_seconds_left

    world.now += 5 * HOUR
    unwatched = world.splits()[world.rollout(rollout_id).surface].unwatched_seconds_left

    assert watched == 12 * 3_600
    assert unwatched == 7 * 3_600


def test_a_trunk_that_one_surface_proved_stays_there_when_another_surface_rolls_it_back(tmp_path: Path) -> None:
    world = World(tmp_path, "home_feed", "search")
    proven = world.candidate("home_feed")
    with world.sessions.writing() as session:
        feed = world.surface("home_feed")
        stables.adopt(
            session, feed.surface, proven, seen_generation=feed.generation, by="ann", reason="proved", now=world.now
        )
    harmful = world.candidate("search", behaviour=Behaviour(ctr=0.7))
    rollout_id = world.roll_out("search", harmful)

    world.live_until(rollout_id, Phase.ROLLED_BACK, at_most_days=3)

    assert world.surface("home_feed").stable == proven
    with world.sessions.reading() as session:
        (entry,) = rollouts.list_quarantined(session)
        version = model_versions.get(session, harmful).manifest.version
    assert entry.digest == version.surface_export
