"""Rounds of two servers in turn, so that a busy machine is busy for both."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.serving_run.load import Generator, Job, Result, generator, write_requests
from benchmarks.serving_run.model import pages
from benchmarks.serving_run.processes import Processes
from benchmarks.serving_run.servers import Server

NUM_USERS = 96  # whose requests are sent in turn: more than are ever in flight at once
WARM_UP_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    name: str
    rows: int  # of one request
    connections: int


LARGE = tuple(Load(name=f"c{count}", rows=500, connections=count) for count in (1, 8, 32))
SMALL = Load(name="small", rows=32, connections=32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Of one server in one round; CPU is of all the server's processes."""

    rows_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # per request
    client_cpu_share: float  # of one core, that the load generator took
    failed: int
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    ours: Measured
    theirs: Measured


Pairs = dict[str, list[Pair]]  # by load


@dataclass(frozen=True, kw_only=True, slots=True)
class Up:
    """A server that answers."""

    server: Server
    processes: Processes


class Bench:
    """The load generator, and the requests written for it."""

    def __init__(self, folder: Path, sender: Generator) -> None:
        self._folder = folder
        self._sender = sender
        self._written: dict[tuple[Server, int], Path] = {}

    def measure(self, up: Up, load: Load, *, seconds: float) -> Measured:
        spent = up.processes.cpu_seconds()
        result = self.send(up.server, load, seconds=seconds)
        spent = up.processes.cpu_seconds() - spent
        if not result.answered:
            raise RuntimeError(f"{up.server.name} answered nothing in {seconds:g} s: {result.problem}")
        return Measured(
            rows_per_s=result.answered * load.rows / result.seconds,
            p50_ms=float(np.quantile(result.latencies_ms, 0.5)),
            p99_ms=float(np.quantile(result.latencies_ms, 0.99)),
            cpu_ms=spent * 1e3 / result.answered,
            client_cpu_share=result.cpu_seconds / result.seconds,
            failed=result.failed,
            problem=result.problem,
        )

    def send(self, server: Server, load: Load, *, seconds: float, rate_per_s: float | None = None) -> Result:
        return self._sender.run(
            Job(
                port=server.port,
                requests=str(self.requests(server, rows=load.rows)),
                connections=load.connections,
                seconds=seconds,
                rate_per_s=rate_per_s,
            )
        )

    def requests(self, server: Server, *, rows: int) -> Path:
        """Written once, while nothing is measured."""
        key = (server, rows)  # the server itself: the id of one that is gone would come again
        if key not in self._written:
            self._written[key] = self._folder / f"requests-{len(self._written)}"
            write_requests(self._written[key], [server.request(page) for page in pages(NUM_USERS, rows=rows)])
        return self._written[key]


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    with generator() as sender:
        yield Bench(folder, sender)


def in_turn(bench: Bench, ours: Up, theirs: Up, loads: Sequence[Load], *, rounds: int, seconds: float) -> Pairs:
    """Who begins changes from round to round."""
    for load in loads:
        for up in (ours, theirs):
            bench.send(up.server, load, seconds=WARM_UP_SECONDS)
    pairs: Pairs = defaultdict(list)
    for number in range(rounds):
        for load in loads:
            order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
            first, second = (bench.measure(up, load, seconds=seconds) for up in order)
            pair = Pair(ours=first, theirs=second) if number % 2 == 0 else Pair(ours=second, theirs=first)
            pairs[load.name].append(pair)
    return pairs


def rate_ratios(pairs: Sequence[Pair]) -> list[float]:
    return [pair.ours.rows_per_s / pair.theirs.rows_per_s for pair in pairs]


def p99_ratio(pairs: Sequence[Pair]) -> float:
    return median(pair.ours.p99_ms / pair.theirs.p99_ms for pair in pairs)


def cpu_ratio(pairs: Sequence[Pair]) -> float:
    return median(pair.ours.cpu_ms / pair.theirs.cpu_ms for pair in pairs)


def failed(pairs: Pairs) -> int:
    return sum(pair.ours.failed + pair.theirs.failed for each in pairs.values() for pair in each)
