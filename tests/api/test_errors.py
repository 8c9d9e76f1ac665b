import logging
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx import Client
from sqlalchemy import event

from control_plane.api import errors
from control_plane.api.body_limit import MAX_BODY_BYTES
from control_plane.app import create_app
from control_plane.domain import errors as domain_errors
from control_plane.registry.session import upgrade
from control_plane.settings import Settings
from tests.builders import NOON
from tests.http_client import in_process
from tests.registry.test_session import allow_no_more_pages

DOMAIN_ERRORS = [
    error
    for error in vars(domain_errors).values()
    if isinstance(error, type) and issubclass(error, Exception) and error is not domain_errors.ControlPlaneError
]


@pytest.fixture
def raising() -> Client:
    """An app whose one route fails in a way that nobody foresaw."""
    app = FastAPI()
    errors.install(app)

    @app.get("/fail")
    def fail() -> None:
        raise RuntimeError("the password is swordfish")

    return in_process(app)


@pytest.mark.parametrize("error", DOMAIN_ERRORS)
def test_every_error_of_the_domain_has_a_status(error: type[Exception]) -> None:
    assert any(base in errors.STATUS_OF for base in error.__mro__)


def test_an_unexpected_error_is_logged_whole_and_told_without_its_insides(
    raising: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = raising.get("/fail")

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "swordfish" not in answer.text
    assert "swordfish" in caplog.text


def test_a_request_that_does_not_parse_names_every_field(client: Client) -> None:
    answer = client.post("/v1/surfaces", json={"surface": 7, "colour": "red"})

    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, "urn:surefoot:invalid-request")
    assert [entry["field"] for entry in problem["errors"]] == ["surface", "view_types", "colour"]


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 20_000, b'{"surface": "\\ud800", "view_types": ["a"]}'])
def test_a_body_that_is_not_json_is_the_callers_error(client: Client, content: bytes) -> None:
    answer = client.post("/v1/surfaces", content=content, headers={"Content-Type": "application/json"})

    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["field"] in ("body", "surface")


@pytest.mark.parametrize(("method", "url", "status"), [("GET", "/v2/splits", 404), ("PATCH", "/v1/splits", 405)])
def test_a_wrong_address_is_a_problem_too(client: Client, method: str, url: str, status: int) -> None:
    answer = client.request(method, url)

    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_that_is_too_large_is_refused_by_its_announced_length(client: Client) -> None:
    answer = client.post("/v1/surfaces", content=b" " * (MAX_BODY_BYTES + 1))

    assert (answer.status_code, answer.json()["type"]) == (413, "urn:surefoot:body-too-large")


def test_a_body_that_is_too_large_is_refused_though_its_length_was_not_announced(client: Client) -> None:
    chunks = (b" " * 65_536 for _ in range(MAX_BODY_BYTES // 65_536 + 1))

    answer = client.post("/v1/surfaces", content=chunks, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["type"]) == (413, "urn:surefoot:body-too-large")


def test_a_registry_that_does_not_answer_is_503_without_its_address(tmp_path: Path) -> None:
    a_folder_where_a_file_should_be = f"sqlite:///{tmp_path}"
    settings = Settings(data_dir=tmp_path / "data", database_url=a_folder_where_a_file_should_be)
    client = in_process(create_app(settings, lambda: NOON))

    answer = client.get("/v1/splits")

    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert str(tmp_path) not in answer.text


def test_a_full_disk_is_told_as_such_and_reading_goes_on(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path, runs_scheduler=False), lambda: NOON)
    engine = app.state.parts.sessions.engine
    upgrade(engine)
    engine.dispose()
    event.listen(engine, "connect", allow_no_more_pages)
    client = in_process(app)
    view_types = [f"a_view_type_{number}" for number in range(900)]

    answers = [client.post("/v1/surfaces", json={"surface": f"s{n}", "view_types": view_types}) for n in range(10)]

    assert (answers[-1].status_code, answers[-1].json()["type"]) == (507, "urn:surefoot:registry-full")
    assert answers[-1].json()["detail"] == "the registry's disk is full; nothing was changed"
    assert client.get("/v1/surfaces").status_code == 200
    engine.dispose()


def test_an_operators_name_that_is_no_name_is_refused(client: Client) -> None:
    body = {"surface": "home_feed", "view_types": ["grid"]}

    answer = client.post("/v1/surfaces", json=body, headers={"X-Surefoot-Operator": "ada\tlovelace"})

    assert (answer.status_code, answer.json()["field"]) == (422, "X-Surefoot-Operator")
