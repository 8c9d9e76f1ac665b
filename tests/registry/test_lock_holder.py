"""A process that stands still within a transaction on SQLite: nobody else writes, and all are told who it is."""

import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.pool import ConnectionPoolEntry

from control_plane.domain.errors import RegistryLocked
from control_plane.registry import lock_holder, stables, surfaces
from control_plane.registry.session import Sessions, make_engine, upgrade
from tests.builders import HOME_FEED, NOON, VIEW_TYPES
from tests.stopped_writer import stopped_writer

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: locks are read from /proc")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.fixture
def impatient(database: Path) -> Iterator[Sessions]:
    """Waits for a fifth of a second where the real one waits for ten."""
    engine = make_engine(f"sqlite:///{database}")
    upgrade(engine)
    engine.dispose()
    event.listen(engine, "connect", wait_less)
    yield Sessions(engine)
    engine.dispose()


def wait_less(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    connection.execute("PRAGMA busy_timeout = 200")


def made(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)


def test_writers_are_told_which_process_is_stopped_and_readers_go_on(impatient: Sessions, database: Path) -> None:
    made(impatient)

    with stopped_writer(database) as pid:
        with pytest.raises(RegistryLocked) as refused, impatient.writing():
            pass
        with impatient.reading() as session:
            assert [state.surface for state in surfaces.list_surfaces(session)] == [HOME_FEED]

    assert f"process {pid} holds its write lock and is stopped: `kill -CONT {pid}` resumes it" in str(refused.value)
    assert str(refused.value).endswith("nothing was changed")


def test_killing_the_process_that_is_stopped_frees_the_lock_and_undoes_what_it_began(
    impatient: Sessions, database: Path
) -> None:
    made(impatient)
    with stopped_writer(database):
        pass

    with impatient.writing() as session:
        assert [state.surface for state in surfaces.list_surfaces(session)] == [HOME_FEED]


def test_a_holder_that_runs_is_named_as_one_that_may_hang(impatient: Sessions, database: Path) -> None:
    with stopped_writer(database) as pid:
        os.kill(pid, signal.SIGCONT)
        while lock_holder.is_stopped(pid):
            pass

        assert lock_holder.held_by(database).startswith(f"process {pid} holds its write lock; if it hangs")


def test_where_no_process_is_told_the_message_says_what_to_look_for(tmp_path: Path) -> None:
    assert lock_holder.holder(tmp_path / "none.db") is None
    assert "if that is stopped within a transaction, resume it" in lock_holder.held_by(tmp_path / "none.db")


def test_nobody_holds_the_lock_of_a_registry_at_rest(impatient: Sessions, database: Path) -> None:
    made(impatient)

    with impatient.reading():
        assert lock_holder.holder(database) is None
