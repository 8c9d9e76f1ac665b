"""What operators may do with rollouts beyond stepping up and down: queue, replace, skip, begin anew, approve."""

from typing import Any

import pytest
from httpx import Response

from control_plane.settings import Settings
from tests.api.deployment import BOTH_DATABASES, Deployment
from tests.builders import a_plan_mapping

pytestmark = BOTH_DATABASES
ASKS_LEADS: dict[str, Any] = {"steps": [{"share": "1%", "approvals": 1, "approval_group": "leads"}, {"share": "100%"}]}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"groups": "leads=carol,ada"})


def ask(deployment: Deployment, name: str, **body: Any) -> Response:
    candidate = deployment.register(name)
    whole = {"surface": "home_feed", "candidate": candidate, "plan": a_plan_mapping(), **body}
    return deployment.client.post("/v1/rollouts", json=whole)


def restart(deployment: Deployment, rollout_id: int, **body: Any) -> Response:
    return deployment.client.post(f"/v1/rollouts/{rollout_id}/restart", json=body)


def approve(deployment: Deployment, rollout_id: int, by: str) -> Response:
    return deployment.client.post(
        f"/v1/rollouts/{rollout_id}/commands", json={"command": "approve"}, headers={"X-Surefoot-Operator": by}
    )


def test_a_rollout_of_a_busy_surface_is_refused_unless_it_says_otherwise(deployment: Deployment) -> None:
    busy = deployment.create_rollout()["rollout_id"]

    answer = ask(deployment, "second")

    assert (answer.status_code, answer.json()["rollout_id"]) == (409, busy)


def test_a_queued_rollout_is_listed_as_active_and_tells_whom_it_waits_for(deployment: Deployment) -> None:
    first = deployment.create_rollout()["rollout_id"]

    second = ask(deployment, "second", on_busy="queue").json()
    third = ask(deployment, "third", on_busy="queue").json()
    listed = deployment.client.get("/v1/rollouts", params={"active": "true"}).json()["rollouts"]

    assert [second["phase"], third["phase"]] == ["queued", "queued"]
    assert second["waiting_for"] == f"queued; waiting for rollout {first} to end"
    assert third["waiting_for"] == f"queued; waiting for rollout {first}, then {second['rollout_id']} to end"
    assert [rollout["rollout_id"] for rollout in listed] == [third["rollout_id"], second["rollout_id"], first]


def test_a_queued_rollout_can_be_withdrawn(deployment: Deployment) -> None:
    first = deployment.create_rollout()["rollout_id"]
    queued = ask(deployment, "second", on_busy="queue").json()["rollout_id"]

    answer = deployment.command(queued, "abort", reason="not needed")

    assert (answer.status_code, answer.json()["phase"]) == (200, "rolled_back")
    assert deployment.client.get("/v1/surfaces/home_feed").json()["rollout_id"] == first


def test_a_replacing_rollout_ends_the_other_in_the_same_transaction(deployment: Deployment) -> None:
    first = deployment.create_rollout()["rollout_id"]
    deployment.ramp(first)

    second = ask(deployment, "second", on_busy="replace").json()

    ended = deployment.client.get(f"/v1/rollouts/{first}").json()
    surface = deployment.client.get("/v1/surfaces/home_feed").json()
    assert (second["phase"], ended["phase"]) == ("pending", "rolled_back")
    assert (surface["rollout_id"], surface["candidate_bp"]) == (second["rollout_id"], 0)


def test_a_skip_needs_a_reason(deployment: Deployment) -> None:
    rollout_id = deployment.create_rollout()["rollout_id"]
    deployment.command(rollout_id, "start")

    refused = deployment.command(rollout_id, "skip")
    skipped = deployment.command(rollout_id, "skip", reason="the night shift asked for it")

    assert (refused.status_code, refused.json()["type"]) == (422, "urn:surefoot:missing-reason")
    assert (skipped.status_code, skipped.json()["phase"]) == (200, "shadow")


def test_a_person_advances_on_a_passing_verdict_only_whatever_the_reason(deployment: Deployment) -> None:
    rollout_id = deployment.create_rollout()["rollout_id"]
    deployment.ramp(rollout_id)

    answer = deployment.command(rollout_id, "advance", reason="I know it is fine")

    assert (answer.status_code, answer.json()["type"]) == (409, "urn:surefoot:missing-verdict")
    assert "skip" in answer.json()["detail"]


def test_a_restart_swaps_the_plan_and_gives_up_weight_evidence_and_approvals(deployment: Deployment) -> None:
    rollout_id = deployment.create_rollout(**ASKS_LEADS)["rollout_id"]
    deployment.ramp(rollout_id)
    before = approve(deployment, rollout_id, "carol").json()

    answer = restart(
        deployment,
        rollout_id,
        plan=a_plan_mapping(name="slower"),
        reason="too fast",
        seen_generation=before["generation"],
    )

    after = answer.json()
    assert answer.status_code == 200, answer.text
    assert (before["approvals"], before["candidate_bp"]) == (["carol"], 100)
    assert (after["phase"], after["step"], after["candidate_bp"], after["approvals"]) == ("shadow", -1, 0, [])
    assert after["plan"]["name"] == "slower"
    assert after["first_generation"] == after["stage_generation"] == after["generation"] == before["generation"] + 1


def test_a_restart_without_a_plan_keeps_it(deployment: Deployment) -> None:
    rollout_id = deployment.create_rollout()["rollout_id"]
    plan = deployment.ramp(rollout_id)["plan"]

    assert restart(deployment, rollout_id, reason="the log was broken").json()["plan"] == plan


@pytest.mark.parametrize(
    ("body", "status", "condition"),
    [
        ({}, 422, "missing-reason"),
        ({"reason": "x", "plan": {"name": "p"}}, 422, "invalid-plan"),
        ({"reason": "x", "plan": a_plan_mapping(), "plan_yaml": "name: p"}, 422, "invalid-field"),
        ({"reason": "x", "seen_generation": 1}, 409, "stale-generation"),
    ],
)
def test_a_restart_that_cannot_be_is_refused_and_changes_nothing(
    deployment: Deployment, body: dict[str, Any], status: int, condition: str
) -> None:
    rollout_id = deployment.create_rollout()["rollout_id"]
    before = deployment.ramp(rollout_id)

    answer = restart(deployment, rollout_id, **body)

    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:surefoot:{condition}")
    assert deployment.client.get(f"/v1/rollouts/{rollout_id}").json() == before


def test_a_finished_rollout_does_not_begin_anew(deployment: Deployment) -> None:
    rollout_id = deployment.create_rollout()["rollout_id"]
    deployment.command(rollout_id, "abort")

    assert restart(deployment, rollout_id, reason="once more").status_code == 409


def test_an_approval_takes_another_person_of_the_steps_group(deployment: Deployment) -> None:
    """ada created it and is of the group; bob is another, and not of the group."""
    rollout_id = deployment.create_rollout(**ASKS_LEADS)["rollout_id"]
    standing = deployment.ramp(rollout_id)

    answers = [approve(deployment, rollout_id, by) for by in ("ada", "bob", "carol")]

    assert (standing["approval_group"], standing["approvals_needed"], standing["created_by"]) == ("leads", 1, "ada")
    assert [answer.status_code for answer in answers] == [403, 403, 200]
    assert {answer.json()["type"] for answer in answers[:2]} == {"urn:surefoot:forbidden"}
    assert (answers[2].json()["approvals"], answers[2].json()["approvals_needed"]) == (["carol"], 0)


def test_an_approval_sent_twice_under_a_key_counts_once_and_is_answered_alike(deployment: Deployment) -> None:
    rollout_id = deployment.create_rollout(**ASKS_LEADS)["rollout_id"]
    deployment.ramp(rollout_id)
    headers = {"X-Surefoot-Operator": "carol", "Idempotency-Key": "approval"}
    path = f"/v1/rollouts/{rollout_id}/commands"

    first, again = (deployment.client.post(path, json={"command": "approve"}, headers=headers) for _ in range(2))

    assert first.content == again.content
    assert again.headers["Idempotency-Replayed"] == "true"


def test_an_unmonitored_step_is_told_as_such(deployment: Deployment) -> None:
    steps = [{"share": "1%", "monitored": False, "approvals": 1}, {"share": "100%"}]
    rollout_id = deployment.create_rollout(steps=steps)["rollout_id"]

    told = [deployment.client.get(f"/v1/rollouts/{rollout_id}").json(), deployment.ramp(rollout_id)]

    assert [standing["is_monitored"] for standing in told] == [True, False]
