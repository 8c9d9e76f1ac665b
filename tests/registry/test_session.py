import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import ConnectionPoolEntry

from control_plane.domain.errors import RegistryFull, RegistryUnavailable
from control_plane.domain.rollout import Phase
from control_plane.registry import history, rollouts, stables, surfaces
from control_plane.registry.session import Sessions, at_head, make_engine, upgrade
from control_plane.registry.tables import RuntimeRow
from tests.builders import HOME_FEED, NOON, VIEW_TYPES, a_version
from tests.registry import scene
from tests.registry.scene import SEARCH


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'data' / 'registry.db'}"


def test_sqlite_survives_a_power_cut_and_keeps_foreign_keys(sqlite_url: str) -> None:
    engine = make_engine(sqlite_url)
    with engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    engine.dispose()

    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


def test_a_reader_sees_one_moment_while_a_writer_goes_on(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)

    with sessions.reading() as reader:
        before = surfaces.list_surfaces(reader)
        with sessions.writing() as writer:
            stables.create_surface(writer, SEARCH, VIEW_TYPES, by="ada", now=NOON)
        assert surfaces.list_surfaces(reader) == before

    with sessions.reading() as reader:
        assert len(surfaces.list_surfaces(reader)) == 2


def test_an_error_on_the_way_leaves_nothing_behind(sessions: Sessions) -> None:
    def fail_half_way() -> None:
        with sessions.writing() as session:
            stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()

    with sessions.reading() as session:
        assert surfaces.list_surfaces(session) == []


def test_moments_come_back_in_utc_from_any_zone(sessions: Sessions) -> None:
    berlin = timezone(timedelta(hours=1))
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON.astimezone(berlin))

    with sessions.reading() as session:
        changed_at = surfaces.get(session, HOME_FEED).changed_at

    assert changed_at == NOON
    assert changed_at.tzinfo is UTC


def test_a_naive_moment_is_a_bug_and_says_so(sessions: Sessions) -> None:
    with pytest.raises(Exception, match="naive"), sessions.writing() as session:
        session.scalar(select(RuntimeRow).where(RuntimeRow.seen_at >= datetime(2026, 3, 3)))  # noqa: DTZ001


def test_a_bug_of_ours_is_not_told_as_an_outage(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)

    with pytest.raises(IntegrityError), sessions.writing() as session:
        session.execute(text("UPDATE surface SET candidate_bp = 10001"))


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_half_written(sqlite_url: str) -> None:
    engine = make_engine(sqlite_url)
    upgrade(engine)
    sessions = Sessions(engine)
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session)
        before = surfaces.get(session, HOME_FEED)
    engine.dispose()
    event.listen(engine, "connect", allow_no_more_pages)

    def write_until_full() -> None:
        with sessions.writing() as session:
            scene.walk(session, rollout_id, until=Phase.RAMPING)
            for number in range(1_000):
                scene.registered(session, a_version(f"version {number}"))

    with pytest.raises(RegistryFull, match="full"):
        write_until_full()

    with sessions.reading() as session:
        assert surfaces.get(session, HOME_FEED) == before
        assert rollouts.get(session, rollout_id).phase is Phase.PENDING
        assert history.verify(session) == []
    engine.dispose()


def allow_no_more_pages(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")


def test_a_read_only_file_is_a_clear_error(sqlite_url: str) -> None:
    engine = make_engine(sqlite_url)
    upgrade(engine)
    engine.dispose()
    read_only = make_engine(sqlite_url.replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true")

    with pytest.raises(RegistryUnavailable, match="readonly"), Sessions(read_only).writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)

    read_only.dispose()


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_text("these are my holiday notes, dear diary " * 50)
    engine = make_engine(f"sqlite:///{path}")

    with pytest.raises(RegistryUnavailable, match="not a database"):
        upgrade(engine)

    engine.dispose()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(RegistryUnavailable, match="cannot make its folder"):
        make_engine(f"sqlite:///{tmp_path / 'file' / 'registry.db'}")


def test_a_server_that_does_not_answer_is_a_clear_error_without_the_password() -> None:
    engine = make_engine("postgresql+psycopg://surefoot:hunter2@127.0.0.1:1/surefoot")

    with pytest.raises(RegistryUnavailable) as refusal, Sessions(engine).reading() as session:
        surfaces.list_surfaces(session)

    assert "hunter2" not in str(refusal.value)
    assert "127.0.0.1:1" in str(refusal.value)


def test_a_file_that_was_never_migrated_is_not_at_head(sqlite_url: str) -> None:
    engine = make_engine(sqlite_url)

    assert not at_head(engine)

    engine.dispose()
