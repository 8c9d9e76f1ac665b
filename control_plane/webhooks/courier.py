"""Sends what the outbox holds, on a thread and a connection of its own: no decision ever waits for a receiver."""

import asyncio
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta

import httpx

from control_plane.registry.notifications import Listener
from control_plane.registry.session import Sessions, make_engine
from control_plane.settings import Settings
from control_plane.webhooks.backoff import Backoff
from control_plane.webhooks.desk import Desk
from control_plane.webhooks.route import Route, Rules
from control_plane.webhooks.sending import Ending, make_client
from control_plane.webhooks.subscribers import Subscriber

logger = logging.getLogger(__name__)

GRACE_SECONDS = 2.0  # for requests under way when the process is asked to stop
JOIN_SECONDS = 10.0  # longer than the grace, and short enough for whoever stops the process


class Courier:
    """One thread for all subscribers; each has a lease of its own, which another process may hold."""

    def __init__(
        self,
        sessions: Sessions,
        subscribers: Sequence[Subscriber],
        rules: Rules,
        *,
        on_attempt: Callable[[str, Ending], None] = lambda subscriber, ending: None,
    ) -> None:
        self.holder = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._sessions = sessions
        self._subscribers = tuple(subscribers)
        self._rules = rules
        self._on_attempt = on_attempt
        self._listener = Listener(sessions, self._wake_routes)
        self._routes: list[Route] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._is_running = threading.Event()
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def start(self) -> None:
        """Without subscribers there is nothing to do, and nothing is started."""
        if self._subscribers:
            self._thread.start()
            self._is_running.wait()
            if self._loop is not None:
                self._listener.start()

    def stop(self) -> None:
        if self._loop is not None and self._thread.is_alive():
            with suppress(RuntimeError):  # it ended by itself in this very moment
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._listener.stop()
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)
        self._sessions.engine.dispose()

    def _run(self) -> None:
        try:
            asyncio.run(self._send_all())
        except Exception:
            logger.exception("the courier ended; webhooks wait for the next start")
        finally:
            self._is_running.set()  # or never will be: whoever starts it must not wait for ever

    def _wake_routes(self) -> None:
        """From the listener's thread."""
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop has ended meanwhile
            for route in self._routes:
                self._loop.call_soon_threadsafe(route.wake)

    async def _send_all(self) -> None:
        desk = Desk(self._sessions)
        async with make_client() as client:
            self._routes = [self._route(subscriber, desk, client) for subscriber in self._subscribers]
            tasks = [asyncio.create_task(route.run()) for route in self._routes]
            self._loop = asyncio.get_running_loop()
            self._is_running.set()
            await self._stopping.wait()
            for route in self._routes:
                route.ask_to_stop()
            await asyncio.gather(*tasks)
            await asyncio.gather(*(route.end(GRACE_SECONDS) for route in self._routes))
        desk.close()

    def _route(self, subscriber: Subscriber, desk: Desk, client: httpx.AsyncClient) -> Route:
        return Route(
            subscriber,
            desk,
            client,
            self._rules,
            holder=self.holder,
            on_attempt=self._on_attempt,
            is_told=lambda: self._listener.is_listening,
        )


def make_courier(
    settings: Settings,
    sessions: Sessions,
    on_attempt: Callable[[str, Ending], None] = lambda subscriber, ending: None,
) -> Courier:
    """With an engine of its own: the API's connections are not its to use up.

    But on SQLite, where a process's writers queue in its `Sessions`, it queues with them.
    """
    if sessions.engine.dialect.name != "sqlite":
        sessions = Sessions(make_engine(settings.registry_url))
    return Courier(sessions, settings.webhooks, rules_of(settings), on_attempt=on_attempt)


def rules_of(settings: Settings) -> Rules:
    return Rules(
        lease_seconds=settings.lease_seconds,
        timeout_seconds=settings.webhook_timeout_seconds,
        retention=timedelta(days=settings.webhook_retention_days),
        backoff=Backoff(max_attempts=settings.webhook_max_attempts),
        public_url=settings.shown_url,
    )
