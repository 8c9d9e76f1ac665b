"""The append-only log of events: Parquet segments by kind, day and user shard, committed batch by batch.

    <kind>/day=<days since 1970-01-01>/shard=<n>/<name>.parquet
    commits/<number>.json

A file counts once a commit names it, so a batch that spans partitions is seen whole or not at all.
"""

import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from control_plane.domain.errors import LogUnavailable
from control_plane.domain.events import EventKind
from control_plane.domain.split import NUM_BUCKETS, bucket_of
from control_plane.evidence.commit_log import CHECKPOINT_EVERY, CommitLog, Segment, sync_folder
from control_plane.evidence.schema import SCHEMA_OF

NUM_SHARDS = 4  # each holds a quarter of the user buckets: what moments keep in memory at a time
DAY_MS = 86_400_000
COMPACT_AT = 16  # small segments of one partition before they become one
SMALL_ROWS = 65_536  # a segment below this is small; about half a row group of Parquet
ORPHAN_SECONDS = 3_600.0  # a file in no commit for this long belongs to a writer that died
FORGET_SUMS_SECONDS = 14 * 86_400.0  # remembered sums this old cost less to compute again than to keep


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Partition:
    """What lies in one folder."""

    kind: EventKind
    day: int
    shard: int

    @property
    def folder(self) -> str:
        return f"{self.kind}/day={self.day}/shard={self.shard}"


Snapshot = Mapping[Partition, Sequence[Segment]]


class EventLog:
    """One log under one folder; threads and processes may append and read at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with self._unavailable_on_error():
            (root / "commits").mkdir(parents=True, exist_ok=True)
            self._commits = CommitLog(root / "commits")

    def append(self, tables: Mapping[EventKind, pa.Table]) -> int:
        """Keep checked events, all or none, and return how many; durable once this returns.

        `LogUnavailable` if the disk does not take them.
        """
        name = uuid.uuid4().hex
        staged: dict[Partition, Segment] = {}
        with self._unavailable_on_error():
            try:
                for kind, table in tables.items():
                    for partition, part in _partitioned(table, kind):
                        staged[partition] = self._write(partition, name, part, mark=_mark(name, partition))
                if staged:
                    self._commits.commit(list(staged.values()))
            except OSError:
                self._discard(staged.values())
                raise
            self._commits.sync()
        self._tidy(staged)
        return sum(segment.rows for segment in staged.values())

    def snapshot(self) -> Snapshot:
        """Every committed segment by partition, in one moment."""
        with self._unavailable_on_error():
            visible = self._commits.visible()
        found: dict[Partition, list[Segment]] = {}
        for path in sorted(visible):
            found.setdefault(_partition_of(path), []).append(visible[path])
        return found

    def files(self, segments: Sequence[Segment]) -> list[str]:
        return [str(self.root / segment.path) for segment in segments]

    def read(self, kind: EventKind) -> pa.Table:
        """Every event of a kind as it was sent, duplicates included, for replays; in no particular order."""
        segments = [one for partition, some in self.snapshot().items() if partition.kind is kind for one in some]
        if not segments:
            return SCHEMA_OF[kind].empty_table()
        tables = [pq.read_table(file, partitioning=None) for file in self.files(segments)]
        return pa.concat_tables(tables).select(SCHEMA_OF[kind].names)

    def compact(self, partition: Partition) -> bool:
        """Merge the small segments of one partition; False if another writer did so first."""
        small = [segment for segment in self.snapshot().get(partition, ()) if segment.rows < SMALL_ROWS]
        if len(small) < 2:
            return False
        with self._unavailable_on_error():
            table = pa.concat_tables([pq.read_table(file, partitioning=None) for file in self.files(small)])
            mark = sum(segment.mark for segment in small) % 2**64
            merged = self._write(partition, uuid.uuid4().hex, table, mark=mark)
            if not self._commits.commit([merged], [segment.path for segment in small]):
                self._discard([merged])
                return False
            self._commits.sync()
            for file in self.files(small):  # still open to readers of older snapshots: their age starts now
                os.utime(file)
        return True

    def sweep(self, *, min_age_seconds: float = ORPHAN_SECONDS) -> int:
        """Delete files that no commit names and nobody has written for a while, and sums that no rollout asked
        for lately; return how many."""
        files = [path for kind in EventKind for path in (self.root / kind).rglob("*") if path.is_file()]
        files += (self.root / "commits").glob(".*.tmp")
        visible = self._commits.visible()
        orphans = [path for path in files if str(path.relative_to(self.root)) not in visible]
        sums = [path for path in (self.root / "sums").rglob("*") if path.is_file()]
        return _delete_older(orphans, min_age_seconds) + _delete_older(sums, FORGET_SUMS_SECONDS)

    def _tidy(self, staged: Mapping[Partition, Segment]) -> None:
        """Keep the number of files small; the events are safe already, so a failure here waits for next time."""
        with suppress(LogUnavailable, OSError):
            snapshot = self.snapshot()
            for partition in staged:
                if sum(segment.rows < SMALL_ROWS for segment in snapshot.get(partition, ())) >= COMPACT_AT:
                    self.compact(partition)
            if self._commits.number % CHECKPOINT_EVERY == 0:
                self._commits.checkpoint()
                self.sweep()

    def _write(self, partition: Partition, name: str, table: pa.Table, *, mark: int) -> Segment:
        folder = self._folder_of(partition)
        temporary, final = folder / f".{name}.tmp", folder / f"{name}.parquet"
        try:
            with temporary.open("xb") as file:
                pq.write_table(table, file, use_dictionary=_text_columns(table), compression="zstd", store_schema=False)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(final)
            sync_folder(folder)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return Segment(path=f"{partition.folder}/{name}.parquet", rows=table.num_rows, mark=mark)

    def _folder_of(self, partition: Partition) -> Path:
        folder = self.root / partition.folder
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            for parent in (folder.parent, folder.parent.parent, self.root):  # their new entries must last, too
                sync_folder(parent)
        return folder

    def _discard(self, segments: Iterable[Segment]) -> None:
        for segment in segments:
            (self.root / segment.path).unlink(missing_ok=True)

    @contextmanager
    def _unavailable_on_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LogUnavailable(str(self.root), error.strerror or str(error)) from error


def _partitioned(table: pa.Table, kind: EventKind) -> Iterator[tuple[Partition, pa.Table]]:
    if table.num_rows == 0:
        return
    bucket_N = bucket_of(table["user_key"].to_numpy()).astype(np.uint8)
    shard_N = bucket_N.astype(np.int64) * NUM_SHARDS // NUM_BUCKETS
    day_N = table["served_at_ms"].to_numpy() // DAY_MS
    table = table.append_column("bucket", pa.array(bucket_N))
    order_N = np.lexsort((shard_N, day_N))
    place_N = np.stack([day_N[order_N], shard_N[order_N]])
    starts = np.flatnonzero(np.r_[True, np.any(place_N[:, 1:] != place_N[:, :-1], axis=0)])
    table = table.take(pa.array(order_N))
    for start, end in zip(starts, [*starts[1:], table.num_rows], strict=True):
        partition = Partition(kind=kind, day=int(place_N[0, start]), shard=int(place_N[1, start]))
        yield partition, table.slice(start, end - start)


@lru_cache(maxsize=65_536)
def _partition_of(path: str) -> Partition:
    kind, day, shard, _ = path.split("/")
    return Partition(kind=EventKind(kind), day=int(day.partition("=")[2]), shard=int(shard.partition("=")[2]))


def _delete_older(paths: Iterable[Path], min_age_seconds: float) -> int:
    oldest = time.time() - min_age_seconds
    deleted = 0
    for path in paths:
        with suppress(FileNotFoundError):
            if path.stat().st_mtime <= oldest:
                path.unlink()
                deleted += 1
    return deleted


def _mark(name: str, partition: Partition) -> int:
    return int.from_bytes(hashlib.sha256(f"{partition.folder}/{name}".encode()).digest()[:8], "big")


def _text_columns(table: pa.Table) -> list[str]:
    return [field.name for field in table.schema if pa.types.is_string(field.type)]
