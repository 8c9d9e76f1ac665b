import logging
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from control_plane.domain.rollout import Phase
from control_plane.registry import leases
from control_plane.scheduler.metronome import LEASE, Metronome
from tests.stories.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, "home_feed")


def a_metronome(world: World, **overrides: Any) -> Metronome:
    options: dict[str, Any] = {
        "clock": lambda: world.now,
        "tick_seconds": 60.0,
        "lease_seconds": 60.0,
        "runtime_silent_seconds": 1e9,
    }
    return Metronome(world.sessions, world.log, **{**options, **overrides})


def test_a_beat_ticks_and_says_so(world: World) -> None:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    metronome = a_metronome(world)

    report = metronome.beat()

    assert report is not None
    assert report.checked == 1
    assert world.rollout(rollout_id).phase is Phase.WARMING
    assert metronome.last_tick_at == world.now
    with world.sessions.reading() as session:
        lease = leases.current(session, LEASE)
    assert lease is not None
    assert lease.last_tick_at == world.now


def test_of_two_schedulers_one_acts(world: World) -> None:
    first, second = a_metronome(world), a_metronome(world)

    assert first.beat() is not None
    assert second.beat() is None


def test_a_scheduler_that_stops_hands_over_at_once(world: World) -> None:
    first, second = a_metronome(world), a_metronome(world)
    first.start()
    first.beat()

    first.stop()

    assert second.beat() is not None
    assert second.epoch is not None
    assert first.epoch is not None
    assert second.epoch > first.epoch


def test_a_scheduler_that_was_silent_too_long_is_deposed(world: World) -> None:
    first, second = a_metronome(world, lease_seconds=0.0), a_metronome(world)
    first.beat()

    assert second.beat() is not None
    assert first.beat() is None


def test_a_beat_that_fails_is_followed_by_the_next(world: World) -> None:
    fails: Iterator[bool] = iter([True, False])

    def clock() -> datetime:
        if next(fails):
            raise OSError("clock file is gone")
        return world.now

    metronome = a_metronome(world, clock=clock)

    assert metronome.beat() is None
    assert metronome.beat() is not None


def test_the_metronome_beats_by_itself(world: World) -> None:
    ticked = threading.Event()
    metronome = a_metronome(world, tick_seconds=0.05, on_tick=lambda report: ticked.set())

    metronome.start()
    try:
        assert ticked.wait(10)
    finally:
        metronome.stop()


def test_a_late_beat_is_no_news(world: World, caplog: pytest.LogCaptureFixture) -> None:
    beats, enough = iter(range(100)), threading.Event()

    def slow_clock() -> datetime:
        time.sleep(0.1)
        if next(beats) == 2:
            enough.set()
        return world.now

    metronome = a_metronome(world, clock=slow_clock, tick_seconds=0.01)
    with caplog.at_level(logging.WARNING):
        metronome.start()
        assert enough.wait(10)
        metronome.stop()

    assert caplog.records == []


def test_a_registry_that_is_away_costs_a_line_and_no_traceback(
    world: World, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    metronome = a_metronome(world)
    metronome.start()
    metronome.beat()
    world.sessions.engine.dispose()
    (tmp_path / "registry.db").rename(tmp_path / "away.db")
    (tmp_path / "registry.db").mkdir()

    with caplog.at_level(logging.WARNING):
        assert metronome.beat() is None
        metronome.stop()

    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert not any(record.exc_info for record in caplog.records)
