"""What requests were answered, by their keys: kept in the very transaction that carried each of them out.

So a key is on record if and only if its change is, whatever dies in between. Of two requests at once under one key
the second waits for the first one's transaction: SQLite has one writer, PostgreSQL's unique index makes it wait.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from control_plane.domain.errors import KeyReused
from control_plane.registry.tables import IdempotencyRow

KEPT = timedelta(hours=24)
FORGOTTEN_AT_ONCE = 20  # expired keys that leave with each new one: more than come, so that they never pile up
NOT_YET = 0  # status of a key that was claimed and not answered; no other transaction ever sees it


@dataclass(frozen=True, kw_only=True, slots=True)
class Keyed:
    """A request under a key; a request is the same if its digest is."""

    operator: str
    key: str
    request_digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: str


def claim(session: Session, request: Keyed, *, now: datetime) -> Answer | None:
    """Take the key for this transaction, or give what the request was answered the first time.

    Waits while another transaction holds the key.

    Raises:
        KeyReused: the key belongs to another request.
    """
    _forget_expired(session, now)
    return None if _take(session, request, now) else _answered(session, request)


def recall(session: Session, request: Keyed, *, now: datetime) -> Answer | None:
    """What the request was answered, if it was and the key has not expired; takes nothing.

    Raises:
        KeyReused: the key belongs to another request.
    """
    row = _row(session, request)
    return None if row is None or row.at < now - KEPT else _answered(session, request)


def record(session: Session, request: Keyed, answer: Answer) -> None:
    """Complete a key that this transaction claimed."""
    session.execute(
        update(IdempotencyRow)
        .where(IdempotencyRow.operator == request.operator, IdempotencyRow.key == request.key)
        .values(status=answer.status, headers=dict(answer.headers), body=answer.body)
        .execution_options(synchronize_session=False)
    )


def _take(session: Session, request: Keyed, now: datetime) -> bool:
    """Whether the key was free, or has expired. One statement, so that no twin slips in between."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    new = dialect.insert(IdempotencyRow).values(
        operator=request.operator,
        key=request.key,
        request_digest=request.request_digest,
        status=NOT_YET,
        headers={},
        body="",
        at=now,
    )
    claimed = new.on_conflict_do_update(
        index_elements=[IdempotencyRow.operator, IdempotencyRow.key],
        set_={"request_digest": new.excluded.request_digest, "at": new.excluded.at},
        where=IdempotencyRow.at < now - KEPT,
    )
    return session.scalar(claimed.returning(IdempotencyRow.key)) is not None


def _answered(session: Session, request: Keyed) -> Answer:
    row = _row(session, request)
    assert row is not None
    if row.request_digest != request.request_digest:
        raise KeyReused(request.key)
    return Answer(status=row.status, headers=row.headers, body=row.body)


def _row(session: Session, request: Keyed) -> IdempotencyRow | None:
    return session.scalar(
        select(IdempotencyRow)
        .where(IdempotencyRow.operator == request.operator, IdempotencyRow.key == request.key)
        .execution_options(populate_existing=True)
    )


def _forget_expired(session: Session, now: datetime) -> None:
    """A few at a time; those that another transaction is forgetting are left to it."""
    expired = (
        select(IdempotencyRow.operator, IdempotencyRow.key)
        .where(IdempotencyRow.at < now - KEPT)
        .order_by(IdempotencyRow.at)
        .limit(FORGOTTEN_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    session.execute(
        delete(IdempotencyRow)
        .where(tuple_(IdempotencyRow.operator, IdempotencyRow.key).in_(expired))
        .execution_options(synchronize_session=False)
    )
