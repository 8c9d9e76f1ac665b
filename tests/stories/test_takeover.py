"""Schedulers and replicas die, stop and come back, in processes of their own and on both databases."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from control_plane.domain.rollout import Phase, RolloutId
from control_plane.registry import history, leases
from control_plane.registry.leases import Lease
from control_plane.registry.tables import Base, LeaseRow
from tests.builders import a_plan
from tests.model_runtime.conftest import free_port
from tests.postgres import PostgresCluster
from tests.stories.test_kill import wait_until_up
from tests.stories.world import STORY_PLAN, World

pytestmark = pytest.mark.slow

TAKEOVER_SECONDS = 15.0
PATIENCE_SECONDS = 120.0  # for what has no bar of its own: the machine may be busy
SHORT_LEASE: Mapping[str, object] = {"SUREFOOT_LEASE_SECONDS": 3.0}
NOTHING: Mapping[str, object] = {}
CHECKED_OFTEN = a_plan(**{**STORY_PLAN, "check_every": "1s"})


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> "Iterator[House]":
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    if request.param == "postgresql":
        cluster: PostgresCluster = request.getfixturevalue("postgres")
        url = cluster.registry()
    world = World(tmp_path, "home_feed", database_url=url)
    yield House(root=tmp_path, url=url, world=world)
    world.sessions.engine.dispose()


@dataclass(kw_only=True)
class House:
    """A world whose scheduler and replicas are processes; its clock moves when a test moves it."""

    root: Path
    url: str
    world: World

    def set_clock(self, *, ahead_seconds: float = 0.0, name: str = "clock") -> Path:
        path = self.root / name
        temporary = path.with_suffix(".new")
        moment = self.world.now + timedelta(seconds=ahead_seconds)
        temporary.write_text(str(round(moment.timestamp() * 1_000)))
        temporary.rename(path)
        return path

    @contextmanager
    def running(
        self, command: str, environment: Mapping[str, object], *, log: str = "log"
    ) -> Iterator[subprocess.Popen[bytes]]:
        """`surefoot command`; killed in the end, also where it is stopped."""
        told = {
            "SUREFOOT_DATA_DIR": self.root,
            "SUREFOOT_DATABASE_URL": self.url,
            "SUREFOOT_CLOCK_FILE": self.root / "clock",
            "SUREFOOT_TICK_SECONDS": 0.2,
            "SUREFOOT_RUNTIME_SILENT_SECONDS": 1e9,
            "SUREFOOT_RUNS_SCHEDULER": "false",
            **environment,
        }
        with (self.root / log).open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "control_plane", command],
                env={**os.environ, **{name: str(value) for name, value in told.items()}},
                stdout=output,
                stderr=output,
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    @contextmanager
    def scheduler(
        self, environment: Mapping[str, object] = NOTHING, *, log: str = "log"
    ) -> Iterator[subprocess.Popen[bytes]]:
        with self.running("scheduler", environment, log=log) as process:
            yield process

    @contextmanager
    def replica(self) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
        port = free_port()
        with self.running("serve", {"SUREFOOT_PORT": port}) as process:
            wait_until_up(f"http://127.0.0.1:{port}")
            yield process, f"http://127.0.0.1:{port}"

    def roll_out(self) -> RolloutId:
        """In its shadow, checked every second, and not about to move."""
        self.set_clock()
        rollout_id = self.world.roll_out("home_feed", self.world.candidate("home_feed"), CHECKED_OFTEN)
        while self.world.rollout(rollout_id).phase is not Phase.SHADOW:
            self.world.heartbeat()
            self.world.tick()
            self.world.now += timedelta(seconds=2)
        self.set_clock()
        return rollout_id

    def lease(self) -> Lease | None:
        with self.world.sessions.reading() as session:
            return leases.current(session, leases.SCHEDULER)

    def held_by(self, process: subprocess.Popen[bytes], *, epoch_after: int = 0) -> bool:
        lease = self.lease()
        return lease is not None and f"/{process.pid}/" in lease.holder and lease.epoch > epoch_after

    def pause(self, process: subprocess.Popen[bytes]) -> None:
        """SIGSTOP, and on SQLite not within a transaction: its lock on the file would stand still with it."""
        while True:
            os.kill(process.pid, signal.SIGSTOP)
            eventually(lambda: is_stopped(process))
            if not self.url.startswith("sqlite") or can_lock(self.url.removeprefix("sqlite:///")):
                return
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.01)

    def written(self) -> dict[str, list[tuple[object, ...]]]:
        """Every row of every table but the lease."""
        tables = [table for table in Base.metadata.sorted_tables if table.name != LeaseRow.__tablename__]
        with self.world.sessions.reading() as session:
            return {table.name: [tuple(row) for row in session.execute(select(table))] for table in tables}

    def assert_whole(self) -> None:
        state = self.world.surface("home_feed")
        with self.world.sessions.reading() as session:
            assert history.verify(session) == []
            entries = history.list_history(session, state.surface, limit=1_000)
        assert sorted(entry.seq for entry in entries) == list(range(state.generation + 1))


def eventually(is_so: Callable[[], bool], *, seconds: float = PATIENCE_SECONDS) -> float:
    """Wait until it is, and return how long that took."""
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < seconds, "it did not come about in time"
        time.sleep(0.02)
    return time.monotonic() - started


def can_lock(path: str) -> bool:
    connection = sqlite3.connect(path, isolation_level=None, timeout=0.5)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return True


@pytest.mark.parametrize("end", ["kill", "pause"])
def test_another_scheduler_takes_over_within_fifteen_seconds(house: House, end: str) -> None:
    rollout_id = house.roll_out()
    with house.scheduler() as first:
        eventually(lambda: house.held_by(first))
        with house.scheduler() as second:
            eventually(lambda: house.world.now == last_tick(house))
            time.sleep(3)
            first.kill() if end == "kill" else house.pause(first)
            ended_at = house.world.now = house.world.now + timedelta(seconds=5)
            house.set_clock()

            taken_s = eventually(lambda: house.held_by(second) and last_tick(house) == ended_at)

    assert taken_s <= TAKEOVER_SECONDS
    assert house.world.rollout(rollout_id).phase is Phase.SHADOW
    house.assert_whole()


def last_tick(house: House) -> object:
    lease = house.lease()
    return None if lease is None else lease.last_tick_at


def test_a_scheduler_that_wakes_up_deposed_writes_nothing_of_what_it_had_judged(house: House) -> None:
    """It stops after its judgement and before it writes; nobody else is there to write once it wakes up."""
    house.roll_out()
    with house.scheduler({**SHORT_LEASE, "SUREFOOT_FAILPOINTS": "tick.judged=stop@2"}, log="first") as first:
        eventually(lambda: house.held_by(first))
        advance_until_stopped(house, first)
        with house.scheduler(SHORT_LEASE) as second:
            eventually(lambda: house.held_by(second) and last_tick(house) == house.world.now)
            lease = house.lease()
            assert lease is not None
            second.kill()
            second.wait()
        before = house.written()

        os.kill(first.pid, signal.SIGCONT)

        eventually(lambda: "this scheduler holds epoch" in (house.root / "first").read_text(), seconds=20)
        assert house.written() == before
        eventually(lambda: house.held_by(first, epoch_after=lease.epoch))
    house.assert_whole()


@pytest.mark.postgres
@pytest.mark.parametrize("house", ["postgresql"], indirect=True)
def test_a_scheduler_that_stops_within_a_transaction_lets_go_of_its_locks_and_wrote_nothing(house: House) -> None:
    """On SQLite a stopped process keeps the file's lock, and only its end frees it."""
    rollout_id = house.roll_out()
    with house.scheduler({"SUREFOOT_FAILPOINTS": "verdict.stored=stop@2"}) as first:
        eventually(lambda: house.held_by(first))
        advance_until_stopped(house, first)
        before = house.written()
        with house.scheduler() as second, house.replica() as (_, url):
            answer = httpx.post(
                f"{url}/v1/rollouts/{rollout_id}/commands", json={"command": "roll_back", "reason": "now"}, timeout=30
            )
            taken_s = eventually(lambda: house.held_by(second) and last_tick(house) == house.world.now)
            os.kill(first.pid, signal.SIGCONT)
            time.sleep(2)

    assert answer.status_code == 200, answer.text
    assert taken_s <= TAKEOVER_SECONDS
    assert house.written()["verdict"] == before["verdict"]
    assert house.world.rollout(rollout_id).phase is Phase.ROLLED_BACK
    house.assert_whole()


def advance_until_stopped(house: House, process: subprocess.Popen[bytes]) -> None:
    def has_stopped() -> bool:
        house.world.now += timedelta(seconds=2)
        house.set_clock()
        time.sleep(0.2)
        return is_stopped(process)

    eventually(has_stopped)


def is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """Every thread of it."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/stat")
    return all(thread.read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)


@pytest.mark.parametrize("first_ahead_seconds", [-5.0, 5.0])
def test_clocks_five_seconds_apart_harm_nothing(house: House, first_ahead_seconds: float) -> None:
    world = house.world
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"), CHECKED_OFTEN)

    def hands() -> tuple[Path, Path]:
        return house.set_clock(ahead_seconds=first_ahead_seconds, name="first clock"), house.set_clock()

    first_clock, second_clock = hands()
    world.heartbeat()
    with house.scheduler({**SHORT_LEASE, "SUREFOOT_CLOCK_FILE": first_clock}) as first:
        eventually(lambda: house.held_by(first))
        with house.scheduler({**SHORT_LEASE, "SUREFOOT_CLOCK_FILE": second_clock}) as second:

            def is_in(phase: Phase) -> bool:
                world.now += timedelta(seconds=1)
                hands()
                time.sleep(0.1)
                return world.rollout(rollout_id).phase is phase

            eventually(lambda: is_in(Phase.WARMING))
            first.kill()
            world.heartbeat()  # not before: it is what ends the warming
            eventually(lambda: is_in(Phase.SHADOW))
            assert house.held_by(second)

    house.assert_whole()
    with world.sessions.reading() as session:
        commands = [entry.command for entry in history.list_history(session, world.surface("home_feed").surface)]
    assert commands[:3] == ["advance", "start", "create"]


def test_with_the_scheduler_dead_and_one_replica_left_a_roll_back_is_one_call(house: House) -> None:
    rollout_id = house.roll_out()
    with house.scheduler() as scheduler, house.replica() as (other, _), house.replica() as (_, url):
        eventually(lambda: house.held_by(scheduler))
        scheduler.kill()
        other.kill()
        other.wait()
        started = time.monotonic()

        answer = httpx.post(
            f"{url}/v1/rollouts/{rollout_id}/commands", json={"command": "roll_back", "reason": "bad"}, timeout=30
        )

        assert answer.status_code == 200, answer.text
        assert time.monotonic() - started < 5
        split = httpx.get(f"{url}/v1/splits").json()["splits"][0]
        assert (split["candidate"], split["shadow"]) == (None, None)
    house.assert_whole()


def test_what_one_replica_writes_reaches_the_streams_of_another_within_a_second(house: House) -> None:
    rollout_id = house.roll_out()
    with (
        house.replica() as (_, writer),
        house.replica() as (_, reader),
        httpx.stream("GET", f"{reader}/v1/splits/stream", timeout=30) as stream,
    ):
        events = (line for line in stream.iter_lines() if line.startswith("data: "))
        next(events)
        started = time.monotonic()

        httpx.post(f"{writer}/v1/rollouts/{rollout_id}/commands", json={"command": "roll_back"}).raise_for_status()
        pushed = next(events)

        assert time.monotonic() - started < 1
    assert '"shadow":null' in pushed.replace(" ", "")
