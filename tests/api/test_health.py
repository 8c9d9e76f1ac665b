from control_plane.registry import leases
from tests.api.deployment import Deployment
from tests.builders import NOON


def test_health_tells_the_time_and_who_schedules(deployment: Deployment) -> None:
    before = deployment.client.get("/v1/health").json()
    with deployment.parts.sessions.writing() as session:
        epoch = leases.acquire(session, leases.SCHEDULER, "me", 60.0)
        assert epoch is not None
        leases.note_tick(session, leases.SCHEDULER, epoch, NOON)

    after = deployment.client.get("/v1/health").json()

    noon = NOON.isoformat().replace("+00:00", "Z")
    assert (before["status"], before["now"], before["scheduler"], before["last_tick_at"]) == ("ok", noon, None, None)
    assert (after["scheduler"], after["last_tick_at"]) == ({"holder": "me", "epoch": 1}, noon)


def test_metrics_tell_weights_and_what_was_answered(deployment: Deployment) -> None:
    deployment.ramp(deployment.create_rollout()["rollout_id"])
    deployment.client.get("/v1/surfaces/nowhere")

    answer = deployment.client.get("/metrics")

    lines = answer.text.splitlines()
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'surefoot_candidate_weight_bp{surface="home_feed"} 100.0' in lines
    assert 'surefoot_active_rollouts{phase="ramping"} 1.0' in lines
    assert 'surefoot_http_requests_total{method="GET",route="/v1/surfaces/{surface}",status="404"} 1.0' in lines
