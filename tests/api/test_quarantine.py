from tests.api.deployment import BOTH_DATABASES, Deployment

pytestmark = BOTH_DATABASES


def test_a_quarantined_trunk_leaves_every_surface_and_comes_back_only_by_hand(deployment: Deployment) -> None:
    for surface in ("home_feed", "search"):
        deployment.open_surface(surface)
        candidate = deployment.register("candidate", surface=surface, trunk="shared")
        deployment.ramp(deployment.ask_for_rollout(candidate, surface).json()["rollout_id"])
    trunk = deployment.client.get(f"/v1/versions/{candidate}").json()["parts"]["trunk"]

    moved = deployment.client.post("/v1/quarantine", json={"digest": trunk, "reason": "scrambled"})

    assert (moved.status_code, moved.json()) == (201, {"digest": trunk, "surfaces": ["home_feed", "search"]})
    assert all(split["candidate"] is None for split in deployment.client.get("/v1/splits").json()["splits"])
    entry = deployment.client.get("/v1/quarantine").json()["quarantined"][0]
    assert (entry["digest"], entry["by"], entry["reason"]) == (trunk, "ada", "scrambled")
    assert deployment.ask_for_rollout(candidate, "search").status_code == 423

    released = deployment.client.delete(f"/v1/quarantine/{trunk}", params={"reason": "it was the feature store"})

    assert released.status_code == 204
    assert deployment.client.get("/v1/quarantine").json() == {"quarantined": []}


def test_a_quarantine_that_would_leave_a_surface_with_nothing_changes_nothing(deployment: Deployment) -> None:
    stable = deployment.open_surface()
    trunk = deployment.client.get(f"/v1/versions/{stable}").json()["parts"]["trunk"]

    answer = deployment.client.post("/v1/quarantine", json={"digest": trunk, "reason": "doubt"})

    assert (answer.status_code, answer.json()["type"]) == (409, "urn:surefoot:no-safe-version")
    assert deployment.client.get("/v1/quarantine").json() == {"quarantined": []}


def test_an_unknown_digest_is_not_found_and_a_malformed_one_is_refused(deployment: Deployment) -> None:
    unknown = deployment.client.post("/v1/quarantine", json={"digest": f"sha256:{'0' * 64}", "reason": "doubt"})
    malformed = deployment.client.post("/v1/quarantine", json={"digest": "abc", "reason": "doubt"})

    assert unknown.status_code == 404
    assert (malformed.status_code, malformed.json()["field"]) == (422, "digest")


def test_a_quarantine_without_a_reason_is_refused(deployment: Deployment) -> None:
    answer = deployment.client.post("/v1/quarantine", json={"digest": f"sha256:{'0' * 64}", "reason": "  "})

    assert (answer.status_code, answer.json()["field"]) == (422, "reason")
