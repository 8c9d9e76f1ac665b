"""Scoring as steps that wait for nothing themselves: whoever takes them waits in a thread, or in an event loop.

Each step is the tickets that must be done before the next; so what is answered, and how failures are met, is written
once for both.
"""

import asyncio
import time
from collections import deque
from collections.abc import Generator, Hashable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from model_runtime.micro_batches import MicroBatches
from model_runtime.tickets import HUNG_SECONDS, Ticket
from model_runtime.unavailable import Unavailable

LONE_REQUESTS = 8  # of one caller, and of no other: the next is likely to meet nobody

T = TypeVar("T")
Steps = Generator[Sequence[Ticket], None, T]


def take(steps: Steps[T], batches: MicroBatches) -> T:
    """Take all steps in this thread, which waits; raises what they raise."""
    try:
        tickets = next(steps)
        while True:
            try:
                batches.run(tickets)
            except Exception as problem:  # theirs to meet
                tickets = steps.throw(problem)
            else:
                tickets = next(steps)
    except StopIteration as end:
        value: T = end.value
        return value


class LoopSteps:
    """Takes steps in an event loop, in which many requests wait without a thread each.

    What a forward finishes is told to the loop with one wake-up for all of its requests. Where one caller comes
    alone, a brief forward runs in the loop itself: it holds up nobody, and a busy machine would make the request wait
    for each change of thread.
    """

    def __init__(self, batches: MicroBatches) -> None:
        """Call in the loop."""
        self._batches = batches
        self._loop = asyncio.get_running_loop()
        self._finished: deque[asyncio.Future[None]] = deque()
        self._is_told = False
        self._last_caller: Hashable = None
        self._num_in_a_row = 0  # of the last caller's

    async def take(self, steps: Steps[T], *, caller: Hashable) -> T:
        """Take all steps; raises what they raise. `caller` is what sends one request after the other, a connection."""
        self._num_in_a_row = self._num_in_a_row + 1 if caller == self._last_caller else 0
        self._last_caller = caller
        try:
            tickets = next(steps)
            while True:
                try:
                    await self._see_through(tickets)
                except Exception as problem:  # theirs to meet
                    tickets = steps.throw(problem)
                else:
                    tickets = next(steps)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _see_through(self, tickets: Sequence[Ticket]) -> None:
        """As `MicroBatches.run`."""
        self._batches.submit(tickets, leads=self._num_in_a_row >= LONE_REQUESTS and self._batches.is_brief(tickets))
        for ticket in tickets:
            if not ticket.is_done:
                await self._done_of(ticket)
        for ticket in tickets:
            if ticket.problem is not None:
                raise ticket.problem

    async def _done_of(self, ticket: Ticket) -> None:
        future = self._loop.create_future()
        self._batches.when_done(ticket, partial(self._tell, future))
        left_seconds = min(max(ticket.deadline - time.monotonic(), 0.0), HUNG_SECONDS)
        timer = self._loop.call_later(left_seconds, self._give_up, ticket, future)
        try:
            await future
        finally:
            timer.cancel()

    def _tell(self, future: "asyncio.Future[None]") -> None:
        """In any thread; `_wake_all` misses nothing, however they meet."""
        self._finished.append(future)
        if not self._is_told:
            self._is_told = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        self._is_told = False  # before the queue is read: what comes from here on tells again
        while self._finished:
            future = self._finished.popleft()
            if not future.done():
                future.set_result(None)

    def _give_up(self, ticket: Ticket, future: "asyncio.Future[None]") -> None:
        self._batches.give_up(ticket)
        if not ticket.is_done:  # its last forward runs: soon it will be answered
            self._loop.call_later(HUNG_SECONDS, _say_hung, future)


def _say_hung(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_exception(Unavailable("the device does not answer"))
