"""No data, bad data, data that nobody can see: each has a name, and none of them is ever a pass."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pytest

from control_plane.app import create_app
from control_plane.domain.readings import ReadingOutcome
from control_plane.domain.rollout import Phase, RolloutId
from control_plane.domain.verdict import Answer, Finding, Outcome
from control_plane.guardrails.replay import unpack
from control_plane.providers.sources import Source, make_sources
from control_plane.registry import evidence
from control_plane.registry.evidence import StoredVerdict
from control_plane.scheduler.external import NO_SOURCES
from control_plane.scheduler.tick import tick
from control_plane.settings import Settings
from tests.builders import a_plan
from tests.http_client import in_process
from tests.providers.builders import SOURCE, read
from tests.providers.servers import Behaviour, answers, answers_vector, free_port, serving
from tests.stories.world import LOOK, STORY_PLAN, World

QUERY = 'errors{version="$candidate"}'
GUARDED = a_plan(**STORY_PLAN, external=[{"name": "errors", "source": "prod", "query": QUERY, "at_most": 10}])
EMPTY_VECTOR = '{"status": "success", "data": {"resultType": "vector", "result": []}}'
NOT_A_NUMBER = '{"status": "success", "data": {"resultType": "scalar", "result": [1, "NaN"]}}'


def look(world: World, sources: Mapping[str, Source] = NO_SOURCES, *, users: int = 9_000) -> None:
    world.heartbeat()
    if users:
        world.serve(users)
    world.now += LOOK
    report = tick(world.sessions, world.log, now=world.now, live_since=world.now - LOOK, epoch=None, sources=sources)
    assert report.failed == {}


def in_shadow(world: World) -> RolloutId:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"), GUARDED)
    for _ in range(2):
        world.heartbeat()
        world.tick()
    assert world.rollout(rollout_id).phase is Phase.SHADOW
    return rollout_id


def prometheus(url: str) -> dict[str, Source]:
    return make_sources({"prod": f"prometheus+{url}"})


def latest(world: World, rollout_id: RolloutId) -> StoredVerdict:
    with world.sessions.reading() as session:
        stored = evidence.latest(session, rollout_id)
    assert stored is not None
    return stored


def finding(stored: StoredVerdict) -> Finding:
    (found,) = [found for found in stored.verdict.findings if found.metric == "external:errors"]
    return found


def test_argo_1466_no_data_at_all_is_waited_for_and_neither_an_error_nor_an_abort(world: World) -> None:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    for _ in range(2):
        world.heartbeat()
        world.tick()

    for _ in range(6):
        look(world, users=0)

    assert world.rollout(rollout_id).phase is Phase.SHADOW
    stored = latest(world, rollout_id)
    assert stored.verdict.outcome is Outcome.HOLD
    assert stored.verdict.reason


def test_flagger_1689_a_ramp_without_traffic_does_not_go_on(world: World) -> None:
    """Days pass, far longer than any bake; the feed is silent, or only the candidate's half is."""
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    world.live_until(rollout_id, Phase.RAMPING, at_most_days=2)
    before = world.surface("home_feed").candidate_bp

    for _ in range(12):
        look(world, users=0)

    rollout = world.rollout(rollout_id)
    assert rollout.step == 0
    assert world.surface("home_feed").candidate_bp <= before


def test_argo_3503_empty_is_the_same_outcome_whoever_says_so(tmp_path: Path) -> None:
    path = tmp_path / "numbers.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE no_rows (value FLOAT)")
    connection.close()
    sql = make_sources({SOURCE: f"sqlite:///{path}"})[SOURCE]
    with serving(answers(EMPTY_VECTOR)) as url:
        promql = make_sources({SOURCE: f"prometheus+{url}"})[SOURCE]
        found = {
            read(promql, "nothing").outcome,
            read(sql, "SELECT value FROM no_rows").outcome,
            read(sql, "SELECT max(value) AS value FROM no_rows").outcome,
        }

    assert found == {ReadingOutcome.EMPTY}


@pytest.mark.parametrize(
    ("behaviour", "answer"),
    [
        (answers(EMPTY_VECTOR), Answer.EMPTY),
        (answers(NOT_A_NUMBER), Answer.NAN),
        (answers("oops", "500 Internal Server Error"), Answer.FAILED),
        (answers_vector("1", "2"), Answer.FAILED),
    ],
    ids=["empty", "not a number", "an error", "two series"],
)
def test_argo_4479_what_errored_every_time_is_no_success(world: World, behaviour: Behaviour, answer: Answer) -> None:
    """Everything else about the candidate is sound; with the number at hand it goes on."""
    rollout_id = in_shadow(world)
    with serving(behaviour) as url:
        for _ in range(4):
            look(world, prometheus(url))
    waited = latest(world, rollout_id)
    assert world.rollout(rollout_id).phase is Phase.SHADOW
    assert (finding(waited).answer, waited.verdict.allows_advance) == (answer, False)

    with serving(answers_vector("0.5")) as url:
        look(world, prometheus(url))

    assert latest(world, rollout_id).verdict.allows_advance
    assert world.rollout(rollout_id).phase is Phase.RAMPING


def test_argo_4479_a_source_that_is_away_is_no_success(world: World) -> None:
    rollout_id = in_shadow(world)
    for _ in range(3):
        look(world, prometheus(f"http://127.0.0.1:{free_port()}"))

    assert finding(latest(world, rollout_id)).answer is Answer.FAILED
    assert world.rollout(rollout_id).phase is Phase.SHADOW


def test_argo_1591_and_2658_the_value_the_limit_and_the_query_as_it_was_sent_are_shown(
    world: World, tmp_path: Path
) -> None:
    rollout_id = in_shadow(world)
    with serving(answers_vector("0.5")) as url:
        look(world, prometheus(url))
    sent = f'errors{{version="{world.rollout(rollout_id).candidate}"}}'

    with in_process(create_app(Settings(data_dir=tmp_path, runs_scheduler=False), lambda: world.now)) as client:
        shown = client.get(f"/v1/verdicts/{latest(world, rollout_id).verdict_id}").json()

    (told,) = [found for found in shown["verdict"]["findings"] if found["metric"] == "external:errors"]
    assert (told["value"], told["limit"]) == (0.5, 10)
    assert sent in told["detail"]
    assert sent in shown["explanation"]


def test_flagger_1815_the_value_that_is_judged_is_the_value_that_the_source_told(world: World) -> None:
    """Twenty errors are twenty in the reading, in the verdict and in what it replays from, and no reason to go on."""
    rollout_id = in_shadow(world)
    with serving(answers_vector("20")) as url:
        look(world, prometheus(url))

    stored = latest(world, rollout_id)
    with world.sessions.reading() as session:
        inputs = evidence.inputs(session, stored.verdict_id)
    assert [reading.value for reading in unpack(inputs).readings] == [20]
    assert (finding(stored).value, finding(stored).answer) == (20, Answer.HARM)
    assert not stored.verdict.allows_advance


@pytest.mark.parametrize("policy", ["extend", "hold"])
def test_growthbook_no_evidence_in_time_ships_nothing(world: World, policy: str) -> None:
    """Whatever the plan says about missing evidence, going on is not among its choices."""
    guardrails = [{**STORY_PLAN["guardrails"][0], "on_no_data": policy, "on_insufficient": policy}]  # type: ignore[index]  # a plan in the making
    plan = a_plan(**{**STORY_PLAN, "guardrails": guardrails, "max_stage": "2d"})
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"), plan)
    for _ in range(24):
        look(world, users=0)

    assert world.rollout(rollout_id).phase in (Phase.SHADOW, Phase.HELD, Phase.EXPIRED)
    assert world.surface("home_feed").candidate_bp == 0
