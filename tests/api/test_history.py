from sqlalchemy import text

from tests.api.deployment import BOTH_DATABASES, Deployment
from tests.registry.tampering import tampering

pytestmark = BOTH_DATABASES


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
