"""External metrics on their way through a tick: asked before the checks, judged with them, stored for the replay."""

import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
from sqlalchemy import text

from control_plane.domain.errors import StaleGeneration
from control_plane.domain.readings import ReadingOutcome
from control_plane.domain.rollout import Command, Phase, RolloutId
from control_plane.guardrails.replay import replay, unpack
from control_plane.providers.asking import GRACE_SECONDS, TOTAL_SECONDS
from control_plane.providers.sources import Source, make_sources
from control_plane.registry import evidence, rollouts
from control_plane.registry.evidence import StoredVerdict
from control_plane.scheduler.external import NO_SOURCES, read_external
from control_plane.scheduler.judged import JUDGED
from control_plane.scheduler.lease_keeper import STALLED_SECONDS
from control_plane.scheduler.metronome import make_metronome
from control_plane.scheduler.tick import TickReport, tick
from control_plane.settings import Settings
from tests.builders import a_plan
from tests.providers.servers import Behaviour, answers_vector, free_port, serving
from tests.stories.world import LOOK, STORY_PLAN, World

ERRORS = {"name": "errors", "source": "prod", "query": 'errors{version="$candidate"}', "at_most": 0.01}
PLAN = a_plan(**STORY_PLAN, external=[ERRORS])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, "home_feed")


def in_shadow(world: World, surface: str = "home_feed") -> RolloutId:
    rollout_id = world.roll_out(surface, world.candidate(surface), PLAN)
    for _ in range(2):
        world.heartbeat()
        world.tick()
    assert world.rollout(rollout_id).phase is Phase.SHADOW
    return rollout_id


def at(url: str) -> dict[str, Source]:
    return make_sources({"prod": f"prometheus+{url}"})


def next_look(world: World, sources: Mapping[str, Source]) -> TickReport:
    world.heartbeat()
    world.serve(9_000)
    world.now += LOOK
    return tick(world.sessions, world.log, now=world.now, live_since=world.now - LOOK, epoch=None, sources=sources)


def latest(world: World, rollout_id: RolloutId) -> StoredVerdict | None:
    with world.sessions.reading() as session:
        return evidence.latest(session, rollout_id)


def test_a_due_rollout_is_read_with_its_own_names(world: World) -> None:
    rollout_id = in_shadow(world)
    with serving(answers_vector("0.25")) as url:
        external = read_external(world.sessions, at(url), [rollout_id], phases=JUDGED, now=world.now)

    rollout = world.rollout(rollout_id)
    (reading,) = external[rollout_id].of(rollout, generation=world.surface("home_feed").generation)
    assert (reading.name, reading.outcome, reading.value) == ("errors", ReadingOutcome.VALUE, 0.25)
    assert reading.query == f'errors{{version="{rollout.candidate}"}}'


def test_nothing_is_asked_before_there_is_something_to_judge(world: World) -> None:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"), PLAN)

    external = read_external(world.sessions, NO_SOURCES, [rollout_id], phases=JUDGED, now=world.now)

    assert external[rollout_id].readings == ()


def test_a_rollout_without_external_metrics_is_not_in_it(world: World) -> None:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))

    assert read_external(world.sessions, NO_SOURCES, [rollout_id], phases=JUDGED, now=world.now) == {}


def test_a_reading_is_judged_and_replayed(world: World) -> None:
    rollout_id = in_shadow(world)
    with serving(answers_vector("0.25")) as url:
        report = next_look(world, at(url))

    stored = latest(world, rollout_id)
    assert report.checked == 1
    assert stored is not None
    (finding,) = [finding for finding in stored.verdict.findings if finding.metric == "external:errors"]
    assert (finding.value, finding.limit) == (0.25, 0.01)
    with world.sessions.reading() as session:
        inputs = evidence.inputs(session, stored.verdict_id)
    assert [reading.value for reading in unpack(inputs).readings] == [0.25]
    assert replay(inputs).to_json() == stored.verdict.to_json()


@pytest.mark.parametrize("sources", [NO_SOURCES, at(f"http://127.0.0.1:{free_port()}")], ids=["none", "dead"])
def test_a_source_that_fails_leaves_the_check_complete_and_says_why(
    world: World, sources: Mapping[str, Source]
) -> None:
    rollout_id = in_shadow(world)

    report = next_look(world, sources)

    stored = latest(world, rollout_id)
    assert (report.checked, report.failed) == (1, {})
    assert stored is not None
    (finding,) = [finding for finding in stored.verdict.findings if finding.metric == "external:errors"]
    assert finding.value is None
    assert "prod" in finding.detail


def test_readings_are_dropped_when_someone_moves_while_a_source_is_asked(world: World) -> None:
    rollout_id = in_shadow(world)
    answer = answers_vector("0")

    def held_meanwhile(connection: socket.socket, request: bytes) -> None:
        with world.sessions.writing() as session:
            rollouts.apply_command(session, rollout_id, Command.HOLD, by="ann", now=world.now, reason="look")
        answer(connection, request)

    with serving(held_meanwhile) as url:
        report = next_look(world, at(url))
        overtaken = latest(world, rollout_id)

    assert (report.overtaken, report.checked) == ([rollout_id], 0)
    assert overtaken is None


def test_readings_of_one_generation_are_none_of_another(world: World) -> None:
    rollout_id = in_shadow(world)
    external = read_external(world.sessions, NO_SOURCES, [rollout_id], phases=JUDGED, now=world.now)
    generation = world.surface("home_feed").generation

    assert len(external[rollout_id].of(world.rollout(rollout_id), generation=generation)) == 1
    with pytest.raises(StaleGeneration):
        external[rollout_id].of(world.rollout(rollout_id), generation=generation + 1)


def test_a_rollout_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path) -> None:
    world = World(tmp_path, "home_feed", "search")
    damaged, sound = in_shadow(world, "home_feed"), in_shadow(world, "search")
    with world.sessions.writing() as session:
        session.execute(text("UPDATE rollout SET plan = '{}' WHERE rollout_id = :damaged"), {"damaged": damaged})
    with serving(answers_vector("0")) as url:
        report = next_look(world, at(url))

    assert (list(report.failed), report.checked) == ([damaged], 1)
    assert latest(world, sound) is not None


def test_the_metronome_reads_from_the_sources_of_the_settings(world: World, tmp_path: Path) -> None:
    in_shadow(world)
    world.now += LOOK
    heard: list[bytes] = []
    answer: Behaviour = answers_vector("0")

    def listens(connection: socket.socket, request: bytes) -> None:
        heard.append(request)
        answer(connection, request)

    with serving(listens) as url:
        settings = Settings(data_dir=tmp_path, metric_sources={"prod": f"prometheus+{url}"})
        report = make_metronome(settings, world.sessions, lambda: world.now).beat()

    assert report is not None
    assert report.checked == 1
    assert len(heard) == 1


def test_a_tick_that_waits_for_a_source_as_long_as_it_may_keeps_its_lease() -> None:
    """The lease is renewed beside a tick that gets on; questions are one piece of its work."""
    assert STALLED_SECONDS / 2 > TOTAL_SECONDS + GRACE_SECONDS
