"""The sums of some user shards over the days of a query: closed days from memory on disk, open ones from the log."""

import hashlib
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from control_plane.domain.events import EventKind
from control_plane.evidence.array_file import recall, remember
from control_plane.evidence.commit_log import Segment
from control_plane.evidence.event_log import DAY_MS, NUM_SHARDS, EventLog, Snapshot
from control_plane.evidence.partition_query import Asked, Bands, Scope
from control_plane.evidence.sums import Sums, add_up, no_sums
from control_plane.evidence.users import UserRows, Users, no_users, with_rows

ROWS_AT_ONCE = 500_000  # events: a query over fewer spends its time on being planned, and they fit anywhere

DayFiles = Mapping[EventKind, Sequence[Segment]]
Found = TypeVar("Found")
Asking = Generator[Asked, tuple[Sums, UserRows], Found]  # says what it needs of the log, and goes on with that


def shard_groups(snapshot: Snapshot) -> list[tuple[int, ...]]:
    """Which user shards to sum together: all, unless a day has too many events for that."""
    rows_by_day: dict[int, int] = {}
    for partition, segments in snapshot.items():
        rows_by_day[partition.day] = rows_by_day.get(partition.day, 0) + sum(one.rows for one in segments)
    if max(rows_by_day.values(), default=0) <= ROWS_AT_ONCE:
        return [tuple(range(NUM_SHARDS))]
    return [(shard,) for shard in range(NUM_SHARDS)]


class ShardSums:
    """Sums the days of some shards in one snapshot of the log.

    A day is closed once the last label window of its impressions has ended. Closed days are remembered twice:
    each by itself, and added up in the order of time. A late event changes what its day is known by, so that
    day is summed again and the days after it are added again.

    With `bands`, these are days before a rollout: what was shown then is summed by its users' bands, and no users
    are counted.
    """

    def __init__(
        self,
        log: EventLog,
        snapshot: Snapshot,
        scope: Scope,
        *,
        shards: tuple[int, ...],
        days: range,
        generations: Collection[int] = (),
        since_ms: int = 0,
        as_of_ms: int,
        bands: Bands | None = None,
    ) -> None:
        self._log = log
        self._scope = scope
        self._generations = generations
        self._since_ms = since_ms
        self._as_of_ms = as_of_ms
        self._bands = bands
        self._days = _days_of(snapshot, shards, days)
        self._name = "shards=" + ",".join(str(shard) for shard in shards)
        self._folder = log.root / "sums" / (scope.key if bands is None else _hashed(f"{scope.key} {bands}"))

    def read(self) -> Asking[tuple[Sums, Users]]:
        closed = [day for day in self._days if (day + 1) * DAY_MS + self._scope.longest_window_ms <= self._as_of_ms]
        total, users = yield from self._closed(closed)
        for days in self._batches([day for day in self._days if day not in closed]):
            sums, rows = yield self._asked(days)
            total, users = add_up([total, sums]), with_rows(users, rows, self._generations)
        return total, users

    def _closed(self, days: Sequence[int]) -> Asking[tuple[Sums, Users]]:
        chains = self._chains(days)
        path = self._folder / f"{self._name}.npz"
        known, total, users = self._known(path, chains)
        for day in days[known:]:
            sums, rows = yield from self._closed_day(day)
            total, users = add_up([total, sums]), with_rows(users, rows, self._generations)
        if known < len(days):
            remember(path, {**total.to_arrays(), **users.to_arrays()}, known_by=chains[-1])
        return total, users

    def _known(self, path: Path, chains: Sequence[str]) -> tuple[int, Sums, Users]:
        """How many of the first days are remembered together, and their sums."""
        recalled = recall(path)
        if recalled is not None and recalled[0] in chains:
            users = Users.from_arrays(recalled[1])
            if users.agrees_with(self._generations):
                return chains.index(recalled[0]), Sums.from_arrays(recalled[1]), users
        return 0, no_sums(), no_users()

    def _closed_day(self, day: int) -> Asking[tuple[Sums, UserRows]]:
        path = self._folder / f"{self._name}-day={day}.npz"
        known_by = self._known_by(day)
        recalled = recall(path)
        if recalled is not None and recalled[0] == known_by:
            return Sums.from_arrays(recalled[1]), UserRows.from_arrays(recalled[1])
        sums, rows = yield self._asked([day])
        remember(path, {**sums.to_arrays(), **rows.to_arrays()}, known_by=known_by)
        return sums, rows

    def _batches(self, days: Sequence[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        rows = 0
        for day in days:
            more = sum(one.rows for segments in self._days[day].values() for one in segments)
            if batch and rows + more > ROWS_AT_ONCE:
                yield batch
                batch, rows = [], 0
            batch.append(day)
            rows += more
        if batch:
            yield batch

    def _asked(self, days: Sequence[int]) -> Asked:
        files = {
            kind: self._log.files([one for day in days for one in self._days[day].get(kind, ())]) for kind in EventKind
        }
        return Asked(
            files=files, scope=self._scope, since_ms=self._since_ms, as_of_ms=self._as_of_ms, bands=self._bands
        )

    def _known_by(self, day: int) -> str:
        """Identity of the events of a closed day and of the part of it that the query asks for."""
        marks = {kind.value: sum(one.mark for one in segments) % 2**64 for kind, segments in self._days[day].items()}
        return _hashed(f"{day} {max(self._since_ms - day * DAY_MS, 0)} {sorted(marks.items())}")

    def _chains(self, days: Sequence[int]) -> list[str]:
        """Identity of the first 0, 1, 2 … of these days together."""
        chains = [""]
        for day in days:
            chains.append(_hashed(f"{chains[-1]} {self._known_by(day)}"))
        return chains


def _days_of(snapshot: Snapshot, shards: tuple[int, ...], days: range) -> dict[int, DayFiles]:
    found: dict[int, dict[EventKind, list[Segment]]] = {}
    for partition in sorted(snapshot, key=lambda partition: partition.day):
        if partition.shard in shards and partition.day in days:
            found.setdefault(partition.day, {}).setdefault(partition.kind, []).extend(snapshot[partition])
    return dict(found)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
