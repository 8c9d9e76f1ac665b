"""Components that several folders of tests share, each started once and only if a test asks for it."""

from collections.abc import Iterator

import pytest

from tests.postgres import PostgresCluster


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresCluster]:
    cluster = PostgresCluster.start_or_skip()
    yield cluster
    cluster.stop()
