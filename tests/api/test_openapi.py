"""The API against its own description: whatever is sent, nothing breaks and every answer is one that it tells of."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

from control_plane.app import create_app
from control_plane.domain.verdict import Outcome
from control_plane.registry import evidence
from control_plane.settings import Settings
from tests.api.deployment import Deployment, MovedClock
from tests.builders import NOON, a_verdict
from tests.http_client import in_process

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: pip install 'surefoot[integration]'")

ENDLESS = "/v1/splits/stream"
EXAMPLES = 40  # of each operation
CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_headers_conformance,
    schemathesis.checks.response_schema_conformance,
]


@schemathesis.serializer("application/vnd.apache.arrow.stream", "application/x-ndjson")  # type: ignore[untyped-decorator]  # it comes without types
def as_bytes(_context: Any, value: Any) -> bytes:
    """A body of events as it is: what is guessed is neither, and must be refused as such."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One of everything, so that some of what is guessed exists."""
    folder: Path = tmp_path_factory.mktemp("openapi")
    clock = MovedClock()
    app = create_app(Settings(data_dir=folder / "data", runs_scheduler=False), clock.read)
    with in_process(app) as client:
        made = Deployment(client=client, app=app, clock=clock, artifacts=folder / "artifacts")
        rollout = made.ramp(made.create_rollout()["rollout_id"])
        made.heartbeat(generations={"home_feed": rollout["generation"]})
        verdict = a_verdict(Outcome.HOLD, generation=rollout["generation"])
        with made.parts.sessions.writing() as session:
            evidence.record_verdict(session, rollout["rollout_id"], verdict, b"inputs", now=NOON, next_check_at=None)
        yield made


@pytest.fixture(scope="module")
def described(deployment: Deployment) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", deployment.app).exclude(path=ENDLESS)


def test_the_description_is_valid_openapi(described: Any) -> None:
    described.validate()


def test_every_route_has_a_summary_a_tag_and_described_answers(deployment: Deployment) -> None:
    for path, operations in deployment.app.openapi()["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["tags"], (method, path)
            assert {"422", "500", "503"} <= operation["responses"].keys(), (method, path)


@pytest.mark.slow
def test_no_input_breaks_the_api_and_every_answer_is_described(described: Any) -> None:
    operations = [found.ok() for found in described.get_all_operations()]

    for operation in operations:
        _try(operation)

    assert len(operations) >= 28


def _try(operation: Any) -> None:
    @seed(2026)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def answers_as_described(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    answers_as_described()
