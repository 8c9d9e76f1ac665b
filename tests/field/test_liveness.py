"""Nothing sticks, nobody acts who may not, and clocks that disagree do no harm."""

import json
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from control_plane.domain.errors import Deposed, Frozen
from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Command, Phase, RolloutId
from control_plane.domain.verdict import Outcome
from control_plane.registry import freezes, history, leases, rollouts, surfaces
from control_plane.registry.session import Sessions
from control_plane.registry.tables import VerdictRow
from control_plane.scheduler.metronome import Metronome
from control_plane.scheduler.tick import tick
from tests.builders import HOME_FEED, NOON, a_plan
from tests.registry import scene
from tests.stories.world import LOOK, STORY_PLAN, World

APART = timedelta(seconds=5)


def in_shadow(world: World, surface: str = "home_feed") -> RolloutId:
    rollout_id = world.roll_out(surface, world.candidate(surface))
    for _ in range(2):
        world.heartbeat()
        world.tick()
    assert world.rollout(rollout_id).phase is Phase.SHADOW
    return rollout_id


def a_metronome(world: World, *, lease_seconds: float = 60.0) -> Metronome:
    return Metronome(
        world.sessions,
        world.log,
        clock=lambda: world.now,
        tick_seconds=0.02,
        lease_seconds=lease_seconds,
        runtime_silent_seconds=1e9,
    )


def num_verdicts(world: World) -> int:
    with world.sessions.reading() as session:
        return session.scalar(select(func.count(VerdictRow.verdict_id))) or 0


def test_argo_2522_3080_and_3988_a_scheduler_that_met_trouble_goes_on_without_being_restarted(tmp_path: Path) -> None:
    """The event log turns unreadable under it and is mended; it is the same scheduler that goes on."""
    world = World(tmp_path, "home_feed")
    rollout_id = in_shadow(world)
    world.live(1)
    metronome = a_metronome(world)
    segments = {path: path.read_bytes() for path in (tmp_path / "events").rglob("*.parquet")}
    for path in segments:
        path.write_bytes(b"not parquet")
    world.now += LOOK
    troubled = metronome.beat()
    assert troubled is not None
    assert list(troubled.failed) == [rollout_id]

    for path, content in segments.items():
        path.write_bytes(content)
    world.now += LOOK
    mended = metronome.beat()

    assert mended is not None
    assert (mended.checked, mended.failed) == (1, {})


def test_argo_2522_a_registry_that_was_away_is_found_again(tmp_path: Path) -> None:
    world = World(tmp_path, "home_feed")
    in_shadow(world)
    metronome, registry, away = a_metronome(world), tmp_path / "registry.db", tmp_path / "away.db"
    world.sessions.engine.dispose()
    registry.rename(away)
    registry.mkdir()
    assert metronome.beat() is None

    registry.rmdir()
    away.rename(registry)
    world.now += LOOK

    report = metronome.beat()
    assert report is not None
    assert report.checked == 1


def test_argo_2117_a_deposed_scheduler_that_goes_on_working_writes_nothing(world: World) -> None:
    """It does not know that it was deposed: it judges, decides, and is refused at the first write."""
    rollout_id = in_shadow(world)
    world.live(1)
    with world.sessions.writing() as session:
        old = leases.acquire(session, leases.SCHEDULER, "one", 0.0)
    with world.sessions.writing() as session:
        new = leases.acquire(session, leases.SCHEDULER, "two", 60.0)
    before, count = world.surface("home_feed"), num_verdicts(world)
    world.now += LOOK

    assert old != new
    with pytest.raises(Deposed):
        tick(world.sessions, world.log, now=world.now, live_since=world.now - LOOK, epoch=old)
    for command in (Command.ROLL_BACK, Command.ADVANCE, Command.HOLD):
        with pytest.raises(Deposed), world.sessions.writing() as session:
            rollouts.apply_command(session, rollout_id, command, by="scheduler", now=world.now, epoch=old)

    assert (world.surface("home_feed"), num_verdicts(world)) == (before, count)


def test_argo_3015_a_rollout_that_came_to_no_answer_is_promoted_by_a_person_and_goes_on(world: World) -> None:
    plan = a_plan(**{**STORY_PLAN, "max_stage": "6h"})
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"), plan)
    for _ in range(2):
        world.heartbeat()
        world.tick()
    for _ in range(4):  # nobody comes: no answer
        world.heartbeat()
        world.now += LOOK
        world.tick()
    assert world.rollout(rollout_id).phase is Phase.EXPIRED

    with world.sessions.writing() as session:
        for command in (Command.RESUME, Command.SKIP):
            rollouts.apply_command(session, rollout_id, command, by="ann", now=world.now, reason="I have looked")
    world.heartbeat()
    report = world.tick()

    assert world.rollout(rollout_id).phase is Phase.RAMPING
    assert report.checked == 1, "the scheduler has it in hand again"


def test_apscheduler_766_a_job_runs_once_however_many_workers_there_are(world: World) -> None:
    """Five schedulers beat at the same time for a while; each due check was made by one of them."""
    rollout_id = in_shadow(world)
    world.now += LOOK
    due, before = 3, num_verdicts(world)
    metronomes = [a_metronome(world) for _ in range(5)]
    for _ in range(due):
        for metronome in metronomes * 2:
            metronome.beat()
        world.heartbeat()
        world.now += LOOK

    assert num_verdicts(world) - before == due
    assert world.rollout(rollout_id).phase is Phase.SHADOW


def test_apscheduler_766_workers_with_threads_of_their_own_check_once_too(world: World) -> None:
    in_shadow(world)
    before = num_verdicts(world)
    world.now += LOOK
    metronomes = [a_metronome(world) for _ in range(4)]
    for metronome in metronomes:
        metronome.start()
    try:
        wait_for_a_tick(metronomes)
    finally:
        for metronome in metronomes:
            metronome.stop()

    assert num_verdicts(world) - before == 1


class TestClocksFiveSecondsApart:
    """Two replicas, one ahead and one behind, take turns."""

    @pytest.mark.slow
    def test_harm_nothing_in_a_whole_ramp(self, world: World) -> None:
        rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
        true_now, entered = world.now, dict[tuple[Phase, int], datetime]()
        for turn in range(32):
            true_now += LOOK
            world.heartbeat()
            world.serve(9_000)
            world.now = true_now + (APART if turn % 2 else -APART)
            world.tick()
            rollout = world.rollout(rollout_id)
            entered.setdefault((rollout.phase, rollout.step), true_now)
            if rollout.phase is Phase.DONE:
                break

        assert world.rollout(rollout_id).phase is Phase.DONE
        bake = timedelta(hours=12)
        assert entered[Phase.RAMPING, 1] - entered[Phase.RAMPING, 0] >= bake - 2 * APART
        with world.sessions.reading() as session:
            assert history.verify(session) == []
            entries = history.list_history(session, HOME_FEED, limit=100)
        assert [entry.seq for entry in entries] == sorted((entry.seq for entry in entries), reverse=True)
        assert "renew_watch" not in {entry.command for entry in entries}, "nobody went home over five seconds"

    def test_a_lease_renewed_by_the_one_ahead_gives_the_candidate_no_more_time(self, sessions: Sessions) -> None:
        with sessions.writing() as session:
            scene.a_serving_surface(session)
            rollout_id = scene.a_pending_rollout(session)
            for command in (Command.START, Command.SKIP, Command.SKIP):
                rollouts.apply_command(session, rollout_id, command, by="ann", now=NOON + APART, reason="a test")

        with sessions.reading() as session:
            state = surfaces.get(session, HOME_FEED)
            left = [state.split(now=NOON + skew) for skew in (-APART, timedelta(0), APART)]
        assert [split.unwatched_seconds_left for split in left if split] == [state.unwatched_seconds] * 3

    def test_generations_say_who_came_first_where_clocks_do_not(self, sessions: Sessions) -> None:
        """The one behind holds after the one ahead advanced: by the clock it came before."""
        with sessions.writing() as session:
            scene.a_serving_surface(session)
            rollout_id = scene.a_rollout_in(session, Phase.SHADOW)
            passing = scene.a_stored_verdict(session, rollout_id, Outcome.ADVANCE)
            rollouts.apply_command(
                session, rollout_id, Command.ADVANCE, by="ahead", now=NOON + APART, verdict_id=passing
            )
        with sessions.writing() as session:
            rollouts.apply_command(session, rollout_id, Command.HOLD, by="behind", now=NOON - APART, reason="wait")

        with sessions.reading() as session:
            last, before, *_ = history.list_history(session, HOME_FEED, limit=10)
            assert (last.by, before.by) == ("behind", "ahead")
            assert last.at < before.at
            assert json.loads(last.before)["candidate_bp"] == json.loads(before.after)["candidate_bp"] == 100
            assert history.verify(session) == []

    def test_a_freeze_declared_by_the_one_ahead_stops_the_one_behind_at_once(self, sessions: Sessions) -> None:
        with sessions.writing() as session:
            scene.a_serving_surface(session)
            rollout_id = scene.a_rollout_in(session, Phase.HELD)
            freezes.declare(session, None, by="ahead", reason="holidays", now=NOON + APART)

        with pytest.raises(Frozen), sessions.writing() as session:
            rollouts.apply_command(session, rollout_id, Command.RESUME, by="behind", now=NOON - APART)

    def test_a_roll_back_of_the_one_behind_is_a_roll_back(self, sessions: Sessions) -> None:
        with sessions.writing() as session:
            stable = scene.a_serving_surface(session)
            rollout_id = scene.a_pending_rollout(session)
            for command in (Command.START, Command.SKIP, Command.SKIP):
                rollouts.apply_command(session, rollout_id, command, by="ahead", now=NOON + APART, reason="a test")
        with sessions.writing() as session:
            rollouts.apply_command(session, rollout_id, Command.ROLL_BACK, by="behind", now=NOON - APART)

        with sessions.reading() as session:
            split = surfaces.get(session, Surface("home_feed")).split(now=NOON)
        assert split is not None
        assert split.weights_bp == {stable: 10_000}


def wait_for_a_tick(metronomes: list[Metronome]) -> None:
    """Until one has ticked, and then for a hundred more beats of the others."""
    deadline = time.monotonic() + 30
    while all(metronome.last_tick_at is None for metronome in metronomes):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(2)
