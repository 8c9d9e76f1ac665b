"""The log keeps a batch whole or not at all, whoever dies or fills up on the way."""

import errno
import multiprocessing
import os
import resource
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from control_plane.domain.errors import LogUnavailable
from control_plane.domain.events import EventKind
from control_plane.evidence import commit_log
from control_plane.evidence.aggregate import moments
from control_plane.evidence.event_log import COMPACT_AT, DAY_MS, NUM_SHARDS, EventLog, Partition, Snapshot
from tests.evidence.events import DAY, START_MS, a_log, a_query, an_exposure, by_kind, random_events, table_of

FORK = multiprocessing.get_context("fork")


def exposures(count: int, *, first: int = 0) -> dict[EventKind, pa.Table]:
    """Distinct impressions of distinct users, over all shards and three days."""
    events = [
        an_exposure(
            impression_id=number,
            user_key=number * 0x9E3779B97F4A7C15 % 2**64,
            served_at_ms=START_MS + number % 3 * DAY_MS,
        )
        for number in range(first, first + count)
    ]
    return {EventKind.EXPOSURE: table_of(EventKind.EXPOSURE, events)}


def impressions(log: EventLog) -> list[int]:
    found: list[int] = sorted(log.read(EventKind.EXPOSURE)["impression_id"].to_pylist())
    return found


def test_what_was_appended_is_read_back_by_every_reader(tmp_path: Path) -> None:
    batches = by_kind(random_events(1))
    log = EventLog(tmp_path)
    early_reader = EventLog(tmp_path)
    early_reader.snapshot()

    kept = log.append(batches)

    assert kept == sum(table.num_rows for table in batches.values())
    for reader in (log, early_reader, EventLog(tmp_path)):
        for kind, table in batches.items():
            found = reader.read(kind).sort_by([(name, "ascending") for name in table.column_names])
            assert found.equals(table.sort_by([(name, "ascending") for name in table.column_names]))


def test_files_lie_by_kind_day_and_user_shard(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append(exposures(200))

    found = set(log.snapshot())

    assert found == {
        Partition(kind=EventKind.EXPOSURE, day=day, shard=shard)
        for day in (DAY, DAY + 1, DAY + 2)
        for shard in range(NUM_SHARDS)
    }
    assert all((tmp_path / partition.folder).is_dir() for partition in found)


def test_an_empty_batch_keeps_nothing(tmp_path: Path) -> None:
    log = EventLog(tmp_path)

    assert log.append({EventKind.EXPOSURE: table_of(EventKind.EXPOSURE, [])}) == 0
    assert log.append({}) == 0
    assert log.snapshot() == {}


def test_many_small_batches_become_few_files_and_no_event_is_lost(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    for number in range(COMPACT_AT + 3):
        log.append(exposures(60, first=60 * number))

    assert impressions(log) == list(range(60 * (COMPACT_AT + 3)))
    assert max(len(segments) for segments in log.snapshot().values()) < COMPACT_AT


def test_compacted_files_stay_for_readers_of_older_snapshots_until_they_are_swept(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    for number in range(3):
        log.append(exposures(60, first=60 * number))
    old_files = [file for segments in log.snapshot().values() for file in log.files(segments)]

    assert all(log.compact(partition) for partition in log.snapshot())

    assert all(Path(file).exists() for file in old_files)
    assert log.sweep() == 0
    assert log.sweep(min_age_seconds=0) == len(old_files)
    assert not any(Path(file).exists() for file in old_files)
    assert impressions(EventLog(tmp_path)) == list(range(180))


def test_of_two_that_compact_the_same_files_one_does(tmp_path: Path) -> None:
    log, other = EventLog(tmp_path), EventLog(tmp_path)
    for number in range(3):
        log.append(exposures(60, first=60 * number))
    partition = next(iter(log.snapshot()))
    segments = log.snapshot()[partition]
    other.compact(partition)

    won = log._commits.commit([], [segment.path for segment in segments])

    assert not won
    assert impressions(log) == list(range(180))


def test_a_checkpoint_replaces_old_commits_for_new_and_for_sleeping_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_log, "RETAIN_SECONDS", -1.0)
    log, sleeper = EventLog(tmp_path), EventLog(tmp_path)
    log.append(exposures(30))
    sleeper.snapshot()
    for number in range(1, 4):
        log.append(exposures(30, first=30 * number))

    log._commits.checkpoint()
    log.append(exposures(30, first=120))

    assert len(list((tmp_path / "commits").glob("[0-9]*.json"))) == 1
    assert impressions(sleeper) == impressions(EventLog(tmp_path)) == list(range(150))


def test_threads_that_append_at_once_all_keep_their_batches(tmp_path: Path) -> None:
    logs = [EventLog(tmp_path), EventLog(tmp_path)]
    threads = [
        threading.Thread(target=logs[number % 2].append, args=(exposures(12, first=12 * number),))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert impressions(EventLog(tmp_path)) == list(range(96))


@pytest.mark.parametrize("renames", [0, 1, 5])
def test_a_writer_killed_between_files_leaves_nothing_to_see(tmp_path: Path, renames: int) -> None:
    log = EventLog(tmp_path)
    log.append(exposures(60))
    before = log.snapshot()

    child = FORK.Process(target=_append_and_die, args=(tmp_path, renames))
    child.start()
    child.join(60)

    assert child.exitcode == 9
    assert log.snapshot() == EventLog(tmp_path).snapshot() == before
    assert log.append(exposures(60, first=60)) == 60
    assert log.sweep(min_age_seconds=0) == renames + 1
    assert impressions(log) == list(range(120))


def _append_and_die(root: Path, renames: int) -> None:
    """Die after so many files of a batch got their names, in the middle of the next."""
    real_rename, left = Path.rename, renames

    def rename(self: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            os._exit(9)
        left -= 1
        return real_rename(self, target)

    Path.rename = rename  # type: ignore[method-assign, assignment]  # this process is about to die
    EventLog(root).append(exposures(200, first=1_000))


def test_sums_that_nobody_asked_for_lately_are_forgotten(tmp_path: Path) -> None:
    log = a_log(tmp_path, random_events(1))
    moments(log, a_query(as_of_ms=START_MS + 9 * DAY_MS))
    remembered = list((tmp_path / "sums").rglob("*.npz"))
    for path in remembered[1:]:
        os.utime(path, (0, 0))

    log.sweep()

    assert list((tmp_path / "sums").rglob("*.npz")) == remembered[:1]


def test_a_full_disk_refuses_the_batch_keeps_nothing_and_takes_the_next(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append(exposures(60))

    child = FORK.Process(target=_append_beyond_the_limit, args=(tmp_path,))
    child.start()
    child.join(60)

    assert child.exitcode == 0
    assert impressions(log) == list(range(100))
    assert log.sweep(min_age_seconds=0) == 0


def _append_beyond_the_limit(root: Path) -> None:
    """No file may grow beyond 16 KiB: a large batch fails in the middle of its files, a small one fits."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, 16_384))
    log = EventLog(root)
    with pytest.raises(LogUnavailable, match=os.strerror(errno.EFBIG)):
        log.append(exposures(50_000, first=1_000))
    log.append(exposures(40, first=60))


def test_a_commit_that_fails_to_be_written_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path)

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", no_space)
        with pytest.raises(LogUnavailable, match="No space left on device"):
            log.append(exposures(60))

    assert log.snapshot() == {}
    assert log.sweep(min_age_seconds=0) == 0
    assert log.append(exposures(60)) == 60


def test_a_root_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("in the way")

    with pytest.raises(LogUnavailable, match="Not a directory"):
        EventLog(tmp_path / "log")


def test_moments_read_on_while_their_files_are_swept_away(tmp_path: Path) -> None:
    log = a_log(tmp_path, *(random_events(2)[start::3] for start in range(3)))
    query = a_query()
    before = moments(log, query)
    stale = EventLog(tmp_path)
    stale_snapshot = stale.snapshot()
    for partition in log.snapshot():
        log.compact(partition)
    log.sweep(min_age_seconds=0)

    found = moments(_FirstLooksBack(tmp_path, stale_snapshot), query)

    assert (found.counts_MGSAK == before.counts_MGSAK).all()


class _FirstLooksBack(EventLog):
    """A reader whose first snapshot is older than a sweep."""

    def __init__(self, root: Path, stale: Snapshot) -> None:
        super().__init__(root)
        self._stale = [stale]

    def snapshot(self) -> Snapshot:
        return self._stale.pop() if self._stale else super().snapshot()
