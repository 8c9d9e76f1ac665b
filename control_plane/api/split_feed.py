"""What serves now, as runtimes read it: one snapshot for pollers, and a feed that wakes streams when it changed.

Each process polls the registry for itself, so a change written by any replica, scheduler or person reaches
every stream within a poll, whatever database lies below. Where the database notifies, a change is read at once, and
polls are only for notifications that were lost and for leases that were renewed.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial

import anyio
from anyio import to_thread
from sqlalchemy.orm import Session

from control_plane.api.surface_schemas import SplitsOut
from control_plane.clock import Clock
from control_plane.domain.errors import RegistryUnavailable
from control_plane.domain.model_version import VersionId
from control_plane.domain.split import Split
from control_plane.registry import model_versions, surfaces
from control_plane.registry.notifications import Listener
from control_plane.registry.session import Sessions
from control_plane.registry.surfaces import SurfaceState

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # a bad candidate must be off every surface within a second, network and all
POLL_BENEATH_SECONDS = 0.5  # the same, where notifications come and one was lost
EVENT = "splits"
RETRY_MS = 500  # a client that lost its stream comes back after this long
PING_SECONDS = 15.0  # silence after which a stream says that it is there
PING = b": ping\n\n"
PAUSE_SECONDS = 0.01  # between two reads, however fast changes come
BACKOFF_SECONDS = 1.0  # while the registry does not answer


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """`etag` changes with a generation, a renewed lease or a moved artifact, and not because seconds tick."""

    etag: str
    splits: tuple[Split, ...]
    artifact_uris: dict[VersionId, str]

    @cached_property
    def body(self) -> str:
        """JSON, rendered once for all who read it."""
        return SplitsOut.of(self.splits, self.artifact_uris).model_dump_json()

    @cached_property
    def event(self) -> bytes:
        """The same as a server-sent event, whose id is the etag."""
        return f"event: {EVENT}\ndata: {self.body}\nid: {self.etag}\nretry: {RETRY_MS}\n\n".encode()


def etag_of(states: list[SurfaceState], artifact_uris: Mapping[VersionId, str]) -> str:
    marks = sorted((state.surface, state.generation, str(state.lease_renewed_at)) for state in states)
    return hashlib.sha256(repr((marks, sorted(artifact_uris.items()))).encode()).hexdigest()[:16]


def read_snapshot(session: Session, clock: Clock, *, unless: str | None = None) -> Snapshot | None:
    """The present splits, or None if the etag is still `unless`. Read in this order, a change between the two
    reads is seen again at the next one, never missed."""
    states = surfaces.list_surfaces(session)
    named = {version for state in states for version in (state.stable, state.candidate, state.shadow)}
    uris = model_versions.artifact_uris(session, [version for version in named if version is not None])
    etag = etag_of(states, uris)
    if etag == unless:
        return None
    splits = tuple(surfaces.splits(session, now=clock()).values())
    return Snapshot(etag=etag, splits=splits, artifact_uris=uris)


class SplitFeed:
    """Snapshots in the order they were read; polls only while someone listens."""

    def __init__(self, sessions: Sessions, clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock
        self._latest: Snapshot | None = None
        self._changed = asyncio.Event()  # replaced at each change
        self._wanted = asyncio.Event()
        self._notified = asyncio.Event()
        self._lock = asyncio.Lock()
        self._next_read: asyncio.Task[Snapshot] | None = None  # one that has not begun
        self._thread = anyio.CapacityLimiter(1)  # its own: writers that wait for the registry take the common ones
        self.listeners = 0

    @asynccontextmanager
    async def polling(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._notified.set)

        listener = Listener(self._sessions, wake)
        listener.start()
        task = asyncio.create_task(self._poll(listener))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await to_thread.run_sync(listener.stop)

    async def current(self) -> Snapshot:
        """What is found by a read that begins after this call, so that its seconds count from the question.

        All who ask before that read begins share it: a thousand runtimes that ask at once cost the registry two.
        """
        if self._next_read is None:
            self._next_read = asyncio.create_task(self._read(unless=None))
        return await asyncio.shield(self._next_read)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events: the present snapshot, then each later one, and a comment where there is none for long.

        Those that came while the reader was busy are skipped.
        """
        with self._listening():
            seen = await self._first()
            yield seen.event
            while True:
                try:
                    async with asyncio.timeout(PING_SECONDS):
                        seen = await self._after(seen)
                    yield seen.event
                except TimeoutError:
                    yield PING

    async def _first(self) -> Snapshot:
        """Waits for a registry that is away: a stream that broke off would come back at once, over and over."""
        while True:
            try:
                return await self.current()
            except RegistryUnavailable as error:
                log.warning("a stream waits: %s", error)
                await asyncio.sleep(BACKOFF_SECONDS)

    async def _after(self, seen: Snapshot) -> Snapshot:
        while self._latest is None or self._latest.etag == seen.etag:
            await self._changed.wait()
        return self._latest

    @contextmanager
    def _listening(self) -> Iterator[None]:
        self.listeners += 1
        self._wanted.set()
        try:
            yield
        finally:
            self.listeners -= 1
            if self.listeners == 0:
                self._wanted.clear()

    async def _poll(self, listener: Listener) -> None:
        while True:
            await self._wanted.wait()
            self._notified.clear()  # what is notified from here on is read after this
            try:
                await self._read(unless=None if self._latest is None else self._latest.etag)
                await self._until_next_poll(POLL_BENEATH_SECONDS if listener.is_listening else POLL_SECONDS)
            except RegistryUnavailable as error:
                log.warning("the splits cannot be read; runtimes keep what they have: %s", error)
                await asyncio.sleep(BACKOFF_SECONDS)
            except Exception:  # whatever else it is, streams outlive it: leases count down meanwhile
                log.exception("the splits cannot be read; runtimes keep what they have")
                await asyncio.sleep(BACKOFF_SECONDS)

    async def _until_next_poll(self, seconds: float) -> None:
        await asyncio.sleep(PAUSE_SECONDS)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._notified.wait(), seconds - PAUSE_SECONDS)

    async def _read(self, *, unless: str | None) -> Snapshot:
        async with self._lock:
            if unless is None:
                self._next_read = None
            snapshot = await to_thread.run_sync(partial(self._load, unless), limiter=self._thread)
            if snapshot is not None:
                is_news = self._latest is None or self._latest.etag != snapshot.etag
                self._latest = snapshot
                if is_news:
                    self._changed.set()
                    self._changed = asyncio.Event()
            assert self._latest is not None
            return self._latest

    def _load(self, unless: str | None) -> Snapshot | None:
        with self._sessions.reading() as session:
            return read_snapshot(session, self._clock, unless=unless)
