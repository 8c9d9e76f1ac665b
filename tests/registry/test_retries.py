"""A database that goes away, is full of connections, or finds two writers in conflict: real ones, made to happen."""

import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from control_plane.domain.errors import CommitUnknown, RegistryUnavailable, TransactionConflict
from control_plane.domain.model_version import Surface
from control_plane.registry import stables, surfaces
from control_plane.registry.session import Sessions, make_engine, upgrade
from tests.builders import HOME_FEED, NOON, VIEW_TYPES
from tests.own_postgres import OwnServer, Wire, own_server
from tests.registry.scene import SEARCH

MAX_CONNECTIONS = 12


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with own_server(max_connections=MAX_CONNECTIONS) as own:
        yield own


@pytest.fixture
def registry(server: OwnServer) -> Iterator[Sessions]:
    """With `HOME_FEED` and `SEARCH`, each counted to 0."""
    with at_url(server.registry_url) as sessions:
        make_surfaces(sessions)
        with sessions.writing() as session:
            session.execute(text("UPDATE surface SET shadow_sample_bp = 0"))
        yield sessions


@contextmanager
def at_url(url: str) -> Iterator[Sessions]:
    engine = make_engine(url)
    try:
        yield Sessions(engine)
    finally:
        engine.dispose()


def make_surfaces(sessions: Sessions) -> None:
    with sessions.writing() as session:
        for surface in (HOME_FEED, SEARCH):
            stables.create_surface(session, surface, VIEW_TYPES, by="ada", now=NOON)


def add_one(session: Session, surface: Surface = HOME_FEED) -> None:
    session.execute(
        text("UPDATE surface SET candidate_bp = 0, shadow_sample_bp = shadow_sample_bp + 1 WHERE surface = :s"),
        {"s": surface},
    )


def count(sessions: Sessions, surface: Surface = HOME_FEED) -> int:
    with sessions.reading() as session:
        return surfaces.get(session, surface).shadow_sample_bp


@pytest.mark.postgres
class TestPostgresql:
    def test_a_writer_whose_connection_the_server_ended_meanwhile_begins_on_another(
        self, server: OwnServer, registry: Sessions
    ) -> None:
        server.end_backends()

        with registry.writing() as session:
            add_one(session)

        assert count(registry) == 1

    def test_a_connection_ended_half_way_is_told_and_leaves_nothing(
        self, server: OwnServer, registry: Sessions
    ) -> None:
        def lose_the_connection() -> None:
            with registry.writing() as session:
                add_one(session)
                server.end_backends()
                add_one(session)

        with pytest.raises(TransactionConflict, match="nothing was changed"):
            lose_the_connection()

        assert count(registry) == 0

    def test_work_whose_connection_is_ended_half_way_is_done_again_and_counts_once(
        self, server: OwnServer, registry: Sessions
    ) -> None:
        attempts: list[int] = []

        def work(session: Session) -> None:
            attempts.append(1)
            add_one(session)
            if len(attempts) < 3:
                server.end_backends()
            session.execute(text("SELECT 1"))

        registry.write(work)

        assert len(attempts) == 3
        assert count(registry) == 1

    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    def test_a_server_that_restarts_keeps_a_writer_waiting_and_loses_nothing(
        self, server: OwnServer, registry: Sessions, mode: str
    ) -> None:
        with registry.writing() as session:
            add_one(session)
        server.stop(mode=mode)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(registry.write, add_one)
            time.sleep(0.3)
            assert not waiting.done()
            server.start()
            waiting.result(timeout=20)

        assert count(registry) == 2

    def test_a_server_that_stays_away_is_told_in_time(self, server: OwnServer, registry: Sessions) -> None:
        server.stop()
        started = time.monotonic()

        try:
            with pytest.raises(RegistryUnavailable), registry.writing():
                pass
        finally:
            server.start()

        assert time.monotonic() - started < 10

    def test_a_writer_waits_for_a_connection_where_the_server_has_none_left(
        self, server: OwnServer, registry: Sessions
    ) -> None:
        registry.engine.dispose()
        with ExitStack() as taken, ThreadPoolExecutor(1) as pool:
            take_all_connections(server, taken)
            waiting = pool.submit(registry.write, add_one)
            time.sleep(0.3)
            assert not waiting.done()
            taken.close()
            waiting.result(timeout=20)

        assert count(registry) == 1

    def test_no_connection_left_for_long_is_told_in_the_servers_words(
        self, server: OwnServer, registry: Sessions
    ) -> None:
        registry.engine.dispose()

        with ExitStack() as taken:
            take_all_connections(server, taken)
            with pytest.raises(RegistryUnavailable, match="too many clients"), registry.writing():
                pass

    def test_two_in_a_deadlock_are_both_done_in_the_end(self, registry: Sessions) -> None:
        met = threading.Barrier(2)

        def work(first: Surface, second: Surface) -> Callable[[Session], None]:
            attempts: list[int] = []

            def both(session: Session) -> None:
                attempts.append(1)
                add_one(session, first)
                if len(attempts) == 1:
                    met.wait(timeout=10)
                add_one(session, second)

            return both

        with ThreadPoolExecutor(2) as pool:
            done = [pool.submit(registry.write, work(*names)) for names in ((HOME_FEED, SEARCH), (SEARCH, HOME_FEED))]
            for one in done:
                one.result(timeout=30)

        assert (count(registry), count(registry, SEARCH)) == (2, 2)

    def test_two_that_cannot_be_serialised_are_both_done_in_the_end(self, registry: Sessions) -> None:
        met = threading.Barrier(2)

        def work() -> Callable[[Session], None]:
            attempts: list[int] = []

            def read_then_write(session: Session) -> None:
                attempts.append(1)
                session.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
                seen = session.scalar(text("SELECT sum(shadow_sample_bp) FROM surface"))
                if len(attempts) == 1:
                    met.wait(timeout=10)
                session.execute(
                    text("UPDATE surface SET shadow_sample_bp = :bp WHERE surface = 'home_feed'"), {"bp": seen + 1}
                )

            return read_then_write

        with ThreadPoolExecutor(2) as pool:
            for one in [pool.submit(registry.write, work()) for _ in range(2)]:
                one.result(timeout=30)

        assert count(registry) == 2

    @pytest.mark.parametrize(("cut", "was_made"), [("cut_before", 0), ("cut_after", 1)])
    def test_a_commit_whose_answer_is_lost_is_told_as_unknown_and_never_made_twice(
        self, server: OwnServer, registry: Sessions, cut: str, was_made: int
    ) -> None:
        with (
            tempfile.TemporaryDirectory(prefix="sf-") as folder,
            Wire(server.url, Path(folder)).open() as wire,
            at_url(wire.url.render_as_string(hide_password=False)) as sessions,
        ):
            count(sessions)
            setattr(wire, cut, True)
            with pytest.raises(CommitUnknown, match="whether the change was made is not known"):
                sessions.write(add_one)

        time.sleep(0.2)  # the server commits what it was sent, though nobody hears of it
        assert count(registry) == was_made

    @pytest.mark.slow
    def test_a_writer_that_stops_within_its_transaction_cannot_keep_others_out(self, registry: Sessions) -> None:
        """Such as a process that is paused; a lock that outlived it would bar the button, too."""
        stopped, resumed = threading.Event(), threading.Event()

        def stop_half_way() -> None:
            with registry.writing() as session:
                add_one(session)
                stopped.set()
                resumed.wait(timeout=60)

        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(stop_half_way)
            stopped.wait(timeout=10)
            started = time.monotonic()
            registry.write(add_one)
            waited = time.monotonic() - started
            resumed.set()
            with pytest.raises(RegistryUnavailable):
                first.result(timeout=10)

        assert waited < 9
        assert count(registry) == 1


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    path = tmp_path / "registry.db"
    engine = make_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path


def test_a_writer_waits_for_the_one_before_it_on_sqlite(sqlite_path: Path) -> None:
    with at_url(f"sqlite:///{sqlite_path}") as sessions, ThreadPoolExecutor(1) as pool:
        make_surfaces(sessions)
        other = sqlite3.connect(sqlite_path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = pool.submit(sessions.write, add_one)
        time.sleep(0.3)
        assert not waiting.done()
        other.execute("ROLLBACK")
        other.close()
        waiting.result(timeout=20)

        assert count(sessions) == 1


def test_a_file_that_another_keeps_locked_is_told_and_nothing_is_changed(sqlite_path: Path) -> None:
    with at_url(f"sqlite:///{sqlite_path}") as sessions:
        make_surfaces(sessions)
        sessions.engine.dispose()
        event.listen(sessions.engine, "connect", wait_briefly)
        other = sqlite3.connect(sqlite_path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(RegistryUnavailable, match=r"locked|holds its write lock"):
            sessions.write(add_one)

        other.execute("ROLLBACK")
        other.close()
        assert count(sessions) == 0


def wait_briefly(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    connection.execute("PRAGMA busy_timeout = 100")


def take_all_connections(server: OwnServer, stack: ExitStack) -> None:
    engine = create_engine(server.url, poolclass=NullPool)
    for _ in range(MAX_CONNECTIONS):
        stack.enter_context(engine.connect())
