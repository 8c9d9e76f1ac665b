import json
from datetime import timedelta

import pytest
from sqlalchemy import text

from control_plane.domain.readings import Reading, ReadingOutcome
from control_plane.domain.rollout import Command
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.replay import pack
from control_plane.registry import evidence, history_file, rollouts, surfaces
from tests.api.deployment import BOTH_DATABASES, Deployment
from tests.builders import HOME_FEED, NOON, a_plan, a_verdict
from tests.guardrails.builders import a_health, a_stage, empty_moments
from tests.registry.tampering import tampering

pytestmark = BOTH_DATABASES

EXTERNAL_METRIC = {"name": "errors", "source": "prod", "query": "sum(rate(errors_total[5m]))", "at_most": 0.05}
A_FINDING = Finding(metric="external:errors", segment="all", answer=Answer.SAFE, gates=True, value=0.01, limit=0.05)
A_READING = Reading(
    name="errors",
    outcome=ReadingOutcome.VALUE,
    value=0.01,
    sampled_at_ms=None,
    query='sum(rate(errors_total{version="b"}[5m]))',
)
INPUTS = pack(a_plan(external=[EXTERNAL_METRIC]), a_stage(), empty_moments(), a_health(), [A_READING])


def test_every_change_stands_in_the_history_with_who_and_why(deployment: Deployment) -> None:
    rollout = deployment.create_rollout()
    deployment.command(rollout["rollout_id"], "abort", reason="wrong checkpoint")

    latest = deployment.client.get("/v1/history", params={"surface": "home_feed", "limit": 1}).json()["history"][0]

    assert (latest["command"], latest["by"], latest["reason"]) == ("abort", "ada", "wrong checkpoint")
    assert latest["before"]["rollout_id"] == rollout["rollout_id"]
    assert latest["after"]["rollout_id"] is None


def test_verification_finds_a_change_that_was_altered(deployment: Deployment) -> None:
    deployment.open_surface()
    before = deployment.client.get("/v1/history/verification").json()

    with tampering(deployment.parts.sessions) as session:
        session.execute(text("UPDATE history SET reason = 'nothing to see' WHERE seq = 1"))

    after = deployment.client.get("/v1/history/verification").json()
    assert before == {"holds": True, "problems": []}
    assert (after["holds"], after["problems"]) == (False, ["home_feed: change 1 was altered"])


def test_what_served_on_tuesday_is_one_call(deployment: Deployment) -> None:
    rollout = deployment.create_rollout()
    before = deployment.clock.now
    deployment.clock.now += timedelta(days=2)
    deployment.command(rollout["rollout_id"], "abort", reason="wrong checkpoint")

    tuesday = deployment.client.get("/v1/surfaces/home_feed/served", params={"at": "tuesday 12:00"}).json()
    offset = deployment.client.get("/v1/surfaces/home_feed/served", params={"at": "2026-03-03T13:00:00+01:00"}).json()
    in_zone = {"at": "2026-03-03 13:00", "zone": "Europe/Berlin"}

    assert before == NOON
    assert (tuesday["stable"], tuesday["candidate"], tuesday["by"]) == (rollout["stable"], None, "ada")
    assert tuesday["command"] == "create"
    assert tuesday["until"] == "2026-03-05T12:00:00Z"
    assert offset == tuesday
    assert deployment.client.get("/v1/surfaces/home_feed/served", params=in_zone).json() == tuesday


@pytest.mark.parametrize(
    ("params", "status", "told"),
    [
        ({}, 422, "at: Field required"),
        ({"at": "soon"}, 422, "at: must be a moment"),
        ({"at": "2027-01-01 00:00"}, 422, "at: lies in the future"),
        ({"at": "12:00", "zone": "Mars"}, 422, "zone: must be a time zone"),
        ({"at": "2020-01-01 00:00"}, 404, "home_feed served nothing yet at 2020-01-01"),
    ],
)
def test_a_moment_that_cannot_be_answered_is_refused_by_its_field(
    deployment: Deployment, params: dict[str, str], status: int, told: str
) -> None:
    deployment.open_surface()

    answer = deployment.client.get("/v1/surfaces/home_feed/served", params=params)

    assert (answer.status_code, answer.json()["detail"][: len(told)]) == (status, told)


def test_the_whole_history_is_exported_and_checks_out(deployment: Deployment) -> None:
    rollout = deployment.create_rollout()
    deployment.command(rollout["rollout_id"], "abort", reason="wrong checkpoint")

    answer = deployment.client.get("/v1/history/export")

    assert answer.headers["content-type"].startswith("application/x-ndjson")
    report = history_file.check(answer.text.splitlines())
    assert (report.problems, report.changes) == ([], 4)


def test_an_export_holds_the_queries_that_were_asked_of_other_systems(deployment: Deployment) -> None:
    rollout = deployment.create_rollout(external=[EXTERNAL_METRIC])
    rollout_id = rollout["rollout_id"]
    with deployment.parts.sessions.writing() as session:
        generation = surfaces.get(session, HOME_FEED).generation
        verdict_id = evidence.record_verdict(
            session, rollout_id, a_verdict(findings=(A_FINDING,)), INPUTS, now=NOON, next_check_at=NOON
        )
        rollouts.apply_command(
            session,
            rollout_id,
            Command.START,
            by="scheduler",
            now=NOON,
            seen_generation=generation,
            verdict_id=verdict_id,
        )

    lines = [json.loads(line) for line in deployment.client.get("/v1/history/export").text.splitlines()]

    (reading,) = next(line for line in lines if line.get("evidence"))["evidence"]["readings"]
    assert reading["query"] == 'sum(rate(errors_total{version="b"}[5m]))'
    assert (reading["value"], reading["outcome"]) == (0.01, "value")


def test_an_unknown_surface_has_no_export(deployment: Deployment) -> None:
    answer = deployment.client.get("/v1/history/export", params={"surface": "nowhere"})

    assert answer.status_code == 404
