from typing import Any

import pytest

from control_plane.domain.verdict import Outcome
from control_plane.registry import evidence, rollouts
from tests.api.deployment import BOTH_DATABASES, Deployment
from tests.builders import NOON, a_plan_mapping, a_verdict

pytestmark = BOTH_DATABASES


def record_verdict(deployment: Deployment, rollout: dict[str, Any], outcome: Outcome, **fields: Any) -> int:
    verdict = a_verdict(outcome, generation=rollout["generation"], **fields)
    with deployment.parts.sessions.writing() as session:
        return evidence.record_verdict(
            session, rollout["rollout_id"], verdict, b"inputs", now=deployment.clock.now, next_check_at=None
        )


def test_a_new_rollout_is_pending_and_tells_what_it_waits_for(deployment: Deployment) -> None:
    deployment.open_surface()
    candidate = deployment.register("candidate")

    answer = deployment.ask_for_rollout(candidate)

    rollout = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/rollouts/{rollout['rollout_id']}"
    assert (rollout["phase"], rollout["candidate"], rollout["candidate_bp"]) == ("pending", candidate, 0)
    assert rollout["waiting_for"] == "the scheduler's next check, to start: the way is free"
    assert rollout["plan"]["name"] == "standard"
    assert deployment.client.get(answer.headers["Location"]).json() == rollout


def test_a_plan_may_come_as_yaml(deployment: Deployment) -> None:
    deployment.open_surface()
    candidate = deployment.register("candidate")
    plan = "name: quick\nsteps: [{share: 100%}]\nguardrails: [{metric: ctr}]\n"

    answer = deployment.client.post(
        "/v1/rollouts", json={"surface": "home_feed", "candidate": candidate, "plan_yaml": plan}
    )

    assert answer.json()["plan"]["name"] == "quick"


def test_a_malformed_plan_is_told_with_its_key_rule_and_line(deployment: Deployment) -> None:
    deployment.open_surface()
    candidate = deployment.register("candidate")
    plan = "name: quick\nsteps:\n  - share: 5%\n  - share: 1%\nguardrails: [{metric: ctr}]\n"

    answer = deployment.client.post(
        "/v1/rollouts", json={"surface": "home_feed", "candidate": candidate, "plan_yaml": plan}
    )

    problem = answer.json()
    assert answer.status_code == 422
    assert problem["type"] == "urn:surefoot:invalid-plan"
    assert (problem["field"], problem["line"]) == ("steps[1].share", 4)
    assert problem["rule"] == "must be larger than the step before"
    assert deployment.client.get("/v1/rollouts").json() == {"rollouts": []}


def test_a_malformed_plan_as_a_mapping_is_told_with_its_key(deployment: Deployment) -> None:
    deployment.open_surface()

    answer = deployment.ask_for_rollout(deployment.register("candidate"), check_every="often")

    assert (answer.status_code, answer.json()["field"]) == (422, "check_every")


@pytest.mark.parametrize("plans", [{}, {"plan": a_plan_mapping(), "plan_yaml": "name: x"}])
def test_a_rollout_needs_exactly_one_plan(deployment: Deployment, plans: dict[str, Any]) -> None:
    answer = deployment.client.post("/v1/rollouts", json={"surface": "home_feed", "candidate": "0" * 16, **plans})

    assert (answer.status_code, answer.json()["field"]) == (422, "plan")


def test_a_second_rollout_on_a_busy_surface_is_refused_and_names_the_first(deployment: Deployment) -> None:
    rollout = deployment.create_rollout()

    answer = deployment.ask_for_rollout(deployment.register("another"))

    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:surefoot:surface-busy"
    assert answer.json()["rollout_id"] == rollout["rollout_id"]


def test_a_passing_verdict_lets_a_rollout_advance(deployment: Deployment) -> None:
    rollout_id = deployment.create_rollout()["rollout_id"]
    deployment.command(rollout_id, "start")
    rollout = deployment.command(rollout_id, "advance").json()
    verdict_id = record_verdict(deployment, rollout, Outcome.ADVANCE)

    answer = deployment.command(rollout_id, "advance", verdict_id=verdict_id)

    assert (answer.status_code, answer.json()["phase"]) == (200, "ramping")


@pytest.mark.parametrize("how", ["header", "body"])
def test_a_command_on_a_stale_generation_changes_nothing_and_tells_the_current_one(
    deployment: Deployment, how: str
) -> None:
    rollout = deployment.create_rollout()
    url, seen = f"/v1/rollouts/{rollout['rollout_id']}/commands", rollout["generation"]
    deployment.command(rollout["rollout_id"], "start", seen_generation=seen)
    body = {"command": "advance", "reason": "I was here first"}

    if how == "header":
        answer = deployment.client.post(url, json=body, headers={"If-Match": f'"{seen}"'})
    else:
        answer = deployment.client.post(url, json={**body, "seen_generation": seen})

    assert answer.status_code == (412 if how == "header" else 409)
    assert (answer.json()["seen_generation"], answer.json()["current_generation"]) == (seen, seen + 1)
    assert deployment.client.get(f"/v1/rollouts/{rollout['rollout_id']}").json()["phase"] == "warming"


def test_a_command_that_the_phase_does_not_take_is_a_conflict(deployment: Deployment) -> None:
    rollout = deployment.create_rollout()

    answer = deployment.command(rollout["rollout_id"], "resume")

    assert answer.status_code == 409
    assert (answer.json()["phase"], answer.json()["command"]) == ("pending", "resume")


def test_rolling_back_twice_is_the_same_as_once(deployment: Deployment) -> None:
    rollout_id = deployment.create_rollout()["rollout_id"]
    deployment.ramp(rollout_id)

    once = deployment.command(rollout_id, "roll_back", reason="clicks fell")
    twice = deployment.command(rollout_id, "roll_back", reason="clicks fell")

    assert once.json()["phase"] == "rolled_back"
    assert twice.json() == once.json()


def test_a_rollout_tells_how_far_the_runtimes_follow(deployment: Deployment) -> None:
    rollout = deployment.ramp(deployment.create_rollout(steps=[{"share": "4%"}, {"share": "100%"}])["rollout_id"])
    generation, candidate = rollout["generation"], rollout["candidate"]
    deployment.heartbeat("follows", generations={"home_feed": generation}, loaded=[candidate])
    deployment.heartbeat("lags", generations={"home_feed": generation - 1}, loaded=[candidate])

    seen = deployment.client.get(f"/v1/rollouts/{rollout['rollout_id']}").json()

    assert (seen["live_runtimes"], seen["acknowledged_runtimes"], seen["loaded_runtimes"]) == (2, 1, 2)
    assert (seen["candidate_bp"], seen["acknowledged_bp"]) == (400, 200)


def test_runtimes_follow_still_when_a_change_left_the_weights_alone(deployment: Deployment) -> None:
    """A hold raises the generation; what runtimes serve stays what was set."""
    rollout = deployment.ramp(deployment.create_rollout(steps=[{"share": "4%"}, {"share": "100%"}])["rollout_id"])
    deployment.heartbeat(generations={"home_feed": rollout["generation"]}, loaded=[rollout["candidate"]])

    held = deployment.command(rollout["rollout_id"], "hold", reason="lunch").json()

    assert held["generation"] == rollout["generation"] + 1
    assert (held["candidate_bp"], held["acknowledged_bp"]) == (400, 400)


def test_a_verdict_on_an_earlier_weight_says_nothing_of_what_this_one_waits_for(deployment: Deployment) -> None:
    rollout = deployment.ramp(deployment.create_rollout()["rollout_id"])
    before = {**rollout, "generation": rollout["generation"] - 1}
    record_verdict(deployment, before, Outcome.HOLD, reason="0 of 1000 pairs in the shadow")
    with deployment.parts.sessions.writing() as session:
        rollouts.acknowledge(
            session, rollout["rollout_id"], seen_generation=rollout["generation"], at=deployment.clock.now
        )

    seen = deployment.client.get(f"/v1/rollouts/{rollout['rollout_id']}").json()

    assert seen["waiting_for"] == "waiting for the first verdict"


def test_a_rollout_that_nobody_watched_tells_that_its_users_are_on_stable(deployment: Deployment) -> None:
    rollout = deployment.ramp(deployment.create_rollout()["rollout_id"])
    deployment.heartbeat(generations={"home_feed": rollout["generation"]})
    deployment.clock.move(minutes=14)
    watched = deployment.client.get(f"/v1/rollouts/{rollout['rollout_id']}").json()
    deployment.clock.move(minutes=2)

    unwatched = deployment.client.get(f"/v1/rollouts/{rollout['rollout_id']}").json()

    assert (watched["acknowledged_bp"], unwatched["acknowledged_bp"]) == (100, 0)
    assert unwatched["waiting_for"].startswith("waiting for a completed check: the candidate was unwatched too long")
    assert unwatched["until"] is None


def test_a_rollout_tells_why_it_waits_and_until_when(deployment: Deployment) -> None:
    rollout = deployment.ramp(deployment.create_rollout()["rollout_id"])
    with deployment.parts.sessions.writing() as session:
        rollouts.acknowledge(
            session, rollout["rollout_id"], seen_generation=rollout["generation"], at=deployment.clock.now
        )
    record_verdict(deployment, rollout, Outcome.HOLD, seconds_to_resolve=7_200.0, reason="287 of 1000 clicks")

    seen = deployment.client.get(f"/v1/rollouts/{rollout['rollout_id']}").json()

    assert seen["waiting_for"] == "287 of 1000 clicks"
    assert seen["until"] == NOON.replace(hour=14).isoformat().replace("+00:00", "Z")
    assert seen["verdict"]["verdict"]["outcome"] == "hold"


def test_active_rollouts_are_listed_without_the_finished_ones(deployment: Deployment) -> None:
    first = deployment.create_rollout()["rollout_id"]
    deployment.command(first, "abort")
    second = deployment.create_rollout("search")["rollout_id"]

    def listed(**params: str) -> list[int]:
        return [
            rollout["rollout_id"] for rollout in deployment.client.get("/v1/rollouts", params=params).json()["rollouts"]
        ]

    assert listed() == [second, first]
    assert listed(active="true") == [second]
    assert listed(surface="home_feed") == [first]


def test_an_unknown_rollout_is_not_found(deployment: Deployment) -> None:
    assert deployment.client.get("/v1/rollouts/7").status_code == 404
    assert deployment.command(7, "start").status_code == 404
    assert deployment.client.get("/v1/rollouts/7/verdicts").status_code == 404


def test_verdicts_are_read_explained_and_with_their_inputs(deployment: Deployment) -> None:
    rollout = deployment.ramp(deployment.create_rollout()["rollout_id"])
    verdict_id = record_verdict(deployment, rollout, Outcome.HOLD)

    verdict = deployment.client.get(f"/v1/verdicts/{verdict_id}").json()
    inputs = deployment.client.get(f"/v1/verdicts/{verdict_id}/inputs")
    listed = deployment.client.get(f"/v1/rollouts/{rollout['rollout_id']}/verdicts").json()["verdicts"]

    assert verdict["verdict_json"] == a_verdict(Outcome.HOLD, generation=rollout["generation"]).to_json()
    assert verdict["explanation"]
    assert (inputs.headers["content-type"], inputs.content) == ("application/octet-stream", b"inputs")
    assert [entry["verdict_id"] for entry in listed] == [verdict_id]
    assert deployment.client.get("/v1/verdicts/99").status_code == 404
