"""What the outside is told of each change: CloudEvents, written with the change and delivered at least once."""

import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from control_plane.registry import notifications
from control_plane.registry.tables import OutboxRow, canonical_json

# Transactions that may still be running, as PostgreSQL numbers them: from `oldest` on, and below `next`.
RUNNING = text("SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text FROM pg_current_snapshot() AS s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    outbox_id: int
    ordering_key: str  # events of one key are delivered in the order of their ids
    event: str  # a CloudEvent, structured JSON

    @property
    def kind(self) -> str:
        return str(json.loads(self.event)["type"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """Which transactions may still commit; every one that has begun is below `next`."""

    oldest: int
    next: int


def append(
    session: Session,
    *,
    event_id: str,
    kind: str,
    subject: str,
    at: datetime,
    data: dict[str, object],
    ordering_key: str | None = None,
) -> None:
    """`event_id` is the same for the same change, so that a receiver can drop what comes twice.

    The caller's transaction holds a lock that whoever else writes of `ordering_key` (`subject` if None) waits for:
    so ids of one key grow in the order in which their changes are seen.
    """
    event = cloud_event(event_id=event_id, kind=kind, subject=subject, at=at, data=data)
    session.add(OutboxRow(event=event, ordering_key=ordering_key or subject))
    notifications.notify(session)


def cloud_event(*, event_id: str, kind: str, subject: str, at: datetime, data: dict[str, object]) -> str:
    """CloudEvents 1.0, structured; in ASCII, so that bytes and signature are the same however it is read."""
    return canonical_json(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": "/surefoot/registry",
            "type": kind,
            "subject": subject,
            "time": at.isoformat(),
            "datacontenttype": "application/json",
            "data": data,
        }
    )


def read(session: Session, *, after: int = 0, limit: int = 100) -> list[Entry]:
    """Entries with a higher id than `after`, in the order of their ids. One with a lower id may still be to come."""
    query = select(OutboxRow).where(OutboxRow.outbox_id > after).order_by(OutboxRow.outbox_id).limit(limit)
    return [entry_of(row) for row in session.scalars(query)]


def read_between(session: Session, first: int, last: int) -> list[Entry]:
    query = select(OutboxRow).where(OutboxRow.outbox_id.between(first, last)).order_by(OutboxRow.outbox_id)
    return [entry_of(row) for row in session.scalars(query)]


def last_id(session: Session) -> int:
    """The highest id there is, 0 if none."""
    return session.scalar(select(func.max(OutboxRow.outbox_id))) or 0


def running(session: Session) -> Running:
    """As of this session's snapshot. On SQLite writers come one after another: none runs that others cannot see."""
    if session.get_bind().dialect.name == "sqlite":
        return Running(oldest=0, next=0)
    oldest, following = session.execute(RUNNING).one()
    return Running(oldest=int(oldest), next=int(following))


def entry_of(row: OutboxRow) -> Entry:
    key = row.ordering_key or str(json.loads(row.event)["subject"])  # rows of the first release have none
    return Entry(outbox_id=row.outbox_id, ordering_key=key, event=row.event)
