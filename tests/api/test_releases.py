from typing import Any

from httpx import Response

from tests.api.deployment import BOTH_DATABASES, Deployment
from tests.builders import a_plan_mapping

pytestmark = BOTH_DATABASES

SEARCH_AFTER_HOME = {"upstream": "home_feed", "downstream": "search", "share": "25%", "held": "24h"}


def create_release(deployment: Deployment, edges: list[dict[str, Any]]) -> Response:
    candidates = {}
    for surface in ("home_feed", "search"):
        deployment.open_surface(surface)
        candidates[surface] = deployment.register("candidate", surface=surface)
    body = {"candidates": candidates, "plan": a_plan_mapping(), "edges": edges}
    return deployment.client.post("/v1/releases", json=body)


def test_a_release_makes_a_rollout_per_surface_and_tells_what_blocks_which(deployment: Deployment) -> None:
    answer = create_release(deployment, [SEARCH_AFTER_HOME])

    release = answer.json()
    assert answer.status_code == 201
    assert sorted(rollout["surface"] for rollout in release["rollouts"]) == ["home_feed", "search"]
    assert release["blocked"] == {"search": "home_feed to reach 25 %"}
    assert release["edges"][0]["held_seconds"] == 86_400
    assert deployment.client.get(answer.headers["Location"]).json() == release


def test_a_blocked_rollout_says_what_it_waits_for(deployment: Deployment) -> None:
    rollouts = create_release(deployment, [SEARCH_AFTER_HOME]).json()["rollouts"]
    search = next(rollout for rollout in rollouts if rollout["surface"] == "search")

    seen = deployment.client.get(f"/v1/rollouts/{search['rollout_id']}").json()

    assert seen["waiting_for"] == "waiting for home_feed to reach 25 %"


def test_edges_in_a_circle_are_refused_and_nothing_is_created(deployment: Deployment) -> None:
    back = {**SEARCH_AFTER_HOME, "upstream": "search", "downstream": "home_feed"}

    answer = create_release(deployment, [SEARCH_AFTER_HOME, back])

    assert (answer.status_code, answer.json()["field"]) == (422, "edges")
    assert deployment.client.get("/v1/rollouts").json() == {"rollouts": []}


def test_an_edge_that_cannot_be_read_is_told_with_its_path(deployment: Deployment) -> None:
    answer = create_release(deployment, [{**SEARCH_AFTER_HOME, "held": "a while"}])

    assert (answer.status_code, answer.json()["field"]) == (422, "edges[0].held")


def test_an_unknown_release_is_not_found(deployment: Deployment) -> None:
    assert deployment.client.get("/v1/releases/5").status_code == 404


def test_a_release_goes_back_in_one_call_and_twice_is_as_once(deployment: Deployment) -> None:
    release = create_release(deployment, [SEARCH_AFTER_HOME]).json()

    first, again = (deployment.client.post("/v1/releases/1/rollback", json={"reason": "clicks fell"}) for _ in range(2))

    assert (first.status_code, first.json()) == (200, again.json())
    assert {rollout["phase"] for rollout in first.json()["rollouts"]} == {"rolled_back"}
    assert (first.json()["stays"], first.json()["blocked"]) == ({}, {})
    changes = deployment.client.get("/v1/history").json()["history"]
    assert {change["reason"] for change in changes if change["command"] == "roll_back"} == {"clicks fell"}
    assert deployment.client.get(f"/v1/releases/{release['release_id']}").json()["created_by"] == release["created_by"]


def test_one_rollouts_roll_back_takes_along_what_the_edge_says(deployment: Deployment) -> None:
    edge = {**SEARCH_AFTER_HOME, "on_rollback": "cascade", "needs_green": False}
    release = create_release(deployment, [edge]).json()
    home_feed = next(rollout for rollout in release["rollouts"] if rollout["surface"] == "home_feed")

    answer = deployment.command(home_feed["rollout_id"], "roll_back")

    assert answer.status_code == 200, answer.text
    seen = deployment.client.get("/v1/releases/1").json()
    assert {rollout["phase"] for rollout in seen["rollouts"]} == {"rolled_back"}
    assert (seen["edges"][0]["on_rollback"], seen["edges"][0]["needs_green"]) == ("cascade", False)


def test_releases_are_listed_the_latest_first(deployment: Deployment) -> None:
    assert deployment.client.get("/v1/releases").json() == {"releases": []}

    release = create_release(deployment, []).json()

    assert deployment.client.get("/v1/releases").json() == {"releases": [release]}


def test_a_release_queues_behind_others_or_takes_their_place_as_it_asks(deployment: Deployment) -> None:
    create_release(deployment, [])
    names = ("second", "third")
    candidates = {
        name: {surface: deployment.register(name, surface=surface) for surface in ("home_feed", "search")}
        for name in names
    }

    def asked(name: str, **on_busy: str) -> Response:
        body = {"candidates": candidates[name], "plan": a_plan_mapping(), **on_busy}
        return deployment.client.post("/v1/releases", json=body)

    refused, queued, replaced = asked("second"), asked("second", on_busy="queue"), asked("third", on_busy="replace")

    assert (refused.status_code, refused.json()["type"]) == (409, "urn:surefoot:surface-busy")
    assert {rollout["phase"] for rollout in queued.json()["rollouts"]} == {"queued"}
    assert queued.json()["blocked"] == {"home_feed": "rollout 1 to end", "search": "rollout 2 to end"}
    assert {rollout["phase"] for rollout in replaced.json()["rollouts"]} == {"pending"}
    first = deployment.client.get("/v1/releases/1").json()
    assert {rollout["phase"] for rollout in first["rollouts"]} == {"rolled_back"}
