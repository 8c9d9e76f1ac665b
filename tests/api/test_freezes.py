from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from httpx import Client, Response

from control_plane.app import create_app
from control_plane.domain.errors import InvalidField
from control_plane.settings import Settings
from tests.api.deployment import BOTH_DATABASES, Deployment, MovedClock
from tests.builders import NOON
from tests.http_client import in_process

GROUPS = "oncall=ann,bob;leads=carol"
WEEKENDS = {
    "recurrence": "FREQ=WEEKLY;BYDAY=FR",
    "starts_at": "2026-03-06T17:00",
    "duration": "64h",
    "time_zone": "America/New_York",
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"groups": GROUPS})


def declared(deployment: Deployment, **body: Any) -> Response:
    return deployment.client.post("/v1/freezes", json={"reason": "code freeze", **body})


def as_operator(name: str) -> dict[str, str]:
    return {"X-Surefoot-Operator": name}


@BOTH_DATABASES
def test_a_freeze_is_declared_read_listed_and_lifted(deployment: Deployment) -> None:
    deployment.create_surface()

    answer = declared(deployment, surface="home_feed", owner="release team", ends_at="2026-03-03T20:00:00+00:00")

    freeze = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (201, "/v1/freezes/1")
    assert (freeze["owner"], freeze["created_by"], freeze["reason"]) == ("release team", "ada", "code freeze")
    assert (freeze["stands"], freeze["until"], freeze["next_at"]) == (True, "2026-03-03T20:00:00Z", None)
    assert deployment.client.get("/v1/freezes/1").json() == freeze
    assert deployment.client.get("/v1/freezes").json() == {"freezes": [freeze]}

    lifted = deployment.client.post("/v1/freezes/1/lift", json={"reason": "shipped"})

    assert (lifted.status_code, lifted.json()["lifted_by"], lifted.json()["lift_reason"]) == (200, "ada", "shipped")
    assert lifted.json()["stands"] is False
    assert deployment.client.get("/v1/freezes", params={"open": True}).json() == {"freezes": []}
    assert deployment.client.get("/v1/freezes").json() == {"freezes": [lifted.json()]}


@BOTH_DATABASES
def test_weekends_are_frozen_on_the_wall_clock_of_their_zone(deployment: Deployment) -> None:
    answer = declared(deployment, **WEEKENDS)

    freeze = answer.json()
    assert answer.status_code == 201, answer.text
    assert (freeze["starts_at"], freeze["next_at"]) == ("2026-03-06T22:00:00Z", "2026-03-06T22:00:00Z")
    assert freeze["stands"] is False
    deployment.clock.move(days=4)  # to Saturday; on Sunday New York's clocks go forward
    standing = deployment.client.get("/v1/freezes/1").json()
    assert (standing["stands"], standing["until"]) == (True, "2026-03-09T13:00:00Z")
    assert standing["next_at"] == "2026-03-13T21:00:00Z"


def test_a_freeze_for_a_while_needs_no_calendar(deployment: Deployment) -> None:
    assert declared(deployment, duration="90m").json()["until"] == "2026-03-03T13:30:00Z"


def test_lists_can_be_of_one_surface(deployment: Deployment) -> None:
    for surface in ("home_feed", "search"):
        deployment.create_surface(surface)
        declared(deployment, surface=surface)
    declared(deployment)

    found = deployment.client.get("/v1/freezes", params={"surface": "search"}).json()["freezes"]

    assert [freeze["surface"] for freeze in found] == [None, "search"]


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"reason": "  "}, "reason", "must say something"),
        ({"surface": "Home Feed"}, "surface", "lower-case"),
        ({"time_zone": "Mars/Olympus_Mons"}, "time_zone", "IANA"),
        ({"time_zone": "../../etc/passwd"}, "time_zone", "IANA"),
        ({"ends_at": "2026-03-03T11:00:00Z"}, "ends_at", "after"),
        ({"ends_at": "2026-03-29T02:30", "time_zone": "Europe/Berlin"}, "ends_at", "the clocks skip it"),
        ({"starts_at": "0001-01-01T00:00:00+14:00"}, "starts_at", "1970"),
        ({"starts_at": "9999-12-31T23:59:59-14:00"}, "starts_at", "2200"),
        ({"starts_at": "2002-01-01T00:00:00Z"}, "starts_at", "ten years"),
        ({"starts_at": "tomorrow"}, "starts_at", "a moment in ISO 8601"),
        ({"duration": "an hour"}, "duration", "like '90s'"),
        ({"duration": "1h", "ends_at": "2026-03-04T00:00:00Z"}, "duration", "without ends_at"),
        ({"bypass_group": "oncal"}, "bypass_group", "known: oncall, leads"),
        ({"until": "2026-03-04T00:00:00Z"}, "until", "not permitted"),
        ({**WEEKENDS, "starts_at": None}, "starts_at", "at what time of the day"),
        ({**WEEKENDS, "duration": None}, "duration", "how long"),
        ({**WEEKENDS, "duration": "400d"}, "duration", "at most 366 days"),
        ({**WEEKENDS, "recurrence": "every friday"}, "recurrence", "FREQ=WEEKLY;BYDAY=FR"),
        ({**WEEKENDS, "recurrence": "FREQ=WEEKLY;BYDAY=FRI"}, "recurrence", "MO, TU"),
        ({**WEEKENDS, "recurrence": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"}, "recurrence", "never occurs"),
        ({**WEEKENDS, "recurrence": "FREQ=SECONDLY"}, "recurrence", "FREQ must be one of"),
        ({**WEEKENDS, "recurrence": "FREQ=DAILY;INTERVAL=0"}, "recurrence", "INTERVAL must be 1"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused_by_its_field(
    deployment: Deployment, body: dict[str, Any], field: str, words: str
) -> None:
    answer = declared(deployment, **body)

    assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text
    assert words in answer.json()["detail"]
    assert deployment.client.get("/v1/freezes").json() == {"freezes": []}


def test_a_surface_or_a_freeze_that_is_not_there_is_not_found(deployment: Deployment) -> None:
    answers = [
        declared(deployment, surface="serach"),
        deployment.client.get("/v1/freezes/7"),
        deployment.client.post("/v1/freezes/7/lift", json={"reason": "done"}),
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 404]


def test_who_neither_owns_nor_declared_a_freeze_lifts_it_only_from_its_bypass_group(deployment: Deployment) -> None:
    declared(deployment, bypass_group="oncall")

    answers = [
        deployment.client.post("/v1/freezes/1/lift", json={"reason": "in my way"}, headers=as_operator(name))
        for name in ("carol", "bob")
    ]

    assert [answer.status_code for answer in answers] == [403, 200]
    assert answers[0].json()["type"] == "urn:surefoot:forbidden"
    assert answers[0].json()["detail"] == "carol may not lift freeze 1; ada, or anyone of oncall, may"


def test_a_declaration_sent_twice_under_one_key_is_made_once(deployment: Deployment) -> None:
    body, headers = {"reason": "code freeze"}, {"Idempotency-Key": "freeze-2026-03-03"}

    first, second = (deployment.client.post("/v1/freezes", json=body, headers=headers) for _ in range(2))

    assert first.json() == second.json()
    assert len(deployment.client.get("/v1/freezes").json()["freezes"]) == 1


@pytest.mark.parametrize("setting", ["oncall", "oncall=", "=ann", "On Call=ann", "oncall=ann;oncall=bob"])
def test_malformed_groups_are_refused_when_the_app_is_made(tmp_path: Path, setting: str) -> None:
    with pytest.raises(InvalidField, match="oncall=ann,bob;leads=carol"):
        create_app(Settings(data_dir=tmp_path, groups=setting), MovedClock().read)


@pytest.fixture
def with_tokens(settings: Settings) -> Iterator[Client]:
    app = create_app(settings.model_copy(update={"tokens": "bob=b0b,carol=car0l"}), lambda: NOON + timedelta(hours=1))
    with in_process(app) as client:
        yield client


def test_groups_are_of_the_tokens_owner_whatever_the_caller_claims(with_tokens: Client) -> None:
    declaring = {"Authorization": "Bearer b0b"}
    lifting = {"Authorization": "Bearer car0l", "X-Surefoot-Operator": "bob"}
    with_tokens.post("/v1/freezes", json={"reason": "code freeze", "bypass_group": "oncall"}, headers=declaring)

    answer = with_tokens.post("/v1/freezes/1/lift", json={"reason": "in my way"}, headers=lifting)

    assert answer.status_code == 403
    assert answer.json()["who"] == "carol"
