"""Keeps the lease while a tick is at work, however long that takes, and only while it gets on."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from control_plane.domain.errors import RegistryUnavailable
from control_plane.registry import leases
from control_plane.registry.session import Sessions

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 5  # so that a few that fail, or come late, do not lose it
STALLED_SECONDS = 60.0  # the longest that one rollout's check may take; a tick that hangs loses its lease


class LeaseKeeper:
    """A thread that renews one lease during `keeping`.

    It never takes a lease, and fences nothing: each write of the tick still checks the epoch in its own transaction.
    """

    def __init__(
        self,
        sessions: Sessions,
        name: str,
        holder: str,
        *,
        lease_seconds: float,
        stalled_seconds: float = STALLED_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._name = name
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._stalled_seconds = stalled_seconds
        self._monotonic = monotonic
        self._got_on_at = monotonic()

    @contextmanager
    def keeping(self, epoch: int) -> Iterator[None]:
        ended = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(ended, epoch), name="lease-keeper", daemon=True)
        self.get_on()
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def get_on(self) -> None:
        """The tick has finished a piece of its work."""
        self._got_on_at = self._monotonic()

    def _renew_until(self, ended: threading.Event, epoch: int) -> None:
        while not ended.wait(self._lease_seconds / RENEWALS_PER_LEASE):
            if self._monotonic() - self._got_on_at > self._stalled_seconds:
                logger.error("the tick hangs for more than %g s; letting the lease run out", self._stalled_seconds)
                return
            try:
                with self._sessions.writing() as session:
                    is_ours = leases.renew(session, self._name, self._holder, epoch, self._lease_seconds)
            except RegistryUnavailable as error:
                logger.warning("the lease could not be renewed: %s", error)
            else:
                if not is_ours:
                    return  # the tick's next write is told
