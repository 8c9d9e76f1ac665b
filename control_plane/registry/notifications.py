"""A word between replicas that there is news; PostgreSQL alone carries it, and only once it is committed.

It may be lost, so whoever listens also looks by itself.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from control_plane.registry.session import Sessions

log = logging.getLogger(__name__)

NOTIFY = text("NOTIFY surefoot_splits")
TOLD = "notified"  # in a session's info: the transaction that will notify
LISTEN = "LISTEN surefoot_splits"
STILL_THERE = "SELECT 1"
LISTEN_SECONDS = 0.5  # between looks whether to stop
PROBE_AFTER = 10  # such spells of silence: a connection that died without a word is found so
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 5.0


def notify(session: Session) -> None:
    """Wake every listener when, and only if, this transaction commits. Many of one transaction are one.

    Not to be called within a savepoint: one that is rolled back would take the word with it.
    """
    if session.get_bind().dialect.name != "postgresql" or session.info.get(TOLD) is session.get_transaction():
        return
    session.execute(NOTIFY)
    session.info[TOLD] = session.get_transaction()


class Listener:
    """Calls `wake` from its own thread at each notification, and whenever one may have been missed.

    It has a connection of its own, and makes a new one when that is lost. On SQLite it does nothing.
    """

    def __init__(self, sessions: Sessions, wake: Callable[[], None]) -> None:
        self._engine = sessions.engine
        self._wake = wake
        self._is_listening = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen_on, name="splits-listen", daemon=True)

    @property
    def is_listening(self) -> bool:
        return self._is_listening.is_set()

    def start(self) -> None:
        if self._engine.dialect.name == "postgresql":
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _listen_on(self) -> None:
        wait = FIRST_WAIT_SECONDS
        while not self._stop.is_set():
            try:
                for has_news in _spells(self._engine):
                    if has_news or not self._is_listening.is_set():  # or of what changed while nobody listened
                        self._is_listening.set()
                        self._wake()
                    if self._stop.is_set():
                        break
                    wait = FIRST_WAIT_SECONDS
            except Exception as error:  # whatever it is: the splits are looked at without it meanwhile
                log.warning("no notifications of changes, polling instead: %s", str(error).partition("\n")[0])
            self._is_listening.clear()
            self._stop.wait(wait)
            wait = min(LONGEST_WAIT_SECONDS, wait * 2)


def _spells(engine: Engine) -> Iterator[bool]:
    """Listen; after each spell, yield whether something was notified. Begins with one as soon as it listens."""
    with _own_connection(engine) as connection:
        connection.execute(LISTEN)
        yield False
        silent = 0
        while True:
            has_news = any(True for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1))
            yield has_news
            silent = 0 if has_news else silent + 1
            if silent >= PROBE_AFTER:
                connection.execute(STILL_THERE)
                silent = 0


@contextmanager
def _own_connection(engine: Engine) -> Iterator[Any]:
    """A connection of psycopg, taken out of the pool for good and closed here."""
    pooled = engine.raw_connection()
    connection: Any = pooled.driver_connection
    pooled.detach()
    connection.autocommit = True
    try:
        yield connection
    finally:
        connection.close()
