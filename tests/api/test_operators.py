from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx import Client

from control_plane.app import create_app
from control_plane.domain.errors import InvalidField
from control_plane.settings import Settings
from tests.api.deployment import MovedClock
from tests.http_client import in_process

SURFACE = {"surface": "home_feed", "view_types": ["grid"]}
WRITES = [
    ("POST", "/v1/surfaces"),
    ("PUT", "/v1/surfaces/home_feed/stable"),
    ("POST", "/v1/surfaces/home_feed/rollback"),
    ("POST", "/v1/versions"),
    ("POST", "/v1/rollouts"),
    ("POST", "/v1/rollouts/1/commands"),
    ("POST", "/v1/rollouts/1/restart"),
    ("POST", "/v1/releases"),
    ("POST", "/v1/releases/1/rollback"),
    ("POST", "/v1/quarantine"),
    ("POST", "/v1/freezes"),
    ("POST", "/v1/freezes/1/lift"),
    ("DELETE", f"/v1/quarantine/sha256:{'0' * 64}?reason=x"),
    ("POST", "/v1/webhooks/ops/replay"),
    ("POST", "/v1/webhooks/ops/dead/1/replay"),
    ("POST", "/v1/webhooks/ops/test"),
    ("POST", "/v1/events"),
    ("POST", "/v1/runtimes/r/heartbeat"),
]


@pytest.fixture
def guarded(settings: Settings) -> Iterator[Client]:
    app = create_app(settings.model_copy(update={"tokens": "ada=s3cret,ci=t0ken"}), MovedClock().read)
    with in_process(app) as client:
        yield client


@pytest.mark.parametrize(("method", "url"), WRITES)
def test_no_write_goes_through_without_a_token(guarded: Client, method: str, url: str) -> None:
    answer = guarded.request(method, url, json={}, headers={"X-Surefoot-Operator": "ada"})

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_every_write_of_the_api_is_in_this_list(guarded: Client) -> None:
    paths = guarded.get("/openapi.json").json()["paths"]
    writes = [operation for path in paths.values() for method, operation in path.items() if method != "get"]

    assert len(writes) == len(WRITES)


@pytest.mark.parametrize("header", ["Bearer wrong", "Basic s3cret", "s3cret", "Bearer", "Bearer s3cre"])
def test_a_token_that_is_not_one_of_ours_is_refused(guarded: Client, header: str) -> None:
    assert guarded.post("/v1/surfaces", json=SURFACE, headers={"Authorization": header}).status_code == 401


def test_a_token_signs_with_its_owners_name_whatever_the_caller_claims(guarded: Client) -> None:
    headers = {"Authorization": "Bearer s3cret", "X-Surefoot-Operator": "eve"}

    answer = guarded.post("/v1/surfaces", json=SURFACE, headers=headers)

    assert answer.status_code == 201
    assert guarded.get("/v1/history").json()["history"][0]["by"] == "ada"


def test_reading_needs_no_token(guarded: Client) -> None:
    assert guarded.get("/v1/splits").status_code == 200


def test_malformed_tokens_are_refused_when_the_app_is_made(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, tokens="no-equals-sign")

    with pytest.raises(InvalidField, match="name=token"):
        create_app(settings, MovedClock().read)
