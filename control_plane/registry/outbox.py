"""What the outside is told of each change: CloudEvents, written with the change and delivered at least once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from control_plane.registry.tables import OutboxRow, canonical_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    outbox_id: int
    event: str  # a CloudEvent, structured JSON


def append(session: Session, *, event_id: str, kind: str, subject: str, at: datetime, data: dict[str, object]) -> None:
    """`event_id` is the same for the same change, so that a receiver can drop what comes twice."""
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": "/surefoot/registry",
        "type": kind,
        "subject": subject,
        "time": at.isoformat(),
        "datacontenttype": "application/json",
        "data": data,
    }
    session.add(OutboxRow(event=canonical_json(event)))


def pending(session: Session, limit: int = 100) -> list[Pending]:
    """What has not been delivered, oldest first."""
    rows = session.scalars(
        select(OutboxRow).where(OutboxRow.delivered_at.is_(None)).order_by(OutboxRow.outbox_id).limit(limit)
    )
    return [Pending(outbox_id=row.outbox_id, event=row.event) for row in rows]


def mark_delivered(session: Session, outbox_ids: Sequence[int], *, now: datetime) -> None:
    session.execute(
        update(OutboxRow)
        .where(OutboxRow.outbox_id.in_(outbox_ids), OutboxRow.delivered_at.is_(None))
        .values(delivered_at=now)
        .execution_options(synchronize_session=False)
    )
