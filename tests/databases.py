"""Empty databases of each kind, for what migrates them itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine

from control_plane.registry.session import make_engine
from tests.postgres import PostgresCluster

EACH_KIND = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@contextmanager
def empty_database(request: pytest.FixtureRequest, file: Path) -> Iterator[Engine]:
    """Of the kind that the fixture's parameter names; `file` is where SQLite keeps it."""
    if request.param == "sqlite":
        with _disposed(f"sqlite:///{file}") as engine:
            yield engine
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    with cluster.database() as url, _disposed(url) as engine:
        yield engine


@contextmanager
def _disposed(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    yield engine
    engine.dispose()
