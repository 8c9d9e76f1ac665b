"""Many rollouts' moments at once are those of each alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.domain.model_version import Surface, ViewType
from control_plane.domain.moments import Moments
from control_plane.evidence import partition_query, shard_sums
from control_plane.evidence.aggregate import MomentsQuery, MomentsReader
from control_plane.evidence.event_log import DAY_MS
from control_plane.evidence.partition_query import PartitionQuery
from tests.builders import CANDIDATE, STABLE
from tests.evidence.brute_force import brute_force
from tests.evidence.events import HOUR_MS, OTHER, START_MS, a_log, a_query, random_events
from tests.evidence.test_moments import assert_identical

AS_OF_MS = START_MS + 3 * DAY_MS + 7 * HOUR_MS


def unlike_each_other() -> list[MomentsQuery]:
    """Two surfaces, two candidates, other windows, starts, weights and caps; with days before and without."""
    query = a_query(as_of_ms=AS_OF_MS)
    return [
        query,
        replace(query, surface=Surface("search")),
        replace(query, candidate=OTHER, revenue_cap=1.0),
        replace(query, stable=CANDIDATE, candidate=STABLE, view_types=[ViewType("closeup")]),
        replace(query, since_ms=START_MS + 2 * DAY_MS + HOUR_MS, salt="one", pre_period_days=2),
        replace(query, since_ms=START_MS + 2 * DAY_MS, salt="other", pre_period_days=2, weights_bp=(1_000, 9_000)),
        replace(query, windows_ms={label: ms // 7 for label, ms in query.windows_ms.items()}, as_of_ms=AS_OF_MS - 5),
        replace(query, surface=Surface("nobody goes there")),
    ]


def found_of(reader: MomentsReader, queries: list[MomentsQuery]) -> list[Moments]:
    found = reader.moments_of(queries)
    return [one for one in found if isinstance(one, Moments)]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("rows_at_once", [500_000, 20], ids=["all shards at once", "shard after shard"])
def test_together_they_are_what_a_slow_count_gives_for_each(
    tmp_path: Path, seed: int, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_sums, "ROWS_AT_ONCE", rows_at_once)
    events = random_events(seed)
    queries = unlike_each_other()

    with MomentsReader(a_log(tmp_path, events)) as reader:
        first, again = found_of(reader, queries), found_of(reader, queries[::-1])[::-1]

    assert first[0].counts_MGSAK.any()
    for query, found, found_again in zip(queries, first, again, strict=True):
        assert_identical(found, brute_force(events, query))
        assert_identical(found_again, found)


def test_rollouts_of_the_same_days_cost_the_queries_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    answers = PartitionQuery.answers

    def counted(self: PartitionQuery, alike: list[partition_query.Asked]) -> object:
        asked.append(len(alike))
        return answers(self, alike)

    monkeypatch.setattr(PartitionQuery, "answers", counted)
    query = a_query(as_of_ms=START_MS + HOUR_MS)
    queries = [replace(query, surface=Surface(f"surface {number}")) for number in range(9)]

    with MomentsReader(a_log(tmp_path, random_events(3, days=1))) as reader:
        reader.moments_of(queries)

    assert asked == [9]


def test_one_whose_part_of_the_log_is_damaged_does_not_stop_the_others(tmp_path: Path) -> None:
    """Day 0 cannot be read; who starts on day 2 does not need it."""
    events = random_events(4, days=3)
    log = a_log(tmp_path, events)
    for path in tmp_path.rglob(f"day={START_MS // DAY_MS}/**/*.parquet"):
        path.write_bytes(b"not parquet")
    sound = a_query(since_ms=START_MS + 2 * DAY_MS, as_of_ms=START_MS + 3 * DAY_MS)

    with MomentsReader(log) as reader:
        damaged, found = reader.moments_of([a_query(since_ms=START_MS, as_of_ms=AS_OF_MS), sound])

    assert isinstance(damaged, Exception)
    assert isinstance(found, Moments)
    assert_identical(found, brute_force(events, sound))


def test_files_that_are_gone_since_the_log_was_looked_at_are_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = random_events(5, days=1)
    log = a_log(tmp_path, *(events[start::5] for start in range(5)))
    stale = log.snapshot()
    for partition in stale:
        log.compact(partition)
    log.sweep(min_age_seconds=0)
    looks = [stale]
    snapshot = log.snapshot
    monkeypatch.setattr(log, "snapshot", lambda: looks.pop() if looks else snapshot())
    query = a_query(as_of_ms=AS_OF_MS)

    with MomentsReader(log) as reader:
        (found,) = reader.moments_of([query])

    assert isinstance(found, Moments)
    assert_identical(found, brute_force(events, query))
