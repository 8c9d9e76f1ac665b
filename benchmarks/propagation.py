"""How long a changed weight takes from its commit to the runtimes, with the push and without it, and a rollback.

One replica on PostgreSQL, written to by another process, as a scheduler or another replica would. Most subscribers
are light readers of the stream; some are the runtime's own clients. The clock starts when the commit does.
"""

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NewType

import httpx
import numpy as np

from benchmarks.crash_run.postgres import databases
from benchmarks.propagation_run.cut import Push, Relay
from benchmarks.propagation_run.ramp import SURFACE, Ramp
from benchmarks.report import report
from control_plane.registry.session import Sessions, make_engine, upgrade

FEW, MANY = 200, 1_000  # subscribers of one worker
RUNTIMES = 10  # of them, real clients
APART_SECONDS = 0.4  # between two changes
SETTLE_SECONDS = 2.0  # for the last one to arrive
START_SECONDS = 60.0
GIVE_UP_SECONDS = 15.0
ROOT = Path(__file__).parents[1]

Held = NewType("Held", list[list[tuple[int, int]]])  # by subscriber: when (monotonic ns), which generation


@dataclass(frozen=True, kw_only=True, slots=True)
class Delays:
    """Of every change at every subscriber, in milliseconds."""

    ms: Sequence[float]
    runtimes_ms: Sequence[float]
    lost: int
    backwards: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer changes and rollbacks")
    is_quick = parser.parse_args().quick
    with (
        TemporaryDirectory(prefix="surefoot-bench-") as folder,
        databases("propagation") as (url,),
        registry(url) as sessions,
        replica(Path(folder), url) as port,
    ):
        ramp = Ramp(sessions)
        ramp.ramping()
        few = delays(ramp, port, subscribers=FEW, changes=8 if is_quick else 60)
        many = delays(ramp, port, subscribers=MANY, changes=6 if is_quick else 40)
        rollback_ms = rollbacks(ramp, port, count=15 if is_quick else 100)
        wait_s = 5.0 if is_quick else GIVE_UP_SECONDS
        cuts = [cut_push(ramp, port, push, wait_seconds=wait_s) for push in (Push.SILENT, Push.CLOSED)]
    _report(few, many, rollback_ms, [seconds for found in cuts for seconds in found])


def delays(ramp: Ramp, port: int, *, subscribers: int, changes: int) -> Delays:
    with ExitStack() as stack:
        readers = stack.enter_context(subscribed("readers", "--port", port, "--count", subscribers - RUNTIMES))
        url = f"http://127.0.0.1:{port}"
        runtimes = stack.enter_context(subscribed("runtimes", "--url", url, "--surface", SURFACE, "--count", RUNTIMES))
        time.sleep(1.0)
        commits = []
        for _ in range(changes):
            commits.append(ramp.grow())
            time.sleep(APART_SECONDS)
        time.sleep(SETTLE_SECONDS)
        light, real = ended(readers), ended(runtimes)
    found = [delay for held in (light, real) for one in held for delay in _delays_ms(one, commits)]
    of_runtimes = [delay for one in real for delay in _delays_ms(one, commits)]
    return Delays(
        ms=[delay for delay in found if delay is not None],
        runtimes_ms=[delay for delay in of_runtimes if delay is not None],
        lost=sum(delay is None for delay in found),
        backwards=sum(_steps_back(one) for held in (light, real) for one in held),
    )


def rollbacks(ramp: Ramp, port: int, *, count: int) -> list[float]:
    """From the call to its answer, which comes after the commit; 200 subscribers listen."""
    spent = []
    with (
        subscribed("readers", "--port", port, "--count", FEW) as readers,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        for _ in range(count):
            rollout_id = ramp.ramping()
            time.sleep(APART_SECONDS / 2)  # what came before has reached everyone
            started = time.perf_counter()
            answer = http.post(f"/v1/rollouts/{rollout_id}/commands", json={"command": "roll_back", "reason": "bad"})
            spent.append((time.perf_counter() - started) * 1e3)
            answer.raise_for_status()
            ramp.forget()
        ended(readers)
    return spent


def cut_push(ramp: Ramp, port: int, push: Push, *, wait_seconds: float) -> list[float]:
    """How long after a change, made as the push is cut, each real client holds it; inf for one that never does."""
    with Relay(port).running() as relay:
        url = f"http://127.0.0.1:{relay.port}"
        with subscribed("runtimes", "--url", url, "--surface", SURFACE, "--count", RUNTIMES) as runtimes:
            time.sleep(1.0)
            relay.cut(push)
            commit = ramp.grow()
            time.sleep(wait_seconds)
            held = ended(runtimes)
    found = [_delays_ms(one, [commit])[0] for one in held]
    return [math.inf if delay is None else delay / 1e3 for delay in found]


@contextmanager
def registry(url: str) -> Iterator[Sessions]:
    engine = make_engine(url)
    upgrade(engine)
    try:
        yield Sessions(engine)
    finally:
        engine.dispose()


@contextmanager
def replica(folder: Path, url: str) -> Iterator[int]:
    """One worker of the API, in a process of its own; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    environment = {
        **os.environ,
        "SUREFOOT_DATA_DIR": str(folder),
        "SUREFOOT_DATABASE_URL": url,
        "SUREFOOT_PORT": str(port),
        "SUREFOOT_RUNS_SCHEDULER": "false",
    }
    process = subprocess.Popen([sys.executable, "-m", "control_plane", "serve"], env=environment, cwd=ROOT)
    try:
        _wait_until_up(port)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def subscribed(module: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", f"benchmarks.propagation_run.{module}", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"{module} could not subscribe")
        yield process
    finally:
        process.kill()
        process.wait()


def ended(process: subprocess.Popen[str]) -> Held:
    printed, _ = process.communicate(timeout=60)
    return Held(json.loads(printed))


def _delays_ms(held: Sequence[tuple[int, int]], commits: Sequence[tuple[int, int]]) -> list[float | None]:
    """Until a subscriber held each generation or a later one; None if it never did."""
    found: list[float | None] = []
    place = 0
    for began_ns, generation in commits:
        while place < len(held) and held[place][1] < generation:
            place += 1
        found.append((held[place][0] - began_ns) / 1e6 if place < len(held) else None)
    return found


def _steps_back(held: Sequence[tuple[int, int]]) -> int:
    return sum(after < before for (_, before), (_, after) in pairwise(held))


def _wait_until_up(port: int) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up_at:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/v1/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit("the control plane did not start")


def _report(few: Delays, many: Delays, rollback_ms: Sequence[float], fallback_s: Sequence[float]) -> None:
    figures = {
        "p50_ms_200": _quantile(few.ms, 0.5),
        "p99_ms_200": _quantile(few.ms, 0.99),
        "p99_ms_1000": _quantile(many.ms, 0.99),
        "lost": float(few.lost + many.lost),
        "backwards": float(few.backwards + many.backwards),
        "poll_fallback_s": _quantile(fallback_s, 1.0),
        "rollback_commit_p99_ms": _quantile(rollback_ms, 0.99),
    }
    report(
        "propagation",
        columns=("from commit to subscriber", "p50", "p99", "largest", "number", "bar"),
        rows=(
            _row(f"{FEW} subscribers, ms", few.ms, "p99 ≤ 250"),
            _row(f"of them {RUNTIMES} runtimes' own clients, ms", few.runtimes_ms, ""),
            _row(f"{MANY} subscribers, ms", many.ms, "p99 ≤ 500"),
            _row(f"of them {RUNTIMES} runtimes' own clients, ms", many.runtimes_ms, ""),
            _row("push cut, runtimes poll, s", fallback_s, "largest ≤ 10"),
            _row("rollback, call to answer, ms", rollback_ms, "p99 ≤ 100"),
            ("never arrived", "", "", f"{figures['lost']:g}", "", "0"),
            ("went backwards", "", "", f"{figures['backwards']:g}", "", "0"),
        ),
        figures=figures,
    )


def _row(what: str, values: Sequence[float], bar: str) -> tuple[str, ...]:
    middle, high, largest = (f"{_quantile(values, q):.3g}" for q in (0.5, 0.99, 1.0))
    return what, middle, high, largest, str(len(values)), bar


def _quantile(values: Sequence[float], q: float) -> float:
    return float(f"{np.quantile(values, q):.4g}")


if __name__ == "__main__":
    main()
