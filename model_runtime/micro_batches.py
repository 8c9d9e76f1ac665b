"""Requests that meet on a device: what arrives while a forward runs goes together into the next one.

Nothing ever waits for company: an idle device takes a lone request at once. One forward runs at a time, in the order
of arrival; a request larger than a forward takes turns with the others, a forward each. What waits is bounded in
rows, and each request by its deadline, after which it is not computed any more.
"""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from model_runtime.tickets import HUNG_SECONDS, BatchLimits, Part, Ticket
from model_runtime.unavailable import DeadlineMissed, Overloaded, Unavailable

PACE_WEIGHT = 0.1  # of a slower forward in the seconds per row that are expected; a faster one is believed at once
MAX_PACES = 64  # whose pace is known at once; more are there only after many versions


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchCounts:
    """Since the start. Users are counted by forward: `users_encoded` of the `users_asked` for."""

    forwards: int = 0
    parts: int = 0
    rows: int = 0
    users_asked: int = 0
    users_encoded: int = 0
    deadline_misses: int = 0
    refused: int = 0


class MicroBatches:
    """The queue before one device.

    `run` computes parts of one trunk, one surface and one shape, of one version or of several; it is called by one
    thread at a time. That is the caller's own where it `may_lead`, for as long as its own tickets last: so a lone
    request changes no thread. All else is done by one thread for good, as a GPU wants it, where each thread's libraries
    hold memory of their own.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Part]], None],
        limits: BatchLimits,
        *,
        may_lead: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._run = run
        self._may_lead = may_lead
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._is_busy = False
        self._busy_since = math.inf
        self._is_stopping = False
        self._pace: dict[Hashable, float] = {}  # seconds a row, by what meets in a forward
        self._counts: Counter[str] = Counter()
        self._thread: threading.Thread | None = None

    @property
    def waiting_requests(self) -> int:
        return len(self._waiting)

    @property
    def waiting_rows(self) -> int:
        with self._changed:
            return self._rows_waiting()

    def counts(self) -> BatchCounts:
        with self._changed:
            return BatchCounts(**self._counts)

    def is_hung(self) -> bool:
        """Whether a forward runs for longer than any does."""
        return self._monotonic() - self._busy_since > HUNG_SECONDS

    def run(self, tickets: Sequence[Ticket]) -> None:
        """See tickets through; they are queued together or not at all.

        Raises:
            Overloaded: too much waits already.
            DeadlineMissed: a ticket waited beyond its deadline.
            Unavailable: the runtime is stopping, or the device hangs.
        """
        if self._is_busy:
            for ticket in tickets:
                ticket.digest()
        with self._changed:
            self._admit(tickets)
            leads = self._may_lead and not self._is_busy and bool(self._waiting)
            if leads:
                self._begin()
            else:
                self._wake_the_thread()
        if leads:
            self._lead(tickets)
        for ticket in tickets:
            self._await(ticket)
        for ticket in tickets:
            if ticket.problem is not None:
                raise ticket.problem

    def wait_idle(self, timeout_seconds: float) -> bool:
        """Wait until nothing runs and nothing waits; False if time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_busy and not self._waiting, timeout_seconds)

    def stop(self) -> None:
        """End the forward at hand; what waits is refused."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _admit(self, tickets: Sequence[Ticket]) -> None:
        if self._is_stopping:
            raise Unavailable("this runtime is stopping")
        waiting, more = self._rows_waiting(), sum(ticket.batch.num_rows for ticket in tickets)
        if waiting and waiting + more > self.limits.max_waiting_rows:
            self._count(refused=len(tickets))
            seconds = waiting * max(self._pace.values(), default=0.0)
            raise Overloaded(f"{waiting} rows are waiting; try another replica", retry_after_seconds=_whole(seconds))
        now = self._monotonic()
        for ticket in tickets:
            ticket.asked_at = now
            if ticket.next_piece is not None:
                self._waiting.append(ticket)
            else:
                ticket.finish()

    def _rows_waiting(self) -> int:
        return sum(ticket.rows_left for ticket in self._waiting)

    def _lead(self, tickets: Sequence[Ticket]) -> None:
        try:
            while not all(ticket.is_done for ticket in tickets):
                self._run_next()
        finally:
            with self._changed:
                self._end()
                self._wake_the_thread()

    def _await(self, ticket: Ticket) -> None:
        if ticket.is_done or ticket.wait(ticket.deadline - self._monotonic()):
            return
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                self._miss(ticket)
        if not ticket.is_done and not ticket.wait(HUNG_SECONDS):  # its last forward runs: soon it will be answered
            raise Unavailable("the device does not answer")

    def _wake_the_thread(self) -> None:
        """Call with the lock held."""
        if self._waiting and self._thread is None:
            self._thread = threading.Thread(target=self._work_on, name="forward", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _work_on(self) -> None:
        while self._next():
            self._run_next()
            with self._changed:
                self._end()
                self._changed.notify_all()
        with self._changed:
            for ticket in self._waiting:
                ticket.finish(Unavailable("this runtime is stopping"))
            self._waiting.clear()

    def _next(self) -> bool:
        """Wait for work and take the device; False when stopping."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping or (self._waiting and not self._is_busy))
            if not self._is_stopping:
                self._begin()
            return not self._is_stopping

    def _begin(self) -> None:
        self._is_busy = True
        self._busy_since = self._monotonic()

    def _end(self) -> None:
        self._is_busy = False
        self._busy_since = math.inf

    def _run_next(self) -> None:
        parts, started = self._take(), self._monotonic()
        if not parts:
            return
        problem = None
        try:
            self._run(parts)
        except Exception as error:  # whatever it is, nobody waits for ever
            problem = error
        with self._changed:
            self._busy_since = self._monotonic()
            self._learn(parts, self._busy_since - started)
            for ticket, _ in parts:
                ticket.run_seconds += self._busy_since - started
                if problem is not None or ticket.next_piece is None:
                    ticket.finish(problem)
            if problem is not None:
                self._waiting = deque(ticket for ticket in self._waiting if not ticket.is_done)

    def _take(self) -> list[Part]:
        """The oldest ticket's next piece, and what of others fits beside it; of a ticket no more than one."""
        with self._changed:
            now = self._monotonic()
            for late in [ticket for ticket in self._waiting if ticket.deadline < now]:
                self._waiting.remove(late)
                self._miss(late)
            chosen = self._choose()
            taken = [Part(ticket, ticket.take()) for ticket in chosen]
            again = [ticket for ticket in chosen if ticket.next_piece is not None]
            self._waiting = deque([*(ticket for ticket in self._waiting if ticket not in chosen), *again])
            for ticket in chosen:
                if math.isnan(ticket.first_run_at):
                    ticket.first_run_at = now
            return taken

    def _choose(self) -> list[Ticket]:
        if not self._waiting:
            return []
        first = self._waiting[0]
        rows, users = self._room(first), first.max_users

        def fits(ticket: Ticket) -> bool:
            nonlocal rows, users
            piece = ticket.next_piece
            assert piece is not None
            rows, users = rows - piece.batch.num_rows, users - piece.batch.num_users
            return ticket is first or (rows >= 0 and users >= 0)

        return list(takewhile(fits, [ticket for ticket in self._waiting if ticket.key == first.key]))

    def _room(self, first: Ticket) -> int:
        """Rows that a forward may have to stay within its seconds, as far as the version's pace is known."""
        pace = self._pace.get(first.key, 0.0)
        return min(self.limits.max_rows, int(self.limits.seconds / pace)) if pace else self.limits.max_rows

    def _learn(self, parts: Sequence[Part], seconds: float) -> None:
        rows = sum(piece.batch.num_rows for _, piece in parts)
        key, pace = parts[0].ticket.key, seconds / rows
        if len(self._pace) >= MAX_PACES:
            self._pace.clear()
        known = self._pace.get(key, pace)
        self._pace[key] = min(pace, known + PACE_WEIGHT * (pace - known))
        users = sum(piece.batch.num_users for _, piece in parts)
        self._count(forwards=1, parts=len(parts), rows=rows, users_asked=users)

    def _miss(self, ticket: Ticket) -> None:
        self._count(deadline_misses=1)
        ticket.finish(DeadlineMissed(self._monotonic() - ticket.asked_at))

    def count_encoded(self, users: int) -> None:
        """Users of a forward, each once."""
        with self._changed:
            self._count(users_encoded=users)

    def _count(self, **more: int) -> None:
        self._counts.update(more)


def _whole(seconds: float) -> int:
    return max(1, math.ceil(min(seconds, HUNG_SECONDS)))
