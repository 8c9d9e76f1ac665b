"""One subscriber's deliveries: under a lease of its own, so that of many processes one sends.

Each turn renews the lease, makes rows for new events, and sets out with what is due. Several events are under way at
once, but one of each ordering key: the next one of a key waits until the one before was delivered or given up.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import httpx
from sqlalchemy.orm import Session

from control_plane import failpoints
from control_plane.clock import Clock, system_clock
from control_plane.domain.errors import Deposed, RegistryUnavailable
from control_plane.registry import deliveries, leases, outbox
from control_plane.registry.deliveries import PRUNED_AT_ONCE, Due
from control_plane.registry.outbox import Entry
from control_plane.webhooks.backoff import Backoff
from control_plane.webhooks.desk import Desk
from control_plane.webhooks.position import Position
from control_plane.webhooks.sending import Ending, Outcome, send
from control_plane.webhooks.subscribers import Subscriber

logger = logging.getLogger(__name__)

UNDER_WAY = 8  # requests to one subscriber at a time
BATCH = 500  # outbox entries read in one turn
POLL_SECONDS = 0.5  # an idle subscriber hears of a change after this long at most
LISTENING_SECONDS = 5.0  # the same where the database tells of changes: for a word that was lost
RETRY_SECONDS = 1.0  # after which an outcome that the registry did not take is brought to it again


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How a deployment's events are sent; times in seconds."""

    lease_seconds: float = 15.0
    timeout_seconds: float = 10.0
    poll_seconds: float = POLL_SECONDS
    listening_seconds: float = LISTENING_SECONDS
    prune_seconds: float = 600.0
    retention: timedelta = timedelta(days=14)  # of what was delivered; of what was given up, ten times as long
    backoff: Backoff = field(default_factory=Backoff)
    public_url: str = ""
    clock: Clock = system_clock  # never a replay's: receivers compare the time of an attempt with theirs


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What a process knows while it has the lease."""

    epoch: int
    renewed_at: float  # on the monotonic clock, read before the lease was asked for


class Route:
    def __init__(
        self,
        subscriber: Subscriber,
        desk: Desk,
        client: httpx.AsyncClient,
        rules: Rules,
        *,
        holder: str,
        on_attempt: Callable[[str, Ending], None],
        is_told: Callable[[], bool],
    ) -> None:
        """`is_told`: whether somebody calls `wake` at each change."""
        self._subscriber = subscriber
        self._name = subscriber.name
        self._lease = deliveries.lease_of(subscriber.name)
        self._desk = desk
        self._client = client
        self._rules = rules
        self._holder = holder
        self._on_attempt = on_attempt
        self._is_told = is_told
        self._has_open = False
        self._turn: Turn | None = None
        self._asked_at = -rules.lease_seconds
        self._position = Position(read_to=0)
        self._pruned_at = time.monotonic()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._is_stopping = False

    async def run(self) -> None:
        """Until `ask_to_stop`. Never raises: the next turn tries again."""
        while not self._is_stopping:
            seconds = self._rules.poll_seconds
            try:
                is_more_to_do = await self._take_turn()
                seconds = 0.0 if is_more_to_do else self._rest_seconds()
            except Deposed as error:
                logger.warning("%s: %s", self._lease, error)
                self._turn = None
            except RegistryUnavailable as error:
                logger.warning("webhooks of %s wait: %s", self._name, error)
            except Exception:
                logger.exception("webhooks of %s: the turn failed; trying again", self._name)
            if seconds:
                await self._rest(seconds)

    def wake(self) -> None:
        """There may be news."""
        self._wake.set()

    def ask_to_stop(self) -> None:
        self._is_stopping = True
        self._wake.set()

    async def end(self, grace_seconds: float) -> None:
        """After `run`: wait a moment for what is under way, then let another process have the lease.

        What is cut short goes out once more, with the same id.
        """
        tasks = list(self._under_way.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._turn is not None:
            try:
                await self._desk.write(lambda session: leases.release(session, self._lease, self._holder))
            except RegistryUnavailable as error:
                logger.warning("the lease %s ends by itself: %s", self._lease, error)

    async def _take_turn(self) -> bool:
        """Whether another turn should follow at once."""
        await self._keep_lease()
        if self._turn is None:
            return False
        is_more = await self._fan_out()
        await self._set_out()
        return await self._prune() or is_more

    def _rest_seconds(self) -> float:
        """Long where nothing waits for its time: neither an attempt, nor a commit that may come late."""
        if not self._is_told() or self._has_open or self._position.holes:
            return self._rules.poll_seconds
        return min(self._rules.listening_seconds, self._rules.lease_seconds / 3)

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _keep_lease(self) -> None:
        """Ask for the lease three times in its length, whether this process has it or not."""
        asked_at = time.monotonic()
        if asked_at < self._asked_at + self._rules.lease_seconds / 3:
            return
        epoch, position = await self._desk.write(self._acquire)
        self._asked_at, self._position = asked_at, position
        self._turn = None if epoch is None else Turn(epoch=epoch, renewed_at=asked_at)

    def _acquire(self, session: Session) -> tuple[int | None, Position]:
        epoch = leases.acquire(session, self._lease, self._holder, self._rules.lease_seconds)
        if epoch is None:
            return None, self._position
        leases.note_tick(session, self._lease, epoch, self._rules.clock())
        if self._turn is not None and self._turn.epoch == epoch:
            deliveries.fan_out(session, self._name, [], fanned_out_to=self._position.settled)
            return epoch, self._position
        return epoch, Position(read_to=deliveries.register(session, self._name))

    async def _fan_out(self) -> bool:
        """The position is kept at the next renewal where no row was made: most events may be for others."""
        entries, position = await self._desk.read(self._look)
        wanted = [entry for entry in entries if self._subscriber.wants(entry.kind)]
        if wanted:
            await self._desk.write(lambda session: self._write_rows(session, wanted, position))
        is_more = position.read_to - self._position.read_to >= BATCH
        self._position = position
        return is_more

    def _look(self, session: Session) -> tuple[list[Entry], Position]:
        running = outbox.running(session)
        following = outbox.read(session, after=self._position.read_to, limit=BATCH)
        return self._position.look(lambda first, last: outbox.read_between(session, first, last), following, running)

    def _write_rows(self, session: Session, entries: list[Entry], position: Position) -> None:
        self._check(session)
        deliveries.fan_out(session, self._name, entries, fanned_out_to=position.settled)
        failpoints.reach("webhook.fanned_out")

    async def _set_out(self) -> None:
        free = UNDER_WAY - len(self._under_way)
        if free <= 0 or self._is_stopping or not self._has_lease():
            return
        keys = list(self._under_way)
        found, self._has_open = await self._desk.read(lambda session: self._due(session, free, keys))
        for due in found:
            self._under_way[due.entry.ordering_key] = asyncio.create_task(self._deliver(due))

    def _due(self, session: Session, limit: int, without_keys: list[str]) -> tuple[list[Due], bool]:
        now = self._rules.clock()
        found = deliveries.due(session, self._name, now=now, limit=limit, without_keys=without_keys)
        return found, bool(found) or deliveries.has_open(session, self._name)

    async def _deliver(self, due: Due) -> None:
        try:
            outcome = await send(
                self._client,
                self._subscriber,
                due.entry.event,
                now=self._rules.clock(),
                seconds=self._rules.timeout_seconds,
                public_url=self._rules.public_url,
            )
            failpoints.reach("webhook.sent")
            self._on_attempt(self._name, outcome.ending)
            await self._bring_home(due, outcome)
            failpoints.reach("webhook.recorded")
        except Deposed as error:
            logger.warning("%s: %s", self._lease, error)
        except Exception:
            logger.exception("webhooks of %s: an outcome was not recorded; the event goes out again", self._name)
        finally:
            del self._under_way[due.entry.ordering_key]
            self._wake.set()

    async def _bring_home(self, due: Due, outcome: Outcome) -> None:
        """Until the registry takes it: an event whose delivery could not be written must not go out each second."""
        next_attempt_at = self._next_attempt(due, outcome)
        while True:
            try:
                await self._desk.write(lambda session: self._record(session, due, outcome, next_attempt_at))
                return
            except RegistryUnavailable as error:
                logger.warning("webhooks of %s: an outcome waits: %s", self._name, error)
                await asyncio.sleep(RETRY_SECONDS)

    def _next_attempt(self, due: Due, outcome: Outcome) -> datetime | None:
        if outcome.ending in (Ending.DELIVERED, Ending.GONE):
            return None
        wait = self._rules.backoff.wait_seconds(
            due.attempts + 1, at_random=random.random(), retry_after_seconds=outcome.retry_after_seconds
        )
        return None if wait is None else self._rules.clock() + timedelta(seconds=wait)

    def _record(self, session: Session, due: Due, outcome: Outcome, next_attempt_at: datetime | None) -> None:
        self._check(session)
        outbox_id, now = due.entry.outbox_id, self._rules.clock()
        if outcome.ending is Ending.DELIVERED:
            deliveries.note_delivered(session, self._name, outbox_id, now=now)
            return
        if next_attempt_at is None:
            logger.warning("webhook %s gives up event %s: %s", self._name, outbox_id, outcome.detail)
        deliveries.note_failed(
            session, self._name, outbox_id, error=outcome.detail, next_attempt_at=next_attempt_at, now=now
        )

    async def _prune(self) -> bool:
        """Whether there is more to prune."""
        if time.monotonic() < self._pruned_at + self._rules.prune_seconds:
            return False
        if await self._desk.write(self._forget) >= PRUNED_AT_ONCE:
            return True
        self._pruned_at = time.monotonic()
        return False

    def _forget(self, session: Session) -> int:
        self._check(session)
        now, kept = self._rules.clock(), self._rules.retention
        pruned = deliveries.prune(session, self._name, delivered_before=now - kept, dead_before=now - 10 * kept)
        for name in deliveries.forget_silent(session, since=now - 10 * kept, but=self._name):
            logger.warning("webhook subscriber %s is in nobody's settings any more and is forgotten", name)
        return max(pruned, deliveries.prune_outbox(session, before=now - kept))

    def _check(self, session: Session) -> None:
        leases.check(session, self._lease, 0 if self._turn is None else self._turn.epoch)

    def _has_lease(self) -> bool:
        """By this process's own clock: one that was stopped for long asks again before it sends anything."""
        return self._turn is not None and time.monotonic() < self._turn.renewed_at + self._rules.lease_seconds
