"""The splits this runtime serves: polled and pushed, on disk for a cold start, and counted down.

What must hold here: a surface's generation never falls. A version is loaded before it gets weight, while weight
is taken away at once. A candidate that nobody watches any more goes home when its seconds are used up, whether or
not the control plane can be reached: seconds count on the monotonic clock from when they were asked for, and a
snapshot read from disk has none left.
"""

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from control_plane.domain.errors import InvalidField, InvalidSplit
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.split import Split
from model_runtime.control_link import Backoff, ControlLink, Unreachable

SPLITS_PATH = "/v1/splits"
STREAM_PATH = "/v1/splits/stream"
STREAM_SILENCE_SECONDS = 60.0  # after this the stream is opened anew: a dead peer says nothing either

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A split and when, on the monotonic clock, its candidate goes home (inf where nothing runs out)."""

    split: Split
    home_at: float

    def effective(self, now: float) -> Split:
        return self.split if now < self.home_at else stable_only(self.split)


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What GET /v1/splits answers."""

    splits: Mapping[Surface, Split]
    artifact_uris: Mapping[VersionId, str]

    def to_json(self) -> str:
        return json.dumps({"splits": [s.to_json() for s in self.splits.values()], "versions": self.artifact_uris})

    @classmethod
    def from_json(cls, body: bytes | str) -> "Snapshot":
        """Read it; `InvalidSplit` names what is wrong."""
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise InvalidSplit("splits", f"is not JSON: {error}") from None
        if not isinstance(value, dict) or not isinstance(value.get("splits"), list):
            raise InvalidSplit("splits", "must be a list")
        versions = value.get("versions")
        if not isinstance(versions, dict) or not all(isinstance(uri, str) for uri in versions.values()):
            raise InvalidSplit("versions", "must map version ids to artifact URIs")
        if not all(isinstance(split, dict) for split in value["splits"]):
            raise InvalidSplit("splits", "must be objects")
        splits = [Split.from_json(split) for split in value["splits"]]
        return cls(splits={split.surface: split for split in splits}, artifact_uris=versions)


class SplitTable:
    """The held splits by surface, and those ordered but not yet loaded. Thread-safe; does no I/O."""

    def __init__(self, *, is_ready: Callable[[Split], bool], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._is_ready = is_ready
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._held: dict[Surface, Held] = {}
        self._ordered: dict[Surface, Held] = {}
        self._artifact_uris: dict[VersionId, str] = {}

    def split(self, surface: Surface) -> Split | None:
        """What serves on a surface now."""
        held = self._held.get(surface)
        return None if held is None else held.effective(self._monotonic())

    def splits(self) -> dict[Surface, Split]:
        now = self._monotonic()
        with self._lock:
            return {surface: held.effective(now) for surface, held in self._held.items()}

    def ordered(self) -> frozenset[Surface]:
        """Surfaces whose newest split waits for its versions to load."""
        with self._lock:
            return frozenset(self._ordered)

    def wanted(self) -> dict[VersionId, str]:
        """Artifact URIs of every version that a held or an ordered split names, the most urgent first."""
        with self._lock:
            splits = [held.split for held in (*self._ordered.values(), *self._held.values())]
            by_urgency = [s.stable for s in splits] + [s.candidate for s in splits] + [s.shadow for s in splits]
            return {v: self._artifact_uris.get(v, "") for v in by_urgency if v is not None}

    def offer(self, snapshot: Snapshot, *, asked_at: float) -> bool:
        """Take in what the control plane said at or after `asked_at`; True if a split is newer than before."""
        with self._lock:
            self._artifact_uris.update(snapshot.artifact_uris)
            newer = [self._order(split, asked_at) for split in snapshot.splits.values()]
            return any(newer)

    def settle(self) -> None:
        """Let those ordered splits take effect whose versions are loaded."""
        with self._lock:
            for surface, ordered in list(self._ordered.items()):
                if self._is_ready(ordered.split):
                    self._held[surface] = self._ordered.pop(surface)

    def snapshot(self) -> Snapshot:
        """The newest splits known, for the disk."""
        with self._lock:
            newest = {surface: held.split for surface, held in {**self._held, **self._ordered}.items()}
            named = {v for s in newest.values() for v in (s.stable, s.candidate, s.shadow)}
            uris = {v: uri for v, uri in self._artifact_uris.items() if v in named}
            return Snapshot(splits=newest, artifact_uris=uris)

    def _order(self, split: Split, asked_at: float) -> bool:
        left = split.unwatched_seconds_left
        offered = Held(split=split, home_at=math.inf if left is None else asked_at + left)
        newest = self._ordered.get(split.surface) or self._held.get(split.surface)
        if newest is not None and split.generation < newest.split.generation:
            log.warning(
                "%s: generation %d offered after %d; ignored", split.surface, split.generation, newest.split.generation
            )
            return False
        if newest is not None and split.generation == newest.split.generation:
            self._renew(offered)
            return False
        self._ordered[split.surface] = offered
        if (held := self._held.get(split.surface)) is not None:
            self._held[split.surface] = replace(held, split=meanwhile(held.split, split))
        return True

    def _renew(self, offered: Held) -> None:
        for table in (self._held, self._ordered):
            known = table.get(offered.split.surface)
            if known is not None and known.split.generation == offered.split.generation:
                # An answer that was long on its way must not shorten what a later question brought.
                table[offered.split.surface] = replace(known, home_at=max(known.home_at, offered.home_at))


class SplitClient:
    """Keeps a `SplitTable` fresh from the control plane: a poll, hurried along by the event stream.

    The stream only says that something changed; the answer comes from the poll, so that leases always count from
    a question this runtime asked, never from a line that lay in a buffer.
    """

    def __init__(
        self,
        table: SplitTable,
        base_url: str,
        *,
        path: Path,
        on_change: Callable[[], None],
        token: str = "",
        poll_seconds: float = 2.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._path = path
        self._on_change = on_change
        self._poll_seconds = poll_seconds
        self._monotonic = monotonic
        self._poll_link = ControlLink(base_url, token=token)
        self._stream_link = ControlLink(base_url, token=token, timeout_seconds=STREAM_SILENCE_SECONDS)
        self._etag = ""
        self._is_streaming = False
        self._is_reachable = False
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._threads = (
            threading.Thread(target=self._poll_on, name="splits-poll", daemon=True),
            threading.Thread(target=self._stream_on, name="splits-stream", daemon=True),
        )

    @property
    def mode(self) -> str:
        """How fresh the splits are: 'stream', 'poll', or 'last_known_good' while the control plane is away."""
        if not self._is_reachable:
            return "last_known_good"
        return "stream" if self._is_streaming else "poll"

    def start(self) -> None:
        """Read the last known good splits from disk, then follow the control plane."""
        if (snapshot := read_last_known_good(self._path)) is not None:
            self._table.offer(snapshot, asked_at=self._monotonic())
            self._on_change()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        while any(thread.is_alive() for thread in self._threads):
            self._close_links()
            for thread in self._threads:
                thread.join(0.2)
        self._close_links()

    def poll(self) -> None:
        """Ask once.

        Raises:
            Unreachable: no answer.
            InvalidSplit: an answer that no runtime may serve.
        """
        asked_at = self._monotonic()
        headers = {"If-None-Match": self._etag} if self._etag else {}
        answer = self._poll_link.request("GET", SPLITS_PATH, headers=headers)
        if answer.status == 304:
            return
        if answer.status != 200:
            raise Unreachable(SPLITS_PATH, f"answered {answer.status}")
        snapshot = Snapshot.from_json(answer.body)
        self._etag = answer.headers.get("etag", "")
        if self._table.offer(snapshot, asked_at=asked_at):
            self._on_change()
            write_last_known_good(self._path, self._table.snapshot())

    def _close_links(self) -> None:
        self._stream_link.close()
        self._poll_link.close()

    def _poll_on(self) -> None:
        backoff = Backoff(longest_seconds=max(self._poll_seconds, 5.0))
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self.poll()
                self._is_reachable = True
                backoff.succeeded()
                wait = self._poll_seconds
            except (Unreachable, InvalidField, OSError) as error:
                if self._is_reachable:
                    log.warning("splits stay as they are: %s", error)
                self._is_reachable = False
                wait = backoff.failed()
            self._wake.wait(wait)

    def _stream_on(self) -> None:
        backoff = Backoff()
        while not self._stop.is_set():
            try:
                for _ in self._stream_link.stream(STREAM_PATH):
                    self._is_streaming = True
                    backoff.succeeded()
                    self._wake.set()
            except Unreachable as error:
                log.info("no split stream: %s", error)
            self._is_streaming = False
            self._stop.wait(backoff.failed())


def stable_only(split: Split) -> Split:
    """The same generation with all weight on stable."""
    return replace(split, candidate_bp=0) if split.candidate_bp else split


def meanwhile(held: Split, ordered: Split) -> Split:
    """What to serve while an ordered split's versions load: never more of the held candidate than is ordered."""
    allowed_bp = ordered.weights_bp.get(held.candidate, 0) if held.candidate is not None else 0
    return replace(held, candidate_bp=min(held.candidate_bp, allowed_bp))


def read_last_known_good(path: Path) -> Snapshot | None:
    """The snapshot on disk, its leases used up; None if there is none that can be read."""
    try:
        snapshot = Snapshot.from_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, InvalidField) as error:
        log.warning("%s is of no use: %s", path, error)
        return None
    return replace(snapshot, splits={surface: _without_lease(split) for surface, split in snapshot.splits.items()})


def write_last_known_good(path: Path, snapshot: Snapshot) -> None:
    """Replace the file whole, so that a crash leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        file.write(snapshot.to_json())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _without_lease(split: Split) -> Split:
    return split if split.unwatched_seconds_left is None else replace(split, unwatched_seconds_left=0.0)
