"""Beats for the scheduler: APScheduler calls one job; due times and the lease live in our own tables."""

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler

from control_plane.clock import Clock
from control_plane.domain.errors import Deposed, LogUnavailable, RegistryUnavailable
from control_plane.evidence.event_log import EventLog
from control_plane.providers.sources import Source, make_sources
from control_plane.registry import leases
from control_plane.registry.session import Sessions
from control_plane.scheduler.external import NO_SOURCES
from control_plane.scheduler.housekeeping import EVERY_SECONDS, Housekeeper
from control_plane.scheduler.lease_keeper import LeaseKeeper
from control_plane.scheduler.tick import TickReport, tick
from control_plane.settings import Settings

logger = logging.getLogger(__name__)
logging.getLogger("apscheduler").setLevel(logging.ERROR)  # it warns of every late beat, and a late one is no news

LEASE = "scheduler"


class Metronome:
    """Ticks while it holds the lease. `last_tick_at` is event time, None before the first whole tick."""

    def __init__(
        self,
        sessions: Sessions,
        log: EventLog,
        clock: Clock,
        *,
        tick_seconds: float,
        lease_seconds: float,
        runtime_silent_seconds: float,
        sources: Mapping[str, Source] = NO_SOURCES,
        keep_days: float = 0.0,
        on_tick: Callable[[TickReport], None] = lambda report: None,
    ) -> None:
        self.holder = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self.epoch: int | None = None
        self.last_tick_at: datetime | None = None
        self._sessions = sessions
        self._log = log
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._silent = timedelta(seconds=runtime_silent_seconds)
        self._sources = sources
        self._on_tick = on_tick
        self._tick_lock = threading.Lock()
        self._keeper = LeaseKeeper(sessions, LEASE, self.holder, lease_seconds=lease_seconds)
        # A memory store: a shared APScheduler store runs jobs once per process. A late beat still counts.
        self._scheduler = BackgroundScheduler(timezone=UTC)
        self._scheduler.add_job(
            self.beat, "interval", seconds=tick_seconds, max_instances=1, coalesce=True, misfire_grace_time=None
        )
        housekeeper = Housekeeper(sessions, clock, keep_days=keep_days)
        self._scheduler.add_job(
            lambda: housekeeper.sweep(self.epoch), "interval", seconds=EVERY_SECONDS, max_instances=1, coalesce=True
        )

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """Wait for a running tick, then give the lease up so that another replica need not wait for it."""
        self._scheduler.shutdown(wait=True)
        if self.epoch is not None:
            try:
                with self._sessions.writing() as session:
                    leases.release(session, LEASE, self.holder)
            except RegistryUnavailable as error:
                logger.warning("the lease ends by itself in %g s: %s", self._lease_seconds, error)

    def beat(self) -> TickReport | None:
        """One tick, if this process holds the lease; None otherwise. Never raises: the next beat tries again."""
        with self._tick_lock:
            try:
                return self._beat()
            except Deposed as error:
                logger.warning("%s", error)
                self.epoch = None
            except (RegistryUnavailable, LogUnavailable) as error:
                logger.warning("no tick: %s", error)
            except Exception:
                logger.exception("the tick failed; trying again")
        return None

    def _beat(self) -> TickReport | None:
        with self._sessions.writing() as session:
            self.epoch = leases.acquire(session, LEASE, self.holder, self._lease_seconds)
        if self.epoch is None:
            return None
        now = self._clock()
        live_since = datetime.now(UTC) - self._silent
        with self._keeper.keeping(self.epoch):
            report = tick(
                self._sessions,
                self._log,
                now=now,
                live_since=live_since,
                epoch=self.epoch,
                sources=self._sources,
                on_progress=self._keeper.get_on,
            )
        with self._sessions.writing() as session:
            leases.note_tick(session, LEASE, self.epoch, now)
        self.last_tick_at = now
        self._on_tick(report)
        return report


def make_metronome(
    settings: Settings, sessions: Sessions, clock: Clock, on_tick: Callable[[TickReport], None] = lambda report: None
) -> Metronome:
    return Metronome(
        sessions,
        EventLog(settings.log_dir),
        clock,
        tick_seconds=settings.tick_seconds,
        lease_seconds=settings.lease_seconds,
        runtime_silent_seconds=settings.runtime_silent_seconds,
        sources=make_sources(settings.metric_sources),
        keep_days=settings.retention_days,
        on_tick=on_tick,
    )
