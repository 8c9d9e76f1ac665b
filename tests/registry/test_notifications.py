"""Word between replicas, on a real PostgreSQL; on SQLite there is none, and nothing is broken by it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from control_plane.registry.notifications import Listener, notify
from control_plane.registry.session import Sessions, make_engine
from tests.postgres import PostgresCluster

PATIENCE_SECONDS = 20.0


@pytest.fixture
def postgresql(postgres: PostgresCluster) -> Iterator[Sessions]:
    engine = make_engine(postgres.registry())
    yield Sessions(engine)
    engine.dispose()


@contextmanager
def listening(sessions: Sessions) -> Iterator[threading.Event]:
    """What is set at each waking; once the listener listens."""
    woken = threading.Event()
    listener = Listener(sessions, woken.set)
    listener.start()
    try:
        eventually(lambda: listener.is_listening)
        woken.clear()
        yield woken
    finally:
        listener.stop()


def eventually(is_so: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < give_up_at, "it did not come about in time"
        time.sleep(0.01)


@pytest.mark.postgres
def test_a_committed_word_wakes_and_one_that_was_rolled_back_does_not(postgresql: Sessions) -> None:
    def fail() -> None:
        with postgresql.writing() as session:
            notify(session)
            raise ZeroDivisionError

    with listening(postgresql) as woken:
        with pytest.raises(ZeroDivisionError):
            fail()
        assert not woken.wait(1.0)

        with postgresql.writing() as session:
            notify(session)
            assert not woken.wait(0.2), "not before it is committed"

        assert woken.wait(PATIENCE_SECONDS)


@pytest.mark.postgres
def test_a_listener_whose_connection_ended_wakes_whoever_may_have_missed_something_and_listens_again(
    postgresql: Sessions,
) -> None:
    with listening(postgresql) as woken:
        with postgresql.writing() as session:
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            assert session.execute(text(ended)).all()

        assert woken.wait(PATIENCE_SECONDS)
        woken.clear()
        with postgresql.writing() as session:
            notify(session)
        assert woken.wait(PATIENCE_SECONDS)


@pytest.mark.postgres
def test_a_listener_takes_no_connection_of_the_pool(postgresql: Sessions) -> None:
    with listening(postgresql):
        assert postgresql.engine.pool.status().count("Current Checked out connections: 0") == 1


def test_where_the_database_carries_no_word_nobody_listens(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    sessions = Sessions(engine)
    listener = Listener(sessions, lambda: None)

    listener.start()
    with sessions.writing() as session:
        notify(session)

    assert not listener.is_listening
    listener.stop()
    engine.dispose()
