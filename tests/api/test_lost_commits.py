"""The line to PostgreSQL is cut at the very commit of a request: what its key makes of that."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from control_plane.app import create_app
from control_plane.registry import history
from control_plane.settings import Settings
from tests.api.deployment import Deployment, MovedClock
from tests.http_client import in_process
from tests.own_postgres import Wire
from tests.postgres import PostgresCluster

pytestmark = pytest.mark.postgres


@pytest.fixture
def wire(postgres: PostgresCluster) -> Iterator[Wire]:
    url = make_url(postgres.registry())
    with tempfile.TemporaryDirectory(prefix="sf-") as folder, Wire(url, Path(folder)).open() as wire:
        yield wire


@pytest.fixture
def deployment(wire: Wire, tmp_path: Path) -> Iterator[Deployment]:
    url = wire.url.render_as_string(hide_password=False)
    clock = MovedClock()
    app = create_app(Settings(data_dir=tmp_path, database_url=url, runs_scheduler=False), clock.read)
    with in_process(app) as client:
        yield Deployment(client=client, app=app, clock=clock, artifacts=tmp_path / "artifacts")


def starts(deployment: Deployment) -> int:
    with deployment.parts.sessions.reading() as session:
        return [entry.command for entry in history.list_history(session)].count("start")


@pytest.mark.parametrize("cut", ["cut_before", "cut_after"])
def test_with_a_key_a_change_whose_commit_was_lost_is_made_once_and_answered(
    deployment: Deployment, wire: Wire, cut: str
) -> None:
    path = f"/v1/rollouts/{deployment.create_rollout()['rollout_id']}/commands"
    setattr(wire, cut, True)

    answer = deployment.client.post(path, json={"command": "start"}, headers={"Idempotency-Key": "k"})

    assert (answer.status_code, answer.json()["phase"]) == (200, "warming")
    assert starts(deployment) == 1


def test_without_a_key_it_is_told_that_nobody_knows(deployment: Deployment, wire: Wire) -> None:
    path = f"/v1/rollouts/{deployment.create_rollout()['rollout_id']}/commands"
    wire.cut_before = True

    answer = deployment.client.post(path, json={"command": "start"})

    assert (answer.status_code, answer.json()["type"]) == (503, "urn:surefoot:commit-unknown")
