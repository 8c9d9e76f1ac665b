"""Engines, sessions and the schema's revision. A session is one transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

import migrations
from control_plane.domain.errors import InvalidField, RegistryFull, RegistryUnavailable

BUSY_TIMEOUT_MS = 10_000  # SQLite: how long a writer waits for the one before; a change takes milliseconds
MIGRATION_LOCK = 0x5F00  # PostgreSQL: advisory lock, so that replicas starting together migrate once
FULL = ("disk is full", "No space left on device")  # in the words of SQLite and of PostgreSQL
OUR_OWN_BUGS = (DataError, IntegrityError, ProgrammingError, NotSupportedError)  # told as they are, not as an outage


def make_engine(url: str) -> Engine:
    """An engine for `sqlite:///…` or `postgresql+psycopg://…`; connects to nothing yet."""
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.database and not parsed.database.startswith((":memory:", "file:")):
        _make_folder(Path(parsed.database).parent, shown_url=parsed.render_as_string(hide_password=True))
    engine = create_engine(parsed)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


class Sessions:
    """Opens sessions; database trouble inside one comes out as `RegistryUnavailable`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        is_sqlite = engine.dialect.name == "sqlite"
        snapshot = {} if is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._reading = sessionmaker(engine.execution_options(**snapshot))
        self._writing = sessionmaker(engine.execution_options(takes_write_lock=True))

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A snapshot: everything read in it is of one moment."""
        with _database_trouble(self.engine), self._reading() as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Commits at the end; an error on the way leaves nothing behind."""
        with _database_trouble(self.engine), self._writing.begin() as session:
            yield session


def upgrade(engine: Engine, revision: str = "head") -> None:
    with _migrating(engine) as config:
        command.upgrade(config, revision)


def downgrade(engine: Engine, revision: str) -> None:
    with _migrating(engine) as config:
        command.downgrade(config, revision)


def at_head(engine: Engine) -> bool:
    heads = ScriptDirectory.from_config(_config()).get_heads()
    with _database_trouble(engine), engine.connect() as connection:
        return set(MigrationContext.configure(connection).get_current_heads()) == set(heads)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidField(
            "SUREFOOT_DATABASE_URL", "must be a URL like sqlite:///… or postgresql+psycopg://…"
        ) from None
    if parsed.drivername == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise InvalidField("SUREFOOT_DATABASE_URL", f"must name sqlite or postgresql+psycopg, not {parsed.drivername}")
    return parsed


def _make_folder(folder: Path, *, shown_url: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RegistryUnavailable(shown_url, f"cannot make its folder: {error.strerror}") from error


def _set_up_sqlite(connection: object, _record: ConnectionPoolEntry) -> None:
    """Take transaction control from the driver: it would begin too late, and never IMMEDIATE."""
    connection.isolation_level = None  # type: ignore[attr-defined]  # the driver's connection is typed as object
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for setting in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the lock at once: a reader that wants to write later may find that it cannot."""
    takes_lock = connection.get_execution_options().get("takes_write_lock", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if takes_lock else "BEGIN")


@contextmanager
def _database_trouble(engine: Engine) -> Iterator[None]:
    try:
        yield
    except OUR_OWN_BUGS:
        raise
    except (DatabaseError, InterfaceError, PoolTimeout) as error:
        url, problem = engine.url.render_as_string(hide_password=True), _problem(error)
        if any(words in problem for words in FULL):
            raise RegistryFull(url) from error
        raise RegistryUnavailable(url, problem) from error


def _problem(error: SQLAlchemyError) -> str:
    """The database's own first line, without the statement that met the problem."""
    said = str(error.orig if isinstance(error, DBAPIError) else error).strip()
    return said.splitlines()[0] if said else type(error).__name__


@contextmanager
def _migrating(engine: Engine) -> Iterator[Config]:
    """One transaction around all revisions: an upgrade that fails leaves the schema as it was."""
    with (
        _database_trouble(engine),
        engine.execution_options(takes_write_lock=True).begin() as connection,
    ):
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        config = _config()
        config.attributes["connection"] = connection
        yield config


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(str(migrations.__file__)).parent))
    config.set_main_option("path_separator", "os")
    return config
