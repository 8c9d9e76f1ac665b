"""Requests that meet on a device: what arrives while a forward runs goes together into the next one.

Nothing ever waits for company: an idle device takes a lone request at once. As many forwards run at a time as the
device has lanes, in the order of arrival; a request larger than a forward takes turns with the others, a forward each.
What waits is bounded in rows, and each request by its deadline, after which it is not computed any more.
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

    `run` computes parts of one trunk, one surface and one shape, of one version or of several; it is called by as many
    threads at a time as there are `lanes`. A thread that waits for its own tickets is one of them where it `may_lead`,
    for as long as they last: so a lone request changes no thread. All else is done by threads for good, as a GPU wants
    it, where each thread's libraries hold memory of their own.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Part]], None],
        limits: BatchLimits,
        *,
        lanes: int = 1,
        may_lead: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._run = run
        self._lanes = lanes
        self._may_lead = may_lead
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._has_work = threading.Condition(self._lock)
        self._is_idle = threading.Condition(self._lock)
        self._waiting: deque[Ticket] = deque()
        self._busy_since: dict[int, float] = {}  # by the thread that is a lane now
        self._is_stopping = False
        self._pace: dict[Hashable, float] = {}  # seconds a row, by what meets in a forward
        self._counts: Counter[str] = Counter()
        self._threads: list[threading.Thread] = []
        self._num_resting = 0  # of these threads

    @property
    def waiting_requests(self) -> int:
        return len(self._waiting)

    @property
    def waiting_rows(self) -> int:
        with self._lock:
            return self._rows_waiting()

    def counts(self) -> BatchCounts:
        with self._lock:
            return BatchCounts(**self._counts)

    def is_hung(self) -> bool:
        """Whether a forward runs for longer than any does."""
        now = self._monotonic()
        return any(now - since > HUNG_SECONDS for since in list(self._busy_since.values()))

    def run(self, tickets: Sequence[Ticket]) -> None:
        """See tickets through; they are queued together or not at all.

        Raises:
            Overloaded: too much waits already.
            DeadlineMissed: a ticket waited beyond its deadline.
            Unavailable: the runtime is stopping, or the device hangs.
        """
        if self._busy_since:
            for ticket in tickets:
                ticket.digest()
        self.submit(tickets, leads=True)
        for ticket in tickets:
            self._await(ticket)
        for ticket in tickets:
            if ticket.problem is not None:
                raise ticket.problem

    def submit(self, tickets: Sequence[Ticket], *, leads: bool = False) -> None:
        """Queue tickets, together or not at all, and wait for none.

        Who `leads` computes them here and now, if it may and a lane is free; another lane may have helped, and not be
        done yet.

        Raises:
            Overloaded: too much waits already.
            Unavailable: the runtime is stopping.
        """
        with self._lock:
            self._admit(tickets)
            leads = leads and self._may_lead and self._has_work_for_one_more()
            if leads:
                self._busy_since[threading.get_ident()] = self._monotonic()
            else:
                self._wake_a_thread()
        if leads:
            self._lead(tickets)

    def when_done(self, ticket: Ticket, call: Callable[[], None]) -> None:
        """Have it called once, in any thread, which it must not hold up; at once where the ticket is done."""
        with self._lock:
            if not ticket.is_done:
                ticket.on_done = call
                return
        call()

    def is_brief(self, tickets: Sequence[Ticket]) -> bool:
        """Whether they are known to take no longer than a forward of several requests may."""
        seconds = sum(ticket.rows_left * self._pace.get(ticket.key, math.inf) for ticket in tickets)
        return seconds <= self.limits.seconds

    def give_up(self, ticket: Ticket) -> None:
        """Call at its deadline: if it still waits it is not computed any more."""
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                self._miss(ticket)

    def wait_idle(self, timeout_seconds: float) -> bool:
        """Wait until nothing runs and nothing waits; False if time ran out first."""
        with self._lock:
            return self._is_idle.wait_for(lambda: not self._busy_since and not self._waiting, timeout_seconds)

    def stop(self) -> None:
        """End the forwards at hand; what waits is refused."""
        with self._lock:
            self._is_stopping = True
            self._has_work.notify_all()
            for ticket in self._waiting:
                ticket.finish(Unavailable("this runtime is stopping"))
            self._waiting.clear()
        for thread in self._threads:
            thread.join()

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
            while any(ticket.next_piece is not None for ticket in tickets):  # else other lanes have them, or had
                self._run_next()
        finally:
            with self._lock:
                self._end()

    def _await(self, ticket: Ticket) -> None:
        if ticket.is_done or ticket.wait(ticket.deadline - self._monotonic()):
            return
        self.give_up(ticket)
        if not ticket.is_done and not ticket.wait(HUNG_SECONDS):  # its last forward runs: soon it will be answered
            raise Unavailable("the device does not answer")

    def _wake_a_thread(self) -> None:
        """Call with the lock held."""
        if not self._has_work_for_one_more():
            return  # whoever is busy looks again when done
        if self._num_resting:
            self._has_work.notify()
        elif len(self._threads) < self._lanes:
            self._threads.append(threading.Thread(target=self._work_on, name="forward", daemon=True))
            self._threads[-1].start()

    def _has_work_for_one_more(self) -> bool:
        """Whether a further lane is worth it: little work costs half as much beside what arrives meanwhile."""
        if not self._busy_since:
            return bool(self._waiting)
        return len(self._busy_since) < self._lanes and self._rows_waiting() >= self.limits.rows_for_another_lane

    def _work_on(self) -> None:
        while self._next():
            self._run_next(is_last=True)

    def _next(self) -> bool:
        """Wait for work and become a lane; False when stopping."""
        with self._lock:
            self._num_resting += 1
            self._has_work.wait_for(lambda: self._is_stopping or self._has_work_for_one_more())
            self._num_resting -= 1
            if not self._is_stopping:
                self._busy_since[threading.get_ident()] = self._monotonic()
            return not self._is_stopping

    def _end(self) -> None:
        """Be a lane no longer; call with the lock held."""
        del self._busy_since[threading.get_ident()]
        self._wake_a_thread()
        if not self._busy_since and not self._waiting:
            self._is_idle.notify_all()

    def _run_next(self, *, is_last: bool = False) -> None:
        """Run a forward, if there is work; after the last one this thread is a lane no longer."""
        parts, started = self._take(), self._monotonic()
        problem = None
        try:
            if parts:
                self._run(parts)
        except Exception as error:  # whatever it is, nobody waits for ever
            problem = error
        with self._lock:
            now = self._busy_since[threading.get_ident()] = self._monotonic()
            if parts:
                self._learn(parts, now - started)
            for ticket, _ in parts:
                ticket.num_running -= 1
                ticket.run_seconds += now - started
                if problem is not None or (ticket.next_piece is None and not ticket.num_running):
                    ticket.finish(problem)
            if problem is not None:
                self._waiting = deque(ticket for ticket in self._waiting if not ticket.is_done)
            if is_last:  # at once: who is told now may ask again before this thread's next turn
                self._end()

    def _take(self) -> list[Part]:
        """The oldest ticket's next piece, and what of others fits beside it; of a ticket no more than one."""
        with self._lock:
            now = self._monotonic()
            for late in [ticket for ticket in self._waiting if ticket.deadline < now]:
                self._waiting.remove(late)
                self._miss(late)
            chosen = self._choose()
            taken = [Part(ticket, ticket.take()) for ticket in chosen]
            again = [ticket for ticket in chosen if ticket.next_piece is not None]
            self._waiting = deque([*(ticket for ticket in self._waiting if ticket not in chosen), *again])
            for ticket in chosen:
                ticket.num_running += 1
                if math.isnan(ticket.first_run_at):
                    ticket.first_run_at = now
            self._wake_a_thread()
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
        with self._lock:
            self._count(users_encoded=users)

    def _count(self, **more: int) -> None:
        self._counts.update(more)


def _whole(seconds: float) -> int:
    return max(1, math.ceil(min(seconds, HUNG_SECONDS)))
