"""Rollouts that are checked together: each as if it were alone, and none in the way of another."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from control_plane.domain.errors import Deposed
from control_plane.domain.rollout import Command, Phase, RolloutId
from control_plane.evidence.aggregate import MomentsReader
from control_plane.guardrails.replay import replay
from control_plane.registry import evidence, leases
from control_plane.scheduler import tick as ticks
from control_plane.scheduler.judged import Judged, judge_all_evidence, judge_evidence
from control_plane.scheduler.loaded import Loaded, load, load_all
from control_plane.scheduler.tick import tick
from tests.stories.world import LOOK, Behaviour, World

HARMFUL = Behaviour(predicted=3.0)  # its scores are three times the truth
SURFACES = ("home_feed", "related_pins", "search")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = request.getfixturevalue("postgres").registry() if request.param == "postgresql" else ""
    world = World(tmp_path, *SURFACES, database_url=url)
    yield world
    world.sessions.engine.dispose()


def under_way(world: World, *, second: Behaviour | None = None) -> list[RolloutId]:
    """One in the ramp, two in their shadow, of which the first may do harm; all are due."""
    ramping = world.roll_out("home_feed", world.candidate("home_feed"))
    world.live_until(ramping, Phase.RAMPING, at_most_days=2)
    others = [
        world.roll_out("related_pins", world.candidate("related_pins", trunk="trunk-3", behaviour=second)),
        world.roll_out("search", world.candidate("search", trunk="trunk-4")),
    ]
    for _ in range(2):
        world.heartbeat()
        world.tick()
    world.serve(9_000)
    world.now += LOOK
    world.heartbeat()
    return [ramping, *others]


def as_loaded(found: Loaded | Exception) -> Loaded:
    assert isinstance(found, Loaded)
    return found


def test_they_get_the_verdicts_and_the_inputs_of_each_alone(world: World) -> None:
    rollout_ids = under_way(world, second=HARMFUL)
    given = {"now": world.now, "live_since": world.now - LOOK}
    alone = {one: judge_evidence(load(world.sessions, one, **given), MomentsReader(world.log)) for one in rollout_ids}

    found = load_all(world.sessions, rollout_ids, **given)
    with MomentsReader(world.log) as reader:
        together = judge_all_evidence(reader, {one: (as_loaded(there), ()) for one, there in found.items()})

    for one in rollout_ids:
        ours, theirs = together[one], alone[one]
        assert isinstance(ours, Judged)
        assert isinstance(theirs, Judged)
        assert ours.verdict.to_json() == theirs.verdict.to_json() == replay(ours.inputs).to_json()
        assert ours.inputs == theirs.inputs


@pytest.mark.parametrize("at_once", [1, 2, 32])
def test_however_many_are_taken_at_once_the_same_is_decided(
    world: World, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticks, "AT_ONCE", at_once)
    rollout_ids = under_way(world, second=HARMFUL)

    report = world.tick()

    assert report.checked == len(rollout_ids)
    assert report.commands == {rollout_ids[1]: Command.ROLL_BACK}
    with world.sessions.reading() as session:
        stored = [evidence.latest(session, one) for one in rollout_ids]
    assert [verdict is not None and verdict.at == world.now for verdict in stored] == [True] * len(rollout_ids)


@pytest.mark.parametrize("damage", ["plan = '{}'", "phase = 'ramping', step = 99"], ids=["plan", "step"])
def test_one_that_cannot_be_read_does_not_stop_those_it_is_read_with(world: World, damage: str) -> None:
    check_beside_one_that_is_damaged(world, damage)


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)  # PostgreSQL takes no such row
def test_a_row_that_cannot_be_read_does_not_stop_those_it_is_read_with(world: World) -> None:
    check_beside_one_that_is_damaged(world, "counts_at_start = 'no JSON'")


def check_beside_one_that_is_damaged(world: World, damage: str) -> None:
    damaged, *sound = under_way(world)
    with world.sessions.writing() as session:
        session.execute(text(f"UPDATE rollout SET {damage} WHERE rollout_id = :one"), {"one": damaged})

    report = tick(world.sessions, world.log, now=world.now, live_since=world.now - LOOK, epoch=None)

    assert (list(report.failed), report.checked) == ([damaged], len(sound))


def test_one_that_a_roll_back_beside_it_takes_along_is_overtaken(world: World) -> None:
    """Two surfaces try the same trunk, and one of them finds it harmful."""
    candidate = world.candidate("home_feed", trunk="trunk-3", behaviour=HARMFUL)
    harmful = world.roll_out("home_feed", candidate)
    beside = world.roll_out("search", world.candidate("search", trunk="trunk-3"))
    for _ in range(2):
        world.heartbeat()
        world.tick()
    world.serve(9_000)
    world.now += LOOK
    world.heartbeat()

    report = world.tick()

    assert (report.commands, report.overtaken) == ({harmful: Command.ROLL_BACK}, [beside])
    assert world.rollout(beside).phase is Phase.ROLLED_BACK


def test_a_deposed_scheduler_stores_none_of_the_verdicts_that_it_came_to(world: World) -> None:
    rollout_ids = under_way(world)
    with world.sessions.writing() as session:
        epoch = leases.acquire(session, "scheduler", "one", 0.0)
    with world.sessions.writing() as session:
        leases.acquire(session, "scheduler", "two", 60.0)

    with pytest.raises(Deposed):
        tick(world.sessions, world.log, now=world.now, live_since=world.now, epoch=epoch)

    with world.sessions.reading() as session:
        stored = [evidence.latest(session, one) for one in rollout_ids]
    assert all(verdict is None or verdict.at < world.now for verdict in stored)
