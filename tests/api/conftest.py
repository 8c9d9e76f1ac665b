from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx import Client

from control_plane.app import create_app
from control_plane.settings import Settings
from tests.api.deployment import Deployment
from tests.http_client import in_process
from tests.postgres import PostgresCluster


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    """'sqlite', but for tests that are parametrised with `BOTH_DATABASES`."""
    return str(getattr(request, "param", "sqlite"))


@pytest.fixture
def settings(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> Settings:
    url = ""
    if database == "postgresql":
        cluster: PostgresCluster = request.getfixturevalue("postgres")
        url = cluster.registry()
    return Settings(data_dir=tmp_path / "data", database_url=url, runs_scheduler=False)


@pytest.fixture
def deployment(settings: Settings, tmp_path: Path) -> Iterator[Deployment]:
    """A control plane on a real registry, without a scheduler, at noon until a test moves its clock."""
    moment = Deployment.starting_clock()
    app = create_app(settings, moment.read)
    with in_process(app, headers={"X-Surefoot-Operator": "ada"}) as client:
        yield Deployment(client=client, app=app, clock=moment, artifacts=tmp_path / "artifacts")


@pytest.fixture
def client(deployment: Deployment) -> Client:
    return deployment.client
