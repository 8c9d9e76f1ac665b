"""Whatever dies, and wherever: nothing is violated, and every named moment is one at which something died."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.crash_run.registry import opened
from benchmarks.crash_run.storm import Storm
from control_plane.failpoints import POINTS
from control_plane.registry.session import Sessions
from tests.postgres import PostgresCluster

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 200.0


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def sessions(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sessions]:
    if request.param == "sqlite":
        found = opened(f"sqlite:///{tmp_path / 'registry.db'}")
        yield found
        found.engine.dispose()
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    with cluster.database() as url:
        found = opened(url)
        yield found
        found.engine.dispose()


def test_a_death_at_every_failpoint_violates_nothing(sessions: Sessions, tmp_path: Path) -> None:
    storm = Storm(sessions, tmp_path)

    toll = storm.run(each_point=1, patience_seconds=PATIENCE_SECONDS)

    assert [str(one) for one in toll.violations] == []
    assert toll.problems == []
    assert toll.gave_up.total() <= toll.all_kills // 20
    assert set(toll.gave_up) <= {3, 255}, "some other end than a registry that was locked for too long at the start"
    assert {point for point in POINTS if not toll.kills[point]} == set(), "failpoints at which nothing ever died"
    assert toll.transitions > 0
