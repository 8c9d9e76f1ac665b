"""A hand with the rights of an administrator: past the triggers that keep the history as it was written."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text
from sqlalchemy.orm import Session

from control_plane.registry.session import Sessions
from migrations import append_only


@contextmanager
def tampering(sessions: Sessions) -> Iterator[Session]:
    """A writing session in which nothing is append-only."""
    with sessions.writing() as session:
        if sessions.engine.dialect.name == "sqlite":
            append_only.unprotect(session.connection())
            yield session
            session.flush()
            append_only.protect(session.connection())
        else:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            yield session
