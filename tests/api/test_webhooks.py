import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.app import create_app
from control_plane.clock import system_clock
from control_plane.registry import deliveries, outbox
from control_plane.registry.session import Sessions
from control_plane.settings import Settings
from tests.api.deployment import Deployment
from tests.http_client import in_process
from tests.webhooks.receiver import Answer, Receiver, wait_until
from tests.webhooks.scene import KEY, in_text, known, told


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture
def settings(receiver: Receiver, tmp_path: Path) -> Settings:
    oncall = {"name": "oncall", "url": f"{receiver.url}/a-secret-path", "secret": in_text(KEY)}
    people = {"name": "people", "url": f"{receiver.url}/slack", "format": "slack"}
    return Settings(
        data_dir=tmp_path / "data",
        runs_scheduler=False,
        webhooks=json.dumps([oncall, people]),
        webhook_timeout_seconds=60,  # a busy machine may be slow to answer
        public_url="https://surefoot.example",
    )


@pytest.fixture
def sessions(deployment: Deployment) -> Sessions:
    return deployment.parts.sessions


def given_up(sessions: Sessions, *ids: str) -> list[int]:
    known(sessions, "oncall")
    told(sessions, *ids)
    with sessions.writing() as session:
        entries = outbox.read(session)
        numbers = [entry.outbox_id for entry in entries]
        deliveries.fan_out(session, "oncall", entries, fanned_out_to=numbers[-1])
        for number in numbers:
            deliveries.note_failed(
                session, "oncall", number, error="answered 500", next_attempt_at=None, now=system_clock()
            )
    return numbers


def test_subscribers_are_listed_with_what_they_wait_for_and_without_secrets(
    deployment: Deployment, sessions: Sessions
) -> None:
    given_up(sessions, "home_feed/1", "search/1")

    answer = deployment.client.get("/v1/webhooks")

    oncall, people = answer.json()["webhooks"]
    assert (oncall["name"], oncall["pending"], oncall["dead"], oncall["is_signed"]) == ("oncall", 0, 2, True)
    assert (people["format"], people["events"]) == (
        "slack",
        ["surefoot.rollout.*", "surefoot.quarantine.*", "surefoot.freeze.*"],
    )
    assert "a-secret-path" not in answer.text
    assert in_text(KEY) not in answer.text


def test_dead_events_are_listed_and_replayed_one_by_one_or_all(deployment: Deployment, sessions: Sessions) -> None:
    first, *_ = given_up(sessions, "home_feed/1", "search/1", "search/2")

    listed = deployment.client.get("/v1/webhooks/dead").json()["dead"]
    one = deployment.client.post(f"/v1/webhooks/oncall/dead/{first}/replay")
    again = deployment.client.post(f"/v1/webhooks/oncall/dead/{first}/replay")
    rest = deployment.client.post("/v1/webhooks/oncall/replay")

    assert [entry["event"]["id"] for entry in listed] == ["search/2", "search/1", "home_feed/1"]
    assert listed[0]["last_error"] == "answered 500"
    assert (one.json()["replayed"], rest.json()["replayed"]) == (1, 2)
    assert (again.status_code, again.json()["detail"]) == (
        404,
        f"no dead event '{first}'; `surefoot webhooks dead` shows what was given up",
    )
    assert deployment.client.get("/v1/webhooks/dead").json() == {"dead": []}


def test_an_unknown_subscriber_is_named(deployment: Deployment) -> None:
    for path in ("replay", "dead/1/replay", "test"):
        answer = deployment.client.post(f"/v1/webhooks/nobody/{path}")
        assert (answer.status_code, answer.json()["detail"]) == (
            *(404, "no webhook subscriber 'nobody'; known: oncall, people"),
        )


def test_a_test_says_what_came_of_it(deployment: Deployment, receiver: Receiver) -> None:
    fine = deployment.client.post("/v1/webhooks/oncall/test").json()
    receiver.answers = lambda received: Answer(status=404, body=f"Cannot POST {received.path}".encode())
    refused = deployment.client.post("/v1/webhooks/oncall/test").json()
    deployment.client.post("/v1/webhooks/people/test")

    assert fine == {"subscriber": "oncall", "ending": "delivered", "detail": ""}
    assert (refused["ending"], refused["detail"]) == ("refused", "answered 404 Not Found: Cannot POST /***")
    assert receiver.received[0].event["type"] == "surefoot.webhook.test"
    assert "a test: nothing has changed" in receiver.received[2].event["text"]


def test_replaying_and_testing_want_a_token_where_there_are_some(settings: Settings) -> None:
    with in_process(create_app(settings.model_copy(update={"tokens": "ada=s3cret"}), system_clock)) as client:
        answers = [client.post(f"/v1/webhooks/oncall/{path}") for path in ("replay", "dead/1/replay", "test")]

    assert [answer.status_code for answer in answers] == [401, 401, 401]


def test_metrics_tell_what_waits_and_what_was_tried(settings: Settings, receiver: Receiver) -> None:
    serving = settings.model_copy(update={"runs_scheduler": True})
    receiver.answers = lambda received: Answer(status=410)
    app = create_app(serving, system_clock)
    with in_process(app) as client:
        wait_until(lambda: 'pending{subscriber="people"}' in client.get("/metrics").text, "the courier to begin")
        told(app.state.parts.sessions, "home_feed/1")
        wait_until(lambda: 'surefoot_webhooks_dead{subscriber="oncall"} 1.0' in client.get("/metrics").text, "a death")
        text = client.get("/metrics").text

    assert 'surefoot_webhooks_pending{subscriber="oncall"} 0.0' in text
    assert 'surefoot_webhook_oldest_seconds{subscriber="oncall"} 0.0' in text
    assert 'surefoot_webhook_attempts_total{outcome="gone",subscriber="oncall"} 1.0' in text


def test_no_log_line_holds_a_url(deployment: Deployment, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        tried = deployment.client.post("/v1/webhooks/oncall/test").json()

    assert tried["ending"] == "delivered", tried
    assert len(receiver.received) == 1
    assert "a-secret-path" not in caplog.text
    assert in_text(KEY) not in caplog.text
