"""HTTP load from a process of its own, over bare sockets: its CPU stands beside the servers', and is told.

Reads one job a line from standard input and prints one result a line, both JSON. Closed loop: each connection sends
its next request when the answer to its last one is whole. Open loop: requests are due on a fixed schedule whatever
the server does, and latency counts from when each was due.
"""

import argparse
import asyncio
import json
import resource
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path

import httptools

OPEN_CONNECTIONS = 64  # enough that none is waited for where the server keeps up
GIVE_UP_SECONDS = 60.0  # after a job's own time; what is unanswered by then has failed
LENGTH = struct.Struct("<Q")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """`rate_per_s` makes it an open loop, whose connections are `OPEN_CONNECTIONS`."""

    port: int
    requests: str  # path of a file that `write_requests` wrote; they are sent in turn
    connections: int
    seconds: float
    rate_per_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """`seconds` ends with the last answer. `problem` is the first of what failed."""

    answered: int
    failed: int
    seconds: float
    latencies_ms: list[float]
    cpu_seconds: float
    problem: str = ""


def write_requests(path: Path, requests: Sequence[bytes]) -> None:
    path.write_bytes(b"".join(LENGTH.pack(len(each)) + each for each in requests))


def read_requests(path: Path) -> list[bytes]:
    content, place, requests = path.read_bytes(), 0, []
    while place < len(content):
        (length,) = LENGTH.unpack_from(content, place)
        place += LENGTH.size + length
        requests.append(content[place - length : place])
    return requests


class Generator:
    """The process, as whoever wants load sees it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, job: Job) -> Result:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(job)), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the load generator ended")
        return Result(**json.loads(answer))


@contextmanager
def generator() -> Iterator[Generator]:
    command = [sys.executable, "-m", "benchmarks.serving_run.load"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield Generator(process)
        assert process.stdin is not None
        process.stdin.close()


async def run(job: Job) -> Result:
    requests = read_requests(Path(job.requests))
    spent = time.process_time()
    load = _Load(cycle(requests), until=time.perf_counter() + job.seconds)
    count = job.connections if job.rate_per_s is None else OPEN_CONNECTIONS
    callers = [await _connected(load, job.port) for _ in range(count)]
    load.start(callers, seconds=job.seconds, rate_per_s=job.rate_per_s)
    try:
        await asyncio.wait_for(load.over.wait(), job.seconds + GIVE_UP_SECONDS)
    except TimeoutError:
        load.failed(load.in_flight, "not answered in time")
    for caller in callers:
        caller.close()
    return Result(
        answered=len(load.latencies_ms),
        failed=load.num_failed,
        seconds=load.last_at - load.started,
        latencies_ms=load.latencies_ms,
        cpu_seconds=time.process_time() - spent,
        problem=load.problem,
    )


@dataclass(slots=True)
class _Load:
    """What all connections share: which request comes next, and what came of those sent."""

    requests: Iterator[bytes]
    until: float
    over: asyncio.Event = field(default_factory=asyncio.Event)
    latencies_ms: list[float] = field(default_factory=list)
    num_failed: int = 0
    problem: str = ""
    started: float = 0.0
    last_at: float = 0.0
    in_flight: int = 0
    is_open_loop: bool = False
    unsent: int = 0  # of an open loop: those whose time has not come
    due: "deque[float]" = field(default_factory=deque)
    idle: "list[_Caller]" = field(default_factory=list)

    def start(self, callers: "list[_Caller]", *, seconds: float, rate_per_s: float | None) -> None:
        self.started = self.last_at = time.perf_counter()
        self.until = self.started + seconds
        self.is_open_loop = rate_per_s is not None
        if rate_per_s is None:
            for caller in callers:
                self.send(caller, self.started)
            return
        self.idle = callers
        loop, first = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        self.unsent = max(1, round(seconds * rate_per_s))
        for number in range(self.unsent):
            after = number / rate_per_s
            loop.call_at(first + after, self._arrive, self.started + after)

    def send(self, caller: "_Caller", due: float) -> None:
        self.in_flight += 1
        caller.send(next(self.requests), due)

    def answered(self, caller: "_Caller", due: float, status: int, body: bytes) -> None:
        self.in_flight -= 1
        self.last_at = time.perf_counter()
        if status == 200:
            self.latencies_ms.append((self.last_at - due) * 1e3)
        else:
            self.failed(1, f"{status}: {body[:300].decode(errors='replace')}")
        self._next(caller)

    def failed(self, count: int, problem: str) -> None:
        self.num_failed += count
        self.problem = self.problem or problem

    def lost(self, caller: "_Caller", *, was_busy: bool) -> None:
        """A connection is gone; its request failed, and the others go on without it."""
        if caller in self.idle:
            self.idle.remove(caller)
        if was_busy:
            self.in_flight -= 1
            self.failed(1, "the server closed the connection")
            self._end_if_done()

    def _next(self, caller: "_Caller") -> None:
        if not self.is_open_loop:
            if time.perf_counter() < self.until:
                self.send(caller, time.perf_counter())
        elif self.due:
            self.send(caller, self.due.popleft())
        else:
            self.idle.append(caller)
        self._end_if_done()

    def _arrive(self, due: float) -> None:
        self.unsent -= 1
        if self.idle:
            self.send(self.idle.pop(), due)
        else:
            self.due.append(due)

    def _end_if_done(self) -> None:
        if not self.in_flight and not self.unsent and not self.due:
            self.over.set()


class _Caller(asyncio.Protocol):
    """One connection, and the parser of its answers."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._due = 0.0
        self._is_busy = False
        self._is_closing = False
        self._body: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: bytes, due: float) -> None:
        assert self._transport is not None
        self._due = due
        self._is_busy = True
        self._transport.write(request)

    def close(self) -> None:
        assert self._transport is not None
        self._is_closing = True
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status, body = self._parser.get_status_code(), b"".join(self._body)
        if status == 100:
            return
        self._parser = httptools.HttpResponseParser(self)
        self._body = []
        self._is_busy = False
        self._load.answered(self, self._due, status, body)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._is_closing:
            self._load.lost(self, was_busy=self._is_busy)


async def _connected(load: _Load, port: int) -> _Caller:
    _, caller = await asyncio.get_running_loop().create_connection(lambda: _Caller(load), "127.0.0.1", port)
    return caller


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    for line in sys.stdin:
        print(json.dumps(asdict(asyncio.run(run(Job(**json.loads(line)))))), flush=True)


if __name__ == "__main__":
    main()
