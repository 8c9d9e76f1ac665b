"""A registry on each database: every test of this folder that asks for `sessions` runs on both."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.registry.session import Sessions, make_engine, upgrade
from tests.databases import EACH_KIND
from tests.postgres import PostgresCluster

ON_POSTGRESQL = pytest.mark.parametrize(
    "registry_url", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("registry") / "template.db"
    engine = make_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture(params=EACH_KIND)
def registry_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, migrated registry."""
    if request.param == "postgresql":
        cluster: PostgresCluster = request.getfixturevalue("postgres")
        return cluster.registry()
    path = tmp_path / "registry.db"
    shutil.copy(request.getfixturevalue("sqlite_template"), path)
    return f"sqlite:///{path}"


@pytest.fixture
def sessions(registry_url: str) -> Iterator[Sessions]:
    engine = make_engine(registry_url)
    yield Sessions(engine)
    engine.dispose()
