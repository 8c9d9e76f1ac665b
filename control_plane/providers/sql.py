"""A SQL database: one SELECT in a transaction that may only read, one row, one number."""

import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from control_plane.domain.queries import Language, broken_rule, language_of, sql_names
from control_plane.providers.contract import Ask, Sample, Subject, TooSlow, Unanswered, Unreachable

CONNECT_SECONDS = 2  # PostgreSQL: its client knows whole seconds, from 2
EARLY_SECONDS = 0.05  # by so much a database's clock may end a query before ours would
MAX_VALUE_BYTES = 1_000_000  # SQLite: no string or blob may grow longer
SQLITE_OPERATIONS = 10_000  # of its virtual machine, between two looks at the clock: well below a millisecond


class SqlDatabase:
    """Every question has its own connection, so that nothing it sets or locks outlives it.

    PostgreSQL and SQLite let the query only read and stop it when its time is up. Others are asked in a transaction
    that is rolled back; there, what else a query may do is up to the rights of the user in the URL.
    """

    def __init__(self, url: URL) -> None:
        if url.get_backend_name() == "sqlite":
            connect = partial(_open_sqlite, Path(url.database or ""))
            self._engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
        elif url.get_backend_name() == "postgresql":
            connect_args = {"connect_timeout": CONNECT_SECONDS, "application_name": "surefoot"}
            self._engine = create_engine(url, poolclass=NullPool, connect_args=connect_args)
        else:
            self._engine = create_engine(url, poolclass=NullPool)

    def shown(self, query: str, subject: Subject) -> str:
        """The text and, as a comment, what its names are bound to."""
        if language_of(query) is not Language.SQL:
            raise Unanswered("this source takes SQL: one query that begins with SELECT or WITH")
        if rule := broken_rule(query):
            raise Unanswered(f"the query {rule}")
        bound = "".join(f"\n-- :{name} = {value}" for name, value in self._parameters(query, subject).items())
        return query + bound

    @contextmanager
    def opened(self) -> Iterator[Ask]:
        yield self._sample

    def _sample(self, query: str, subject: Subject, *, seconds: float) -> Sample:
        deadline = time.monotonic() + seconds
        self.shown(query, subject)
        try:
            connection = self._engine.connect()
        except Exception as error:
            raise Unreachable(f"cannot be opened: {_words(error)}") from None
        with connection:
            try:
                columns, rows = _rows(connection, query, self._parameters(query, subject), deadline)
            except Exception as error:
                raise _problem(error, is_late=time.monotonic() > deadline - EARLY_SECONDS, seconds=seconds) from None
        return _sample_of(columns, rows)

    def _parameters(self, query: str, subject: Subject) -> dict[str, object]:
        """Times as SQLite's own functions write them, elsewhere with their time zone."""
        is_sqlite = self._engine.dialect.name == "sqlite"
        values: dict[str, object] = {
            "surface": subject.surface,
            "candidate": subject.candidate,
            "stable": subject.stable,
            "generation": subject.generation,
            "since": f"{subject.since.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if is_sqlite else subject.since,
            "now": f"{subject.now.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if is_sqlite else subject.now,
        }
        return {name: values[name] for name in sql_names(query)}


def _open_sqlite(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=1.0)
    connection.execute("PRAGMA query_only = ON")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    return connection


def _rows(
    connection: Connection, query: str, parameters: Mapping[str, object], deadline: float
) -> tuple[list[str], Sequence[Sequence[Any]]]:
    """Names of the columns, and one row or two: however many there are, no more are fetched."""
    _restrain(connection, deadline)
    statement = text(query.rstrip().removesuffix(";"))
    streaming = connection.execution_options(stream_results=True, max_row_buffer=2)
    with closing(streaming.execute(statement, dict(parameters))) as result:
        return list(result.keys()), result.fetchmany(2)


def _restrain(connection: Connection, deadline: float) -> None:
    match connection.dialect.name:
        case "postgresql":
            left_ms = max(1, round((deadline - time.monotonic()) * 1_000))
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {left_ms}")
        case "sqlite":
            driver: Any = connection.connection.driver_connection
            driver.set_progress_handler(lambda: time.monotonic() >= deadline, SQLITE_OPERATIONS)


def _problem(error: Exception, *, is_late: bool, seconds: float) -> Unanswered:
    if is_late:
        return TooSlow(f"no answer within {seconds:.1f} s")
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Unreachable(f"went away: {_words(error)}")
    return Unanswered(_words(error))


def _words(error: Exception) -> str:
    """The database's own words, without the statement and its parameters."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return str(said).strip() or type(said).__name__


def _sample_of(columns: list[str], rows: Sequence[Sequence[Any]]) -> Sample:
    if not rows:
        return Sample(value=None, note="no row")
    if len(rows) > 1:
        raise Unanswered("more than one row; aggregate, or LIMIT 1")
    by_name = {name.lower(): value for name, value in zip(columns, rows[0], strict=True)}
    value = _number(by_name.get("value", rows[0][0]))
    if value is None:
        return Sample(value=None, note="the value is NULL")
    return Sample(value=value, at=_unix_seconds(by_name["at"]) if "at" in by_name else None)


def _number(value: object) -> float | None:
    match value:
        case None:
            return None
        case bool():
            raise Unanswered(f"the value is {value}, not a number")
        case float():
            return value
        case int():
            return float(value) if abs(value) < 1e308 else math.copysign(math.inf, value)
        case Decimal():
            return math.nan if value.is_nan() else float(value)
        case _:
            raise Unanswered(f"the value is {str(value)[:100]!r} ({type(value).__name__}), not a number")


def _unix_seconds(value: object) -> float:
    moment = _parsed(value) if isinstance(value, str) else value
    if isinstance(moment, datetime):
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    seconds = _number(moment)
    if seconds is None:
        raise Unanswered("the column 'at' is NULL, so that nobody knows how old the value is")
    return seconds


def _parsed(moment: str) -> datetime:
    """SQLite has no type for times: its functions write them as text."""
    try:
        return datetime.fromisoformat(moment)
    except ValueError:
        raise Unanswered(f"the column 'at' is {moment[:100]!r}, neither unix seconds nor a time") from None
