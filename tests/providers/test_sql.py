"""Questions to SQLite, and the same to a real PostgreSQL."""

import sqlite3
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from control_plane.domain.readings import ReadingOutcome
from control_plane.providers.sources import MAX_AT_ONCE, Source, make_sources
from tests.builders import CANDIDATE, NOON, STABLE
from tests.postgres import PostgresCluster
from tests.providers.builders import NOON_SECONDS, SOURCE, an_example, read

LOADED = NOON - timedelta(minutes=5)
SCHEMA = """
    CREATE TABLE returns (version TEXT, surface TEXT, share FLOAT, loaded_at TIMESTAMP);
    CREATE TABLE no_rows (share FLOAT, loaded_at TIMESTAMP);
"""
ROWS = [(CANDIDATE, "home_feed", 0.25, LOADED), (STABLE, "home_feed", 0.125, LOADED)]
INSERT = "INSERT INTO returns VALUES (:version, :surface, :share, :loaded_at)"
ENDLESS_SQLITE = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a warehouse?#%.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(SCHEMA)
        rows = [(version, surface, share, f"{at:%Y-%m-%d %H:%M:%S}") for version, surface, share, at in ROWS]
        connection.executemany("INSERT INTO returns VALUES (?, ?, ?, ?)", rows)
    connection.close()
    return path


@pytest.fixture
def sqlite(path: Path) -> Source:
    return make_sources({SOURCE: f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"})[SOURCE]


@pytest.fixture
def postgres_url(postgres: PostgresCluster) -> Iterator[str]:
    with postgres.database() as url:
        engine = create_engine(url)
        with engine.begin() as connection:
            for statement in filter(str.strip, SCHEMA.replace("TIMESTAMP", "TIMESTAMPTZ").split(";")):
                connection.execute(text(statement))
            for version, surface, share, loaded_at in ROWS:
                values = {"version": version, "surface": surface, "share": share, "loaded_at": loaded_at}
                connection.execute(text(INSERT), values)
        engine.dispose()
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def source(request: pytest.FixtureRequest) -> Source:
    if request.param == "sqlite":
        sqlite: Source = request.getfixturevalue("sqlite")
        return sqlite
    return make_sources({SOURCE: request.getfixturevalue("postgres_url")})[SOURCE]


def test_one_row_is_a_value_and_the_names_are_bound(source: Source) -> None:
    query = "SELECT share FROM returns WHERE version = :candidate AND surface = :surface AND :generation = 7;"

    reading = read(source, query)

    assert (reading.outcome, reading.value, reading.sampled_at_ms) == (ReadingOutcome.VALUE, 0.25, None)
    assert reading.query == f"{query}\n-- :candidate = {CANDIDATE}\n-- :surface = home_feed\n-- :generation = 7"


def test_the_column_value_is_taken_and_at_tells_fresh_from_stale(source: Source) -> None:
    query = "SELECT version, share AS value, loaded_at AS at FROM returns WHERE version = :stable"

    fresh = read(source, query, max_age_seconds=600.0)
    stale = read(source, query, max_age_seconds=200.0)

    assert (fresh.outcome, fresh.value) == (ReadingOutcome.VALUE, 0.125)
    assert fresh.sampled_at_ms == stale.sampled_at_ms == round(LOADED.timestamp() * 1_000)
    assert (stale.outcome, stale.value, stale.detail) == (ReadingOutcome.STALE, 0.125, "300 s old, older than 200 s")


def test_since_and_now_compare_with_the_databases_own_times(source: Source) -> None:
    between = "SELECT count(*) FROM returns WHERE loaded_at > :since AND loaded_at < :now"
    before = "SELECT count(*) FROM returns WHERE loaded_at < :since OR loaded_at > :now"

    assert (read(source, between).value, read(source, before).value) == (2, 0)


@pytest.mark.parametrize("unix_seconds", [NOON_SECONDS - 60.5, int(NOON_SECONDS) - 60])
def test_at_may_be_unix_seconds(source: Source, unix_seconds: float) -> None:
    reading = read(source, f"SELECT 1 AS value, {unix_seconds} AS at")

    assert (reading.outcome, reading.sampled_at_ms) == (ReadingOutcome.VALUE, round(unix_seconds * 1_000))


def test_at_query_gives_the_time_too(source: Source) -> None:
    reading = read(source, "SELECT 2", at_query=f"SELECT {NOON_SECONDS - 700:.0f}")

    assert (reading.outcome, reading.value) == (ReadingOutcome.STALE, 2)


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("SELECT share FROM no_rows", "no row"),
        ("SELECT avg(share) AS value, max(loaded_at) AS at FROM no_rows", "the value is NULL"),
    ],
)
def test_no_row_and_null_are_empty(source: Source, query: str, detail: str) -> None:
    reading = read(source, query)

    assert (reading.outcome, reading.value, reading.detail) == (ReadingOutcome.EMPTY, None, detail)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT share FROM returns", "more than one row"),
        ("SELECT version FROM returns LIMIT 1", "not a number"),
        ("SELECT 1 AS value, NULL AS at", "nobody knows how old"),
        ("SELECT 1 AS value, 'yesterday' AS at", "neither unix seconds nor a time"),
        (f"SELECT 1 AS value, {NOON_SECONDS * 1_000:.0f} AS at", "no unix time in seconds up to now"),
        (f"SELECT 1 AS value, {NOON_SECONDS + 600:.0f} AS at", "no unix time in seconds up to now"),
        ("SELECT share FROM no_such_table", "no_such_table"),
        ("SELECT nonsense(", "syntax"),
        ("SELECT 1; SELECT 2", "the query must be one statement"),
        ("SELECT :version", "no :version to name"),
        ("DELETE FROM returns", "begins with SELECT or WITH"),
        ("up{version='a'}", "takes SQL"),
    ],
)
def test_what_is_no_single_number_fails(source: Source, query: str, words: str) -> None:
    reading = read(source, query)

    assert (reading.outcome, reading.value) == (ReadingOutcome.FAILED, None)
    assert words in reading.detail or words in reading.detail.replace("incomplete input", "syntax")


def test_names_and_percent_signs_with_quotes_around_are_text(source: Source) -> None:
    query = "SELECT count(*) AS \"va'l%ue\" FROM returns WHERE surface LIKE 'home%' AND version <> '\\:x''%s'"

    assert read(source, query).value == 2


def test_a_query_without_end_is_stopped_in_sqlite(sqlite: Source) -> None:
    began = time.monotonic()

    reading = read(sqlite, ENDLESS_SQLITE, seconds=0.3)

    assert reading.detail == "no answer within 0.3 s"
    assert time.monotonic() - began < 2
    _all_slots_come_back(sqlite)


@pytest.mark.postgres
def test_a_query_without_end_is_stopped_in_postgres(postgres_url: str) -> None:
    source = make_sources({SOURCE: postgres_url})[SOURCE]
    began = time.monotonic()

    reading = read(source, "SELECT count(*) FROM (SELECT pg_sleep(3600)) AS slept", seconds=0.5)

    assert reading.detail == "no answer within 0.5 s"
    assert time.monotonic() - began < 2
    _all_slots_come_back(source)
    assert _scalar(postgres_url, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'surefoot'") == 0


def test_an_answer_without_end_is_not_fetched(sqlite: Source) -> None:
    reading = read(sqlite, ENDLESS_SQLITE.replace("count(*)", "i"))

    assert "more than one row" in reading.detail


@pytest.mark.postgres
def test_an_answer_of_many_rows_is_not_fetched_from_postgres(postgres_url: str) -> None:
    source = make_sources({SOURCE: postgres_url})[SOURCE]
    began = time.monotonic()

    reading = read(source, "SELECT 1 FROM pg_class, pg_class AS a, pg_class AS b, pg_class AS c")

    assert "more than one row" in reading.detail
    assert time.monotonic() - began < 3


def test_a_huge_value_is_refused_by_sqlite(sqlite: Source) -> None:
    reading = read(sqlite, "SELECT zeroblob(900000000)")

    assert (reading.outcome, reading.detail) == (ReadingOutcome.FAILED, "string or blob too big")


@pytest.mark.postgres
@pytest.mark.parametrize(
    "query",
    [
        "WITH gone AS (DELETE FROM returns RETURNING 1) SELECT count(*) FROM gone",
        "SELECT 1 INTO stolen",
        "SELECT nextval('numbers')",
        "SELECT setval('numbers', 9)",
        "SELECT lo_create(0)",
        "SELECT share FROM returns FOR UPDATE",
        "SELECT count(*) FROM (SELECT set_config('transaction_read_only', 'off', false), nextval('numbers')) AS s",
    ],
)
def test_a_query_that_writes_is_refused_by_postgres(postgres_url: str, query: str) -> None:
    _execute(postgres_url, "CREATE SEQUENCE numbers")
    source = make_sources({SOURCE: postgres_url})[SOURCE]

    reading = read(source, query)

    assert (reading.outcome, reading.value) == (ReadingOutcome.FAILED, None)
    assert _scalar(postgres_url, "SELECT count(*) FROM returns") == 2
    assert _scalar(postgres_url, "SELECT last_value FROM numbers WHERE NOT is_called") == 1


@pytest.mark.postgres
def test_what_a_query_sets_or_locks_does_not_outlive_it(postgres_url: str) -> None:
    source = make_sources({SOURCE: postgres_url})[SOURCE]

    locked = read(source, "SELECT count(pg_advisory_lock(42)) FROM (SELECT 1) AS once")

    assert locked.value == 1
    assert _scalar(postgres_url, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


@pytest.mark.parametrize(
    "query",
    [
        "WITH a AS (SELECT 1) DELETE FROM returns",
        "WITH a AS (SELECT 1) INSERT INTO no_rows SELECT 1, 2",
        "SELECT writefile('/tmp/x', 'y')",
        "SELECT load_extension('x')",
    ],
)
def test_a_query_that_writes_is_refused_by_sqlite(sqlite: Source, path: Path, query: str) -> None:
    before = path.read_bytes()

    reading = read(sqlite, query)

    assert reading.outcome is ReadingOutcome.FAILED
    assert path.read_bytes() == before


def test_a_file_that_is_missing_is_not_made(tmp_path: Path) -> None:
    source = make_sources({SOURCE: f"sqlite:///{tmp_path}/missing.db"})[SOURCE]

    reading = read(source, "SELECT 1")

    assert reading.detail == "cannot be opened: unable to open database file"
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_fails(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("hello, I am text " * 1_000)
    source = make_sources({SOURCE: f"sqlite:///{tmp_path}/text.db"})[SOURCE]

    assert "file is not a database" in read(source, "SELECT count(*) FROM sqlite_master").detail


@pytest.mark.postgres
def test_not_a_number_is_nan_in_postgres_however_it_is_typed(postgres_url: str) -> None:
    source = make_sources({SOURCE: postgres_url})[SOURCE]

    queries = ["SELECT 'NaN'::float", "SELECT 'NaN'::numeric", "SELECT 'infinity'::float", "SELECT 10::numeric ^ 400"]
    assert {read(source, query).outcome for query in queries} == {ReadingOutcome.NAN}
    assert read(source, "SELECT 2.5::numeric").value == 2.5
    assert "not a number" in read(source, "SELECT true").detail


@pytest.mark.postgres
def test_the_password_of_a_database_is_in_no_error(postgres: PostgresCluster) -> None:
    urls = [
        "postgresql+psycopg://ann:hunter2@127.0.0.1:1/warehouse",
        "postgresql://ann:hunter2@127.0.0.1:1/warehouse?sslmode=nonsense&passfile=hunter2",
        "postgresql://ann@127.0.0.1:1/warehouse?password=hunter2",
        "postgresql://ann@127.0.0.1:1/warehouse?nonsense=hunter2",
        str(postgres.url.set(database="no_such_database")).replace("***", "hunter2"),
    ]
    for url in urls:
        reading = read(make_sources({SOURCE: url})[SOURCE], "SELECT 1")

        assert reading.outcome is ReadingOutcome.FAILED
        assert reading.detail.startswith("cannot be opened: ")
        assert "hunter2" not in repr(reading)


@pytest.mark.postgres
def test_the_example_plan_asks_what_postgres_understands(postgres_url: str) -> None:
    (query,) = [ext.query for ext in an_example("external-metrics").external if ext.source == "warehouse"]
    columns = "surface TEXT, hour TIMESTAMPTZ, spend NUMERIC, spend_week_before NUMERIC, loaded_at TIMESTAMPTZ"
    _execute(postgres_url, f"CREATE TABLE hourly_spend ({columns})")
    source = make_sources({SOURCE: postgres_url})[SOURCE]
    empty = read(source, query)
    for hour in (NOON - timedelta(days=2), LOADED, LOADED):
        values = f"'home_feed', '{hour}', 8, 10, '{LOADED}'"
        _execute(postgres_url, f"INSERT INTO hourly_spend VALUES ({values})")

    reading = read(source, query)

    assert empty.outcome is ReadingOutcome.EMPTY
    assert (reading.value, reading.sampled_at_ms) == (0.8, round(LOADED.timestamp() * 1_000))
    assert read(source, query.replace("sum(spend) /", "count(*) +")).value == 22


def _all_slots_come_back(source: Source) -> None:
    assert all(source.slots.acquire(timeout=5) for _ in range(MAX_AT_ONCE))
    source.slots.release(MAX_AT_ONCE)


def _execute(url: str, statement: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def _scalar(url: str, query: str) -> object:
    engine = create_engine(url)
    with engine.connect() as connection:
        value: object = connection.execute(text(query)).scalar()
    engine.dispose()
    return value
