import shutil
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from httpx import Response

from control_plane.registry import history
from tests.api.deployment import BOTH_DATABASES, Deployment, write_artifact
from tests.builders import a_plan_mapping

pytestmark = BOTH_DATABASES

SAME = ("content-type", "content-length", "location", "etag")


def post(deployment: Deployment, path: str, body: dict[str, Any], key: str = "k1", **headers: str) -> Response:
    return deployment.client.post(path, json=body, headers={"Idempotency-Key": key, **headers})


def assert_replayed(again: Response, first: Response) -> None:
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert [again.headers.get(name) for name in SAME] == [first.headers.get(name) for name in SAME]


def test_a_command_sent_twice_under_a_key_is_carried_out_once(deployment: Deployment) -> None:
    rollout_id = deployment.create_rollout()["rollout_id"]
    body = {"command": "start"}

    first = post(deployment, f"/v1/rollouts/{rollout_id}/commands", body)
    again = post(deployment, f"/v1/rollouts/{rollout_id}/commands", body)

    assert first.json()["phase"] == "warming"
    assert_replayed(again, first)


def test_every_change_is_answered_again_byte_for_byte(deployment: Deployment) -> None:
    """Though the world has moved: without the key, each of these would be refused or answered differently."""
    stable = deployment.open_surface()
    candidate = deployment.register("candidate")
    trunk = deployment.client.get(f"/v1/versions/{candidate}").json()["parts"]["trunk"]
    folder = write_artifact(deployment.artifacts / "third", "third")
    plan = {"plan": a_plan_mapping(), "surface": "home_feed", "candidate": candidate}
    sent: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/surfaces", {"surface": "search", "view_types": ["list"]}),
        ("POST", "/v1/versions", {"artifact_uri": str(folder)}),
        ("POST", "/v1/rollouts", plan),
        ("POST", "/v1/surfaces/home_feed/rollback", {"reason": "a test"}),
        ("POST", "/v1/quarantine", {"digest": trunk, "reason": "a test"}),
    ]

    def send(place: int) -> Response:
        method, path, body = sent[place]
        return deployment.client.request(method, path, json=body, headers={"Idempotency-Key": f"change-{place}"})

    firsts = [send(place) for place in range(len(sent))]
    shutil.rmtree(folder)
    deployment.client.put("/v1/surfaces/home_feed/stable", json={"version_id": stable, "reason": "x"})
    agains = [send(place) for place in range(len(sent))]

    assert [first.status_code for first in firsts] == [201, 201, 201, 200, 201]
    for again, first in zip(agains, firsts, strict=True):
        assert_replayed(again, first)


def test_an_adoption_and_a_release_from_quarantine_take_keys_too(deployment: Deployment) -> None:
    deployment.open_surface()
    second = deployment.register("second")
    trunk = deployment.client.get(f"/v1/versions/{deployment.register('third')}").json()["parts"]["trunk"]
    post(deployment, "/v1/quarantine", {"digest": trunk, "reason": "a test"}, "q")
    adoption = {"version_id": second, "reason": "a test", "seen_generation": 1}

    def send() -> list[Response]:
        put = deployment.client.put(
            "/v1/surfaces/home_feed/stable", json=adoption, headers={"Idempotency-Key": "adoption"}
        )
        delete = deployment.client.delete(
            f"/v1/quarantine/{trunk}", params={"reason": "fine"}, headers={"Idempotency-Key": "release"}
        )
        return [put, delete]

    firsts, agains = send(), send()

    assert [first.status_code for first in firsts] == [200, 204]
    for again, first in zip(agains, firsts, strict=True):
        assert_replayed(again, first)


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/surfaces", {"surface": "search", "view_types": ["grid"]}, {}),
        ("/v1/surfaces?page=2", {"surface": "search", "view_types": ["list"]}, {}),
        ("/v1/surfaces", {"surface": "search", "view_types": ["list"]}, {"If-Match": '"1"'}),
        ("/v1/surfaces/home_feed/rollback", {"surface": "search", "view_types": ["list"]}, {}),
    ],
    ids=["body", "query", "precondition", "path"],
)
def test_another_request_under_the_key_is_refused(
    deployment: Deployment, path: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    post(deployment, "/v1/surfaces", {"surface": "search", "view_types": ["list"]})
    if path.endswith("rollback"):
        body = {"reason": "another"}

    answer = post(deployment, path, body, **headers)

    assert (answer.status_code, answer.json()["type"]) == (422, "urn:surefoot:key-reused")
    assert answer.json()["key"] == "k1"


def test_keys_belong_to_their_operator(deployment: Deployment) -> None:
    post(deployment, "/v1/surfaces", {"surface": "search", "view_types": ["list"]})

    answer = post(
        deployment, "/v1/surfaces", {"surface": "ads", "view_types": ["list"]}, **{"X-Surefoot-Operator": "grace"}
    )

    assert answer.status_code == 201


def test_a_refused_request_leaves_its_key_free(deployment: Deployment) -> None:
    """So that the very same request may succeed once what stood in its way is gone."""
    deployment.open_surface()
    candidate = deployment.register("candidate")
    busy = deployment.ask_for_rollout(candidate).json()["rollout_id"]
    body = {"surface": "home_feed", "candidate": deployment.register("other"), "plan": a_plan_mapping()}

    refused = post(deployment, "/v1/rollouts", body)
    deployment.command(busy, "abort", reason="a test")
    done = post(deployment, "/v1/rollouts", body)

    assert (refused.status_code, done.status_code) == (409, 201)
    assert "Idempotency-Replayed" not in done.headers


@pytest.mark.parametrize("key", ["8e03978e-40d5-43dd-bc93-6894a57f9324", '"8e03978e-40d5-43dd-bc93-6894a57f9324"'])
def test_a_key_may_come_quoted_as_the_draft_has_it_or_bare(deployment: Deployment, key: str) -> None:
    body = {"surface": "search", "view_types": ["list"]}
    post(deployment, "/v1/surfaces", body, '"8e03978e-40d5-43dd-bc93-6894a57f9324"')

    assert post(deployment, "/v1/surfaces", body, key).headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize("key", ["", " ", '""', '"open', "a" * 256, 'a"b', "caf\u00e9"])
def test_a_key_that_is_none_is_refused(deployment: Deployment, key: str) -> None:
    answer = deployment.client.post(
        "/v1/surfaces",
        json={"surface": "search", "view_types": ["list"]},
        headers=[(b"Idempotency-Key", key.encode("latin-1"))],
    )

    assert (answer.status_code, answer.json()["field"]) == (422, "Idempotency-Key")


def test_of_twins_at_the_same_moment_one_is_carried_out_and_all_get_its_answer(deployment: Deployment) -> None:
    rollout_id = deployment.create_rollout()["rollout_id"]
    barrier = Barrier(8)

    def send(_: int) -> Response:
        barrier.wait(timeout=10)
        return post(deployment, f"/v1/rollouts/{rollout_id}/commands", {"command": "start"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sorted("Idempotency-Replayed" in answer.headers for answer in answers) == [False] + [True] * 7
    with deployment.parts.sessions.reading() as session:
        commands = [entry.command for entry in history.list_history(session)]
        assert commands.count("start") == 1


def test_an_if_match_that_is_stale_fails_the_precondition_and_a_stale_body_conflicts(deployment: Deployment) -> None:
    rollout = deployment.create_rollout()
    path = f"/v1/rollouts/{rollout['rollout_id']}/commands"
    stale = rollout["generation"] - 1

    by_header = deployment.client.post(path, json={"command": "start"}, headers={"If-Match": f'"{stale}"'})
    by_body = deployment.client.post(path, json={"command": "start", "seen_generation": stale})
    by_both = deployment.client.post(
        path, json={"command": "start", "seen_generation": stale}, headers={"If-Match": f'"{stale}"'}
    )
    any_at_all = deployment.client.post(
        path, json={"command": "start", "seen_generation": stale}, headers={"If-Match": "*"}
    )

    answers = (by_header, by_body, by_both, any_at_all)
    assert [answer.status_code for answer in answers] == [412, 409, 412, 409]
    assert {answer.json()["type"] for answer in answers} == {"urn:surefoot:stale-generation"}
    assert {answer.json()["current_generation"] for answer in answers} == {rollout["generation"]}
