"""The splits from the control plane: polled, hurried along by a stream, and on disk for a cold start.

A snapshot read from disk has no seconds left: what went on while this runtime was away, nobody watched here.
"""

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from control_plane import failpoints
from control_plane.domain.errors import InvalidField
from control_plane.domain.split import Split
from model_runtime.control_link import Backoff, ControlLink, Unreachable
from model_runtime.split_table import Snapshot, SplitTable

SPLITS_PATH = "/v1/splits"
STREAM_PATH = "/v1/splits/stream"
SPREAD_SECONDS = 0.3  # after a push: over this long a fleet asks for its leases, not all in one moment
STREAM_SILENCE_SECONDS = 60.0  # after this the stream is opened anew: a dead peer says nothing either

log = logging.getLogger(__name__)


class SplitClient:
    """Keeps a `SplitTable` fresh from the control plane: a poll, hurried along by the event stream.

    What the stream brings takes effect at once where it is newer; leases count from a question that this runtime
    asked, never from a line that lay in a buffer, and a poll soon after renews them.
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
        self._answered_asked_at: float | None = None  # when the latest question was asked that was answered
        self._is_stored = True
        self._store_problem = ""
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
        """Ask once, and keep on disk what is new; a full disk is told, and tried again at each poll.

        Raises:
            Unreachable: no answer.
            InvalidSplit: an answer that no runtime may serve.
        """
        self._ask()
        if not self._is_stored:
            self._store()

    def _ask(self) -> None:
        asked_at = self._monotonic()
        headers = {"If-None-Match": self._etag} if self._etag else {}
        answer = self._poll_link.request("GET", SPLITS_PATH, headers=headers)
        if answer.status == 304:
            self._answered_asked_at = asked_at
            return
        if answer.status != 200:
            raise Unreachable(SPLITS_PATH, f"answered {answer.status}")
        snapshot = Snapshot.from_json(answer.body)
        self._etag = answer.headers.get("etag", "")
        is_newer = self._table.offer(snapshot, asked_at=asked_at)
        self._answered_asked_at = asked_at  # only now: a push that comes meanwhile counts from the question before
        if is_newer:
            self._is_stored = False
            self._on_change()

    def _store(self) -> None:
        try:
            write_last_known_good(self._path, self._table.snapshot())
        except OSError as error:
            if self._store_problem != str(error):
                log.warning("%s cannot be written, so a restart would serve older splits: %s", self._path, error)
            self._store_problem = str(error)
            return
        self._is_stored = True
        self._store_problem = ""

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
            except Exception as error:  # whatever was answered, leases are renewed only by asking again
                if self._is_reachable:
                    log.warning("splits stay as they are: %s", error)
                self._is_reachable = False
                wait = backoff.failed()
            self._wake.wait(wait)

    def _stream_on(self) -> None:
        backoff = Backoff()
        while not self._stop.is_set():
            try:
                for event in self._stream_link.stream(STREAM_PATH):
                    self._is_streaming = True
                    backoff.succeeded()
                    if self._take(event.data):
                        self._stop.wait(random.uniform(0, SPREAD_SECONDS))
                    self._wake.set()
            except Unreachable as error:
                if not self._stop.is_set():
                    log.info("no split stream: %s", error)
            self._is_streaming = False
            self._stop.wait(backoff.failed())

    def _take(self, pushed: str) -> bool:
        """Serve by what was pushed; False where that has to wait for a poll."""
        asked_at = self._answered_asked_at
        if asked_at is None:
            return False
        try:
            snapshot = Snapshot.from_json(pushed)
        except InvalidField as error:
            log.warning("a push is of no use: %s", error)
            return False
        if self._table.offer_pushed(snapshot, asked_at=asked_at):
            self._is_stored = False
            self._on_change()
        return True


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
    try:
        with temporary.open("w") as file:
            file.write(snapshot.to_json())
            file.flush()
            os.fsync(file.fileno())
        failpoints.reach("last_known_good.staged")
        temporary.replace(path)
        failpoints.reach("last_known_good.written")
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _without_lease(split: Split) -> Split:
    return replace(split, unwatched_seconds_left=0.0) if split.candidate_bp else split
