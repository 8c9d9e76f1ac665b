"""A scheduler that stood still while another took over finds itself deposed, wherever it stood."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import func, select

from benchmarks.crash_run.checker import Checker
from benchmarks.crash_run.driven_clock import DrivenClock
from benchmarks.crash_run.evidence import Worth, worth_of
from benchmarks.crash_run.plans import a_plan_mapping
from benchmarks.crash_run.processes import Process, free_ports, started
from benchmarks.crash_run.registry import opened, url_of
from benchmarks.crash_run.replica import Deployment, is_up, serve
from benchmarks.crash_run.versions import VIEW_TYPES, a_version, register
from benchmarks.crash_run.wrote import WROTE
from control_plane.domain.plan_mapping import plan_from_mapping
from control_plane.domain.rollout import Command
from control_plane.registry import arrivals, rollouts, stables
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 60.0


@pytest.mark.parametrize("point", ["tick.loaded", "tick.judged", "tick.decided", "tick.applied"])
def test_a_scheduler_that_stood_still_in_its_tick_writes_nothing_more(tmp_path: Path, point: str) -> None:
    sessions = opened(f"sqlite:///{tmp_path / 'registry.db'}")
    deployment = Deployment(registry_url=url_of(sessions), folder=tmp_path, lease_seconds=0.5, tick_seconds=0.05)
    clock = DrivenClock(deployment.clock_file, NOON, seconds_per_second=600)
    roll_out(sessions)

    with ExitStack() as running:
        running.enter_context(clock.running())
        first = running.enter_context(a_replica(deployment, f"{point}=stop@2"))
        wait_until(lambda: is_stopped(first))
        second = running.enter_context(a_replica(deployment, ""))
        wait_until(lambda: writes_of(sessions, second) > 0)
        before = writes_of(sessions, first)
        os.kill(first.pid or 0, signal.SIGCONT)
        seen = writes_of(sessions, second)
        wait_until(lambda: writes_of(sessions, second) > seen)

    assert writes_of(sessions, first) == before
    assert [str(one) for one in Checker().check_all(sessions)] == []
    sessions.engine.dispose()


def roll_out(sessions: Sessions) -> None:
    """A candidate with weight, of which there is never enough to see: each check stores a verdict to go on looking."""
    stable = a_version(HOME_FEED, "first", trunk="first")
    others = (a_version(HOME_FEED, f"candidate {number}", trunk="second") for number in count())
    candidate = next(version for version in others if worth_of(version.version_id) is Worth.UNCLEAR)
    plan = plan_from_mapping({**a_plan_mapping(), "max_stage": "30d", "max_total": "30d"})
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ann", now=NOON)
        for version in (stable, candidate):
            register(session, version, now=NOON)
        stables.adopt(session, HOME_FEED, stable.version_id, seen_generation=None, by="ann", reason="", now=NOON)
        rollout = arrivals.create(session, HOME_FEED, candidate.version_id, plan, by="ann", now=NOON)
        for command in (Command.START, Command.SKIP, Command.SKIP):
            rollouts.apply_command(session, rollout.rollout_id, command, by="bob", reason="to see", now=NOON)


@contextmanager
def a_replica(deployment: Deployment, armed: str) -> Iterator[Process]:
    (port,) = free_ports(1)
    process = started(serve, deployment, port, armed)
    try:
        wait_until(lambda: is_stopped(process) or is_up(port))
        yield process
    finally:
        process.kill()
        process.join()


def is_stopped(process: Process) -> bool:
    status = Path(f"/proc/{process.pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "T"


def writes_of(sessions: Sessions, process: Process) -> int:
    with sessions.reading() as session:
        query = select(func.count()).select_from(WROTE).where(WROTE.c.holder.like(f"%/{process.pid}/%"))
        return session.scalar(query) or 0


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.02)
