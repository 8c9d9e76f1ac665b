"""A backup back into a registry: whole or not at all, and never over what is there unless told."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

from sqlalchemy import Connection, Engine, update

from control_plane.domain.errors import BackupFailed, InvalidBackup, RegistryFull, RegistryUnavailable, TargetNotEmpty
from control_plane.registry import pg_tools, table_rows
from control_plane.registry.manifest_file import Format, Manifest, read_manifest
from control_plane.registry.session import (
    FULL,
    Sessions,
    downgrade,
    knows_revision,
    make_engine,
    rebuilt,
    revision_of,
    upgrade,
)
from control_plane.registry.tables import LeaseRow

PAGES_AT_ONCE = 512
LOCKED_SECONDS = 10.0  # without a page written: another process holds the file
EPOCHS_SKIPPED = 10_000  # more takeovers than any scheduler slept through, so that none finds its epoch current again
HOLDER = "restored"

OnProgress = Callable[[int, int], None]


def restore(
    engine: Engine, folder: Path, *, replace: bool = False, on_progress: OnProgress = lambda done, of: None
) -> Manifest:
    """Put a backup into a registry, bring it to the present revision, and fence every scheduler of before.

    Raises:
        InvalidBackup: damaged, of a revision that this version does not know, or of a kind that does not fit here.
        TargetNotEmpty: and `replace` was not given.
        RegistryUnavailable, RegistryFull.
    """
    manifest = read_manifest(folder)
    if not knows_revision(manifest.revision):
        raise InvalidBackup(str(folder), f"is of revision {manifest.revision}, which this version does not know")
    if manifest.format is Format.PG_DUMP and engine.dialect.name != "postgresql":
        raise InvalidBackup(str(folder), "was made with pg_dump and needs PostgreSQL; `--portable` ones go anywhere")
    _check_empty(engine, replace=replace)
    path = folder / manifest.format.file_name
    match manifest.format:
        case Format.SQLITE if engine.dialect.name == "sqlite":
            _copy_sqlite(engine, path, on_progress)
        case Format.SQLITE:
            _copy_rows(engine, manifest, _rows_of_sqlite(path), on_progress)
        case Format.PORTABLE:
            _copy_rows(engine, manifest, lambda connection: table_rows.load(path, connection), on_progress)
        case Format.PG_DUMP:
            _pg_restore(engine, path, manifest.revision)
    upgrade(engine)
    _fence(engine)
    return manifest


def _check_empty(engine: Engine, *, replace: bool) -> None:
    with _plainly(engine), engine.connect() as connection:
        rows = sum(table_rows.counts(connection).values())
    if rows and not replace:
        raise TargetNotEmpty(engine.url.render_as_string(hide_password=True), rows=rows)
    if rows and revision_of(engine) is None:
        raise RegistryUnavailable(
            engine.url.render_as_string(hide_password=True), f"holds {rows} rows that are no registry's"
        )


def _copy_sqlite(engine: Engine, path: Path, on_progress: OnProgress) -> None:
    """Page by page, in one transaction of the target: readers see what was until all of it is there."""
    moved_at = [time.monotonic(), -1.0]

    def moved(_: int, left: int, of: int) -> None:
        if left != moved_at[1]:
            moved_at[:] = [time.monotonic(), left]
        elif time.monotonic() - moved_at[0] > LOCKED_SECONDS:
            raise RegistryUnavailable(engine.url.render_as_string(hide_password=True), "another process holds it")
        on_progress(of - left, of)

    raw = engine.raw_connection()
    try:
        with _plainly(engine), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source:
            target = cast(sqlite3.Connection, raw.driver_connection)
            source.backup(target, pages=PAGES_AT_ONCE, progress=moved)
            target.execute("PRAGMA journal_mode = WAL")
    finally:
        raw.close()
        engine.dispose()


def _rows_of_sqlite(path: Path) -> Callable[[Connection], Iterator[table_rows.Row]]:
    def rows(_: Connection) -> Iterator[table_rows.Row]:
        source = make_engine(f"sqlite:///file:{path}?mode=ro&immutable=1&uri=true")
        with source.connect() as connection:
            yield from table_rows.read(connection)
        source.dispose()

    return rows


def _copy_rows(
    engine: Engine,
    manifest: Manifest,
    rows: Callable[[Connection], Iterator[table_rows.Row]],
    on_progress: OnProgress,
) -> None:
    of = sum(manifest.rows.values())

    def counted(connection: Connection) -> Iterator[table_rows.Row]:
        for number, row in enumerate(rows(connection), start=1):
            yield row
            on_progress(number, of)

    with rebuilt(engine, manifest.revision) as connection:
        table_rows.write(connection, counted(connection))
        found = {table: count for table, count in table_rows.counts(connection).items() if count}
        if found != {table: count for table, count in manifest.rows.items() if count}:
            raise InvalidBackup(manifest.format.file_name, "does not hold the rows that its manifest names")


def _pg_restore(engine: Engine, path: Path, revision: str) -> None:
    """It drops what the backup names, so what is there must not have more tables than that."""
    if lacking := pg_tools.lacking(engine, "pg_restore"):
        raise InvalidBackup(str(path.parent), lacking)
    if revision_of(engine) not in (None, revision):
        upgrade(engine)
        downgrade(engine, revision)
    try:
        pg_tools.restore(engine, path)
    except BackupFailed as error:
        raise InvalidBackup(str(path.parent), error.problem) from error


def _fence(engine: Engine) -> None:
    with Sessions(engine).writing() as session:
        session.execute(update(LeaseRow).values(epoch=LeaseRow.epoch + EPOCHS_SKIPPED, holder=HOLDER, expires_at_ms=0))


@contextmanager
def _plainly(engine: Engine) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if any(words in str(error) for words in FULL):
            raise RegistryFull(engine.url.render_as_string(hide_password=True)) from error
        raise RegistryUnavailable(engine.url.render_as_string(hide_password=True), str(error)) from error
