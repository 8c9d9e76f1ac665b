"""Engines, sessions and the schema's revision. A session is one transaction.

What can be repeated without harm is: a transaction that has not begun, and, where the work is given as a function, one
that is known not to have been committed. A commit whose answer was lost is told as `CommitUnknown`, never repeated.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

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
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

import migrations
from control_plane import failpoints
from control_plane.domain.errors import (
    CommitUnknown,
    InvalidField,
    RegistryFull,
    RegistryLocked,
    RegistryUnavailable,
    TransactionConflict,
)
from control_plane.registry import lock_holder

BUSY_TIMEOUT_MS = 10_000  # SQLite: how long a writer waits for the one before; a change takes milliseconds
MIGRATION_LOCK = 0x5F00  # PostgreSQL: advisory lock, so that replicas starting together migrate once
BEGIN_PATIENCE_SECONDS = {"reading": 0.5, "writing": 5.0}  # a server that restarts, or has no connection left just now
CONFLICT_ATTEMPTS = 5
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.02, 0.5
CONFLICTS = ("40001", "40P01", "55P03")  # PostgreSQL: not serialisable, deadlock, lock not had in time
ENDED_WHILE_IDLE = "25P03"  # PostgreSQL: the server rolled back, having waited too long for the next statement
# A server or network that went away silently is noticed within about ten seconds, not after TCP's quarter of an hour.
POSTGRESQL_CONNECT = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# A process that is stopped within a transaction holds its locks: the server ends it, so that others get on. And nobody
# waits for a lock for longer than a person would.
POSTGRESQL_BEGIN_WRITING = "SET LOCAL idle_in_transaction_session_timeout = '5s'; SET LOCAL lock_timeout = '10s'"
FULL = ("disk is full", "No space left on device")  # in the words of SQLite and of PostgreSQL
OUR_OWN_BUGS = (DataError, IntegrityError, ProgrammingError, NotSupportedError)  # told as they are, not as an outage
LOCKED = "database is locked"  # in SQLite's words
UNKNOWN_ON_SQLITE = "disk I/O error"  # of a commit: what reached the disk may be found there after a crash

Result = TypeVar("Result")


def make_engine(url: str) -> Engine:
    """An engine for `sqlite:///…` or `postgresql+psycopg://…`; connects to nothing yet."""
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite":
        unless_told = {name: value for name, value in POSTGRESQL_CONNECT.items() if name not in parsed.query}
        return create_engine(parsed, pool_pre_ping=True, connect_args=unless_told)
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
        self._turn = threading.Lock() if is_sqlite else None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A snapshot: everything read in it is of one moment."""
        with _database_trouble(self.engine), self._reading() as session:
            self._begin(session, "reading")
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Commits at the end; an error on the way leaves nothing behind.

        Raises:
            CommitUnknown: the connection was lost while the database committed.
            RegistryUnavailable: any other trouble; nothing was changed. `TransactionConflict` where it may be repeated.
        """
        with self._in_turn(), _database_trouble(self.engine), self._writing() as session:
            self._begin(session, "writing")
            yield session
            failpoints.reach("transaction.before_commit")
            self._commit(session)
        failpoints.reach("transaction.committed")

    def write(self, work: Callable[[Session], Result]) -> Result:
        """Do `work` in a writing session, again from the start where it is known that nothing was committed.

        That is after a deadlock or another conflict, and after a connection that was lost before the commit. `work`
        must change nothing but through its session.
        """
        attempts_left = CONFLICT_ATTEMPTS
        while True:
            attempts_left -= 1
            try:
                with self.writing() as session:
                    return work(session)
            except TransactionConflict:
                if attempts_left == 0:
                    raise
                time.sleep(_wait_seconds(CONFLICT_ATTEMPTS - attempts_left))

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """SQLite has one writer, and whoever finds it busy sleeps for up to a tenth of a second: ours wait here."""
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=BUSY_TIMEOUT_MS / 1_000):
            raise _locked(self.engine)
        try:
            yield
        finally:
            self._turn.release()

    def _begin(self, session: Session, purpose: str) -> None:
        """Nothing has been done yet, so what fails here is tried again for a while."""
        give_up_at = time.monotonic() + BEGIN_PATIENCE_SECONDS[purpose]
        attempt = 0
        while True:
            try:
                connection = session.connection()
                if purpose == "writing" and connection.dialect.name == "postgresql":
                    connection.exec_driver_sql(POSTGRESQL_BEGIN_WRITING)
                return
            except OperationalError as error:
                session.rollback()
                attempt += 1
                wait = _wait_seconds(attempt)
                if not _may_pass(error) or time.monotonic() + wait > give_up_at:
                    raise
                time.sleep(wait)

    def _commit(self, session: Session) -> None:
        """What the database refuses was not committed; where no answer came, nobody here knows."""
        session.flush()
        try:
            session.commit()
        except DBAPIError as error:
            is_lost = error.connection_invalidated and _sqlstate(error) != ENDED_WHILE_IDLE
            if is_lost or UNKNOWN_ON_SQLITE in str(error.orig):
                raise CommitUnknown(_shown(self.engine), _problem(error)) from error
            raise


def upgrade(engine: Engine, revision: str = "head") -> None:
    with _migrating(engine) as config:
        command.upgrade(config, revision)


def downgrade(engine: Engine, revision: str) -> None:
    with _migrating(engine) as config:
        command.downgrade(config, revision)


@contextmanager
def rebuilt(engine: Engine, revision: str) -> Iterator[Connection]:
    """An empty schema of a revision in place of what is there, in one transaction with what the caller writes.

    Raises:
        sqlalchemy errors of what is in the way, as they are: tables that are not ours, for example.
    """
    with _migrating(engine) as config:
        command.downgrade(config, "base")
        command.upgrade(config, revision)
        yield config.attributes["connection"]


def vacuum(engine: Engine) -> None:
    """Give the room of rows that went back to the disk; on SQLite writers wait for it."""
    with _database_trouble(engine), engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        if engine.dialect.name == "postgresql":
            driver.autocommit = True
        driver.execute("VACUUM")
        connection.invalidate()


def revision_of(engine: Engine) -> str | None:
    """The schema's revision; None where there is no schema of ours."""
    with _database_trouble(engine), engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def knows_revision(revision: str) -> bool:
    return revision in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


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
        url, problem = _shown(engine), _problem(error)
        if LOCKED in problem:
            raise _locked(engine) from error
        if any(words in problem for words in FULL):
            raise RegistryFull(url) from error
        if isinstance(error, DBAPIError) and (error.connection_invalidated or _sqlstate(error) in CONFLICTS):
            raise TransactionConflict(url, problem) from error
        raise RegistryUnavailable(url, problem) from error


def _locked(engine: Engine) -> RegistryLocked:
    """After `BUSY_TIMEOUT_MS`: whoever it is, it does not only write."""
    return RegistryLocked(_shown(engine), lock_holder.held_by(Path(engine.url.database or "")))


def _may_pass(error: OperationalError) -> bool:
    """Whether a server that cannot be reached, or had no connection left, may take us in a moment.

    SQLite has waited for `BUSY_TIMEOUT_MS` by itself, and a file that cannot be opened stays so.
    """
    return type(error.orig).__module__.startswith("psycopg")


def _wait_seconds(attempt: int) -> float:
    """Doubling waits with jitter, so that two that met do not meet again in step."""
    return min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**attempt) * random.uniform(0.5, 1.0)


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _shown(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


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
