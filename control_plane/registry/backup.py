"""Backups while writers write: a folder that is there whole or not at all, with a digest of what it holds."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import cast

from sqlalchemy import Connection, Engine

from control_plane.domain.errors import BackupFailed, RegistryUnavailable
from control_plane.registry import pg_tools, table_rows
from control_plane.registry.code_version import CODE_VERSION
from control_plane.registry.manifest_file import MANIFEST, Format, Manifest, file_digest
from control_plane.registry.session import revision_of
from control_plane.registry.tables import canonical_json
from control_plane.registry.whole_files import sync_folder

PAGES_AT_ONCE = 512  # between two words of progress

OnProgress = Callable[[int, int], None]


class Kind(StrEnum):
    """`NATIVE` is the database's own copy, which restores fastest; `PORTABLE` restores on either database."""

    AUTO = "auto"
    NATIVE = "native"
    PORTABLE = "portable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Backup:
    """What was written, and in words why it was not written otherwise."""

    manifest: Manifest
    note: str = ""


def back_up(
    engine: Engine,
    folder: Path,
    *,
    kind: Kind = Kind.AUTO,
    now: datetime,
    on_progress: OnProgress = lambda done, of: None,
) -> Backup:
    """Write one moment of the registry into a new folder.

    Raises:
        BackupFailed: the folder exists, the disk is full, or the kind is not to be had here; nothing is left.
        RegistryUnavailable: there is no registry to back up.
    """
    revision = revision_of(engine)
    if revision is None:
        raise RegistryUnavailable(engine.url.render_as_string(hide_password=True), "there is no registry in it")
    form, note = _form(engine, kind, folder)
    with _trouble(folder), _new_folder(folder) as partial:
        path = partial / form.file_name
        rows = _write(engine, form, path, revision, on_progress)
        _sync(path)
        manifest = Manifest(
            format=form,
            sha256=file_digest(path),
            bytes=path.stat().st_size,
            revision=revision,
            made_at=now,
            code_version=CODE_VERSION,
            rows=rows,
        )
        (partial / MANIFEST).write_text(canonical_json(asdict(manifest) | {"made_at": now.isoformat()}) + "\n")
        _sync(partial / MANIFEST)
    return Backup(manifest=manifest, note=note)


def _form(engine: Engine, kind: Kind, folder: Path) -> tuple[Format, str]:
    if kind is Kind.PORTABLE:
        return Format.PORTABLE, ""
    if engine.dialect.name == "sqlite":
        return Format.SQLITE, ""
    lacking = pg_tools.lacking(engine, "pg_dump")
    if not lacking:
        return Format.PG_DUMP, ""
    if kind is Kind.NATIVE:
        raise BackupFailed(str(folder), lacking)
    return Format.PORTABLE, f"{lacking}; rows were copied instead"


def _write(engine: Engine, form: Format, path: Path, revision: str, on_progress: OnProgress) -> dict[str, int]:
    """Copy one moment; return how many rows of each table it holds."""
    with _one_moment(engine) as connection:
        rows = table_rows.counts(connection)
        match form:
            case Format.SQLITE:
                _copy_sqlite(connection, path, on_progress)
            case Format.PG_DUMP:
                pg_tools.dump(connection, path)
            case Format.PORTABLE:
                with path.open("wb") as file:
                    table_rows.save(file, revision, _counted(connection, sum(rows.values()), on_progress))
    return rows


@contextmanager
def _one_moment(engine: Engine) -> Iterator[Connection]:
    """A read transaction whose snapshot stays while others write."""
    snapshot = {} if engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    with engine.execution_options(**snapshot).connect() as connection, connection.begin():
        yield connection


def _copy_sqlite(connection: Connection, path: Path, on_progress: OnProgress) -> None:
    """Through SQLite's own backup. The open transaction keeps it at one moment: without, every write begins it anew."""
    source = cast(sqlite3.Connection, connection.connection.driver_connection)
    target = sqlite3.connect(path)
    try:
        source.backup(target, pages=PAGES_AT_ONCE, progress=lambda _, left, of: on_progress(of - left, of))
        target.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        problems = [row[0] for row in target.execute("PRAGMA quick_check(5)")]
    finally:
        target.close()
    if problems != ["ok"]:
        raise BackupFailed(str(path.parent), f"the registry's file is damaged: {'; '.join(problems)}")


def _counted(connection: Connection, of: int, on_progress: OnProgress) -> Iterator[table_rows.Row]:
    for number, row in enumerate(table_rows.read(connection), start=1):
        yield row
        on_progress(number, of)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder that takes its name once everything in it is on the disk."""
    if folder.exists():
        raise BackupFailed(str(folder), "exists already")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        sync_folder(partial)
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _trouble(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackupFailed(str(folder), error.strerror or str(error)) from error
    except sqlite3.Error as error:
        raise BackupFailed(str(folder), str(error)) from error
