"""Components that several folders of tests share, each started once and only if a test asks for it."""

import os
from collections.abc import Iterator

import pytest

from tests.postgres import PostgresCluster
from tests.schedule import ByFile


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two more than there are cores: many tests wait, for a process, a lease or a timeout."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cores or 1) + 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresCluster]:
    cluster = PostgresCluster.start_or_skip()
    yield cluster
    cluster.stop()
