"""Whether the registry has changed since it was last looked at, without looking."""

import sqlite3
from contextlib import suppress

from sqlalchemy import Engine


class ChangeMark:
    """A number that differs once anyone, in any process, has committed to a SQLite registry; elsewhere there is none.

    SQLite keeps it in memory that all its processes share (`PRAGMA data_version`): reading it takes microseconds and
    waits for no writer, so an event loop may. Read from one thread only.
    """

    def __init__(self, engine: Engine) -> None:
        self._file = engine.url.database if engine.dialect.name == "sqlite" else None
        self._connection: sqlite3.Connection | None = None  # its own: a connection does not see its own commits

    def read(self) -> int | None:
        """None where the database has no such number, or does not answer."""
        if not self._file or self._file.startswith((":memory:", "file:")):
            return None
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            self.close()
            return None

    def close(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
