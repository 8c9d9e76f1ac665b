from httpx import Client

from tests.api.deployment import Deployment


def test_a_surface_serves_once_a_version_was_adopted(deployment: Deployment) -> None:
    deployment.create_surface()
    before = deployment.client.get("/v1/surfaces/home_feed")
    stable = deployment.register("stable")

    after = deployment.client.put(
        "/v1/surfaces/home_feed/stable", json={"version_id": stable, "reason": "first", "seen_generation": 0}
    )

    assert (before.json()["generation"], before.json()["stable"], before.headers["ETag"]) == (0, None, '"0"')
    assert (after.json()["generation"], after.json()["stable"], after.headers["ETag"]) == (1, stable, '"1"')
    assert [state["surface"] for state in deployment.client.get("/v1/surfaces").json()["surfaces"]] == ["home_feed"]


def test_a_surface_that_exists_with_other_view_types_is_a_conflict(deployment: Deployment) -> None:
    deployment.create_surface()

    answer = deployment.client.post("/v1/surfaces", json={"surface": "home_feed", "view_types": ["list"]})

    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:surefoot:already-exists"


def test_an_unknown_surface_is_told_with_the_known_ones(deployment: Deployment) -> None:
    deployment.create_surface("search")

    answer = deployment.client.get("/v1/surfaces/home_feed")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["known"] == ["search"]


def test_a_malformed_name_is_told_with_its_field(client: Client) -> None:
    answer = client.post("/v1/surfaces", json={"surface": "Home Feed", "view_types": ["grid"]})

    assert answer.status_code == 422
    assert answer.json()["field"] == "surface"


def test_adopting_on_a_stale_generation_tells_the_current_one(deployment: Deployment) -> None:
    deployment.open_surface()
    other = deployment.register("other")
    body = {"version_id": other, "reason": "hot fix"}

    answer = deployment.client.put("/v1/surfaces/home_feed/stable", json=body, headers={"If-Match": '"0"'})

    assert answer.status_code == 412
    assert answer.json()["current_generation"] == 1
    assert deployment.client.get("/v1/surfaces/home_feed").json()["generation"] == 1


def test_a_header_and_a_body_that_name_different_generations_are_refused(deployment: Deployment) -> None:
    deployment.open_surface()
    body = {"version_id": deployment.register("other"), "reason": "hot fix", "seen_generation": 2}

    answer = deployment.client.put("/v1/surfaces/home_feed/stable", json=body, headers={"If-Match": '"1"'})

    assert (answer.status_code, answer.json()["field"]) == (422, "seen_generation")


def test_the_surfaces_roll_back_ends_its_rollout_in_one_call(deployment: Deployment) -> None:
    rollout = deployment.create_rollout()
    deployment.ramp(rollout["rollout_id"])

    state = deployment.client.post("/v1/surfaces/home_feed/rollback", json={"reason": "clicks fell"}).json()
    again = deployment.client.post("/v1/surfaces/home_feed/rollback", json={}).json()

    assert (state["stable"], state["candidate_bp"], state["rollout_id"]) == (rollout["stable"], 0, None)
    assert again["generation"] == state["generation"]
    assert deployment.client.get(f"/v1/rollouts/{rollout['rollout_id']}").json()["phase"] == "rolled_back"


def test_a_surface_with_nothing_to_fall_back_to_says_so(deployment: Deployment) -> None:
    deployment.open_surface()

    answer = deployment.client.post("/v1/surfaces/home_feed/rollback", json={"reason": "clicks fell"})

    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:surefoot:no-safe-version"


def test_who_has_seen_that_users_are_home_takes_stable_back_too(deployment: Deployment) -> None:
    first = deployment.open_surface()
    body = {"version_id": deployment.register("second"), "reason": "hot fix"}
    second = deployment.client.put("/v1/surfaces/home_feed/stable", json=body).json()["stable"]
    deployment.ramp(deployment.ask_for_rollout(deployment.register("third")).json()["rollout_id"])
    path = "/v1/surfaces/home_feed/rollback"

    home, again = (deployment.client.post(path, json={}).json() for _ in range(2))
    further = deployment.client.post(path, json={"seen_generation": home["generation"]}).json()

    assert (home["stable"], again) == (second, home)
    assert further["stable"] == first


def test_a_name_that_cannot_be_is_refused_in_words(client: Client) -> None:
    answer = client.post("/v1/surfaces", json={"surface": "Home Feed", "view_types": ["grid"]})

    assert answer.status_code == 422
    assert answer.json()["detail"] == "surface: must be lower-case letters, digits and '_', a letter first, at most 63"
