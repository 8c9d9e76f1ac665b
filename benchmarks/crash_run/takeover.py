"""How long nobody schedules when the scheduler that acts dies or stands still, under the settings that are shipped."""

import os
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from benchmarks.crash_run.processes import Process, free_ports, started
from benchmarks.crash_run.registry import url_of
from benchmarks.crash_run.replica import Deployment, is_up, serve
from control_plane.registry import leases
from control_plane.registry.leases import Lease
from control_plane.registry.session import Sessions
from control_plane.settings import Settings

PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.02
WRITE_SECONDS = 1.0  # far longer than a transaction of one that runs
IN_A_TRANSACTION = "lease.renewed=stop@4"  # it stops with the lease's row locked


class Strike(Enum):
    KILL = "kill"
    STOP = "stop"
    STOP_IN_TRANSACTION = "stop in a transaction"


@dataclass(kw_only=True)
class Takeovers:
    """Seconds from the death or the stop until another holds the lease."""

    after_kill: list[float] = field(default_factory=list)
    after_stop: list[float] = field(default_factory=list)
    after_stop_in_transaction: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def measure(sessions: Sessions, strikes: Sequence[Strike]) -> Takeovers:
    found = Takeovers()
    with tempfile.TemporaryDirectory(prefix="surefoot-takeover-") as folder:
        shipped = Settings.model_fields
        deployment = Deployment(
            registry_url=url_of(sessions),
            folder=Path(folder),
            lease_seconds=shipped["lease_seconds"].default,
            tick_seconds=shipped["tick_seconds"].default,
        )
        for strike in strikes:
            _strike(strike, deployment, sessions, found)
    return found


def _strike(strike: Strike, deployment: Deployment, sessions: Sessions, found: Takeovers) -> None:
    match strike:
        case Strike.KILL:
            killed = _seconds(deployment, sessions, lambda process: process.kill(), found.problems)
            found.after_kill.append(killed)
        case Strike.STOP:
            stopped = _seconds(deployment, sessions, lambda process: _stop(process, sessions), found.problems)
            found.after_stop.append(stopped)
        case Strike.STOP_IN_TRANSACTION:
            stopped = _seconds(deployment, sessions, _wait_until_stopped, found.problems, armed=IN_A_TRANSACTION)
            found.after_stop_in_transaction.append(stopped)


def _seconds(
    deployment: Deployment,
    sessions: Sessions,
    strike: Callable[[Process], None],
    problems: list[str],
    *,
    armed: str = "",
) -> float:
    """Two replicas; the first, which holds the lease, is struck. One that goes on must find that it is deposed."""
    first_port, second_port = free_ports(2)
    with _replica(deployment, first_port, armed) as first:
        before = _wait_for(sessions, lambda lease: f"/{first.pid}/" in lease.holder)
        with _replica(deployment, second_port, "") as second:
            strike(first)
            began = time.monotonic()
            try:
                after = _wait_for(sessions, lambda lease: f"/{second.pid}/" in lease.holder)
            except TimeoutError as error:  # told beside what the storms found, which took a quarter of an hour
                problems.append(str(error))
                return PATIENCE_SECONDS
            seconds = time.monotonic() - began
            if after.epoch <= before.epoch:
                problems.append(f"the epoch went from {before.epoch} to {after.epoch}")
            if first.is_alive():
                _check_deposed(deployment, sessions, first, after, problems)
    with sessions.writing() as session:
        leases.release(session, leases.SCHEDULER, after.holder)
    return seconds


def _check_deposed(
    deployment: Deployment, sessions: Sessions, first: Process, after: Lease, problems: list[str]
) -> None:
    os.kill(first.pid or 0, signal.SIGCONT)
    time.sleep(2 * deployment.tick_seconds)
    with sessions.reading() as session:
        now = leases.current(session, leases.SCHEDULER)
    if now is None or (now.holder, now.epoch) != (after.holder, after.epoch):
        problems.append(f"the one that went on took the lease back from {after.holder}")


def _wait_for(sessions: Sessions, is_wanted: Callable[[Lease], bool]) -> Lease:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with sessions.reading() as session:
            lease = leases.current(session, leases.SCHEDULER)
        if lease is not None and lease.seconds_left > 0 and is_wanted(lease):
            return lease
        time.sleep(LOOK_SECONDS)
    raise TimeoutError(f"nobody took over within {PATIENCE_SECONDS:g} s")


@contextmanager
def _replica(deployment: Deployment, port: int, armed: str) -> Iterator[Process]:
    process = started(serve, deployment, port, armed)
    try:
        while not is_up(port):
            time.sleep(LOOK_SECONDS)
        yield process
    finally:
        process.kill()
        process.join()


def _stop(process: Process, sessions: Sessions) -> None:
    """At a random moment; on SQLite at one when it holds not the only lock, with which nobody could take over."""
    os.kill(process.pid or 0, signal.SIGSTOP)
    while sessions.engine.dialect.name == "sqlite" and _is_locked(sessions):
        os.kill(process.pid or 0, signal.SIGCONT)
        time.sleep(LOOK_SECONDS)
        os.kill(process.pid or 0, signal.SIGSTOP)


def _is_locked(sessions: Sessions) -> bool:
    """Whether a writer of a moment ago is still not done; running ones are done by then."""
    probe = sqlite3.connect(sessions.engine.url.database or "", timeout=WRITE_SECONDS, isolation_level=None)
    try:
        probe.execute("BEGIN IMMEDIATE")
        probe.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return True
    finally:
        probe.close()
    return False


def _wait_until_stopped(process: Process) -> None:
    status = Path(f"/proc/{process.pid}/stat")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while status.read_text().rpartition(")")[2].split()[0] != "T":
        if time.monotonic() > deadline:
            raise TimeoutError("it never stopped itself")
        time.sleep(LOOK_SECONDS)
