"""Who has been told what: one row for each event and subscriber, open until it was delivered or given up.

Only the holder of a subscriber's lease makes rows and records attempts; every such call is to come in a transaction
that checked its epoch.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Select, and_, delete, func, select, update
from sqlalchemy.orm import Session, aliased

from control_plane.domain.errors import UnknownName
from control_plane.registry import notifications, outbox
from control_plane.registry.outbox import Entry
from control_plane.registry.tables import LeaseRow, OutboxRow, WebhookDeliveryRow, WebhookSubscriberRow

LEASE = "courier/"  # and the subscriber's name: who sends to it
AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)  # whichever process sends it, and whatever its clock says
PRUNED_AT_ONCE = 500  # rows in one transaction: others want to write, too

IS_OPEN = and_(WebhookDeliveryRow.delivered_at.is_(None), WebhookDeliveryRow.dead_at.is_(None))
IS_DEAD = WebhookDeliveryRow.dead_at.is_not(None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """An event to send now; `attempts` were made before."""

    entry: Entry
    attempts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Dead:
    subscriber: str
    outbox_id: int
    event: str
    attempts: int
    dead_at: datetime
    last_error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """What is still to be told to a subscriber; `oldest_at` is when the oldest of it happened."""

    subscriber: str
    pending: int
    oldest_at: datetime | None
    attempts: int  # made so far at what is pending
    dead: int
    last_error: str  # of the oldest pending event


def lease_of(subscriber: str) -> str:
    return f"{LEASE}{subscriber}"


def register(session: Session, subscriber: str) -> int:
    """The outbox id up to which the subscriber's rows have been made; one not seen before begins with what comes."""
    newest = outbox.last_id(session)
    row = session.get(WebhookSubscriberRow, subscriber, populate_existing=True)
    if row is None:
        row = WebhookSubscriberRow(name=subscriber, fanned_out_to=newest)
        session.add(row)
    row.fanned_out_to = min(row.fanned_out_to, newest)  # ids begin anew where an older backup was restored
    session.flush()
    return row.fanned_out_to


def fan_out(session: Session, subscriber: str, entries: Sequence[Entry], *, fanned_out_to: int) -> None:
    """Make the rows that are not there yet; everything up to `fanned_out_to` is settled with them."""
    numbers = [entry.outbox_id for entry in entries]
    query = select(WebhookDeliveryRow.outbox_id).where(
        WebhookDeliveryRow.subscriber == subscriber, WebhookDeliveryRow.outbox_id.in_(numbers)
    )
    known = set(session.scalars(query))
    session.add_all(
        WebhookDeliveryRow(
            subscriber=subscriber,
            outbox_id=entry.outbox_id,
            ordering_key=entry.ordering_key,
            attempts=0,
            next_attempt_at=AT_ONCE,
            last_error="",
        )
        for entry in entries
        if entry.outbox_id not in known
    )
    session.execute(
        update(WebhookSubscriberRow)
        .where(WebhookSubscriberRow.name == subscriber)
        .values(fanned_out_to=fanned_out_to)
        .execution_options(synchronize_session=False)
    )


def due(
    session: Session, subscriber: str, *, now: datetime, limit: int, without_keys: Collection[str] = ()
) -> list[Due]:
    """The oldest open event of each ordering key, where its time has come; the oldest first."""
    query = (
        select(WebhookDeliveryRow, OutboxRow)
        .join(OutboxRow, OutboxRow.outbox_id == WebhookDeliveryRow.outbox_id)
        .where(WebhookDeliveryRow.subscriber == subscriber, WebhookDeliveryRow.outbox_id.in_(_heads(subscriber)))
        .where(WebhookDeliveryRow.next_attempt_at <= now, WebhookDeliveryRow.ordering_key.not_in(without_keys))
        .order_by(WebhookDeliveryRow.outbox_id)
        .limit(limit)
    )
    return [Due(entry=outbox.entry_of(row), attempts=delivery.attempts) for delivery, row in session.execute(query)]


def has_open(session: Session, subscriber: str) -> bool:
    """Whether anything is still to be told, now or at a later attempt."""
    is_open = select(WebhookDeliveryRow.outbox_id).where(WebhookDeliveryRow.subscriber == subscriber, IS_OPEN)
    return session.scalar(is_open.limit(1)) is not None


def note_delivered(session: Session, subscriber: str, outbox_id: int, *, now: datetime) -> None:
    _record(session, subscriber, outbox_id, delivered_at=now, last_error="")


def note_failed(
    session: Session, subscriber: str, outbox_id: int, *, error: str, next_attempt_at: datetime | None, now: datetime
) -> None:
    """An attempt that failed; without a next one the event is dead, and later ones of its key go on."""
    if next_attempt_at is None:
        _record(session, subscriber, outbox_id, dead_at=now, last_error=error)
    else:
        _record(session, subscriber, outbox_id, next_attempt_at=next_attempt_at, last_error=error)


def list_dead(session: Session, *, subscriber: str | None = None, limit: int = 100) -> list[Dead]:
    """What was given up, the latest first."""
    query = select(WebhookDeliveryRow, OutboxRow).join(OutboxRow, OutboxRow.outbox_id == WebhookDeliveryRow.outbox_id)
    if subscriber is not None:
        query = query.where(WebhookDeliveryRow.subscriber == subscriber)
    query = query.where(IS_DEAD).order_by(WebhookDeliveryRow.dead_at.desc(), WebhookDeliveryRow.outbox_id.desc())
    return [_dead(delivery, row) for delivery, row in session.execute(query.limit(limit))]


def replay(session: Session, subscriber: str, outbox_id: int | None = None) -> int:
    """Send what was given up once more, all of it or one event, as if it had never been tried; return how many.

    Raises:
        UnknownName: this event is not among the subscriber's dead ones.
    """
    conditions: list[ColumnElement[bool]] = [WebhookDeliveryRow.subscriber == subscriber, IS_DEAD]
    if outbox_id is not None:
        conditions.append(WebhookDeliveryRow.outbox_id == outbox_id)
    result = session.connection().execute(
        update(WebhookDeliveryRow).where(*conditions).values(dead_at=None, attempts=0, next_attempt_at=AT_ONCE)
    )
    if outbox_id is not None and result.rowcount == 0:
        raise UnknownName("dead event", str(outbox_id))
    notifications.notify(session)
    return result.rowcount


def queues(session: Session) -> list[Queue]:
    """Of every subscriber that was ever seen, by name."""
    names = session.scalars(select(WebhookSubscriberRow.name).order_by(WebhookSubscriberRow.name))
    return [_queue(session, name) for name in names.all()]


def prune(session: Session, subscriber: str, *, delivered_before: datetime, dead_before: datetime) -> int:
    """Forget what was delivered or given up long ago, some of it; return how many rows that was."""
    settled = select(WebhookSubscriberRow.fanned_out_to).where(WebhookSubscriberRow.name == subscriber)
    old = (WebhookDeliveryRow.delivered_at < delivered_before) | (WebhookDeliveryRow.dead_at < dead_before)
    found = session.scalars(
        select(WebhookDeliveryRow.outbox_id)
        .where(WebhookDeliveryRow.subscriber == subscriber, old)
        .where(WebhookDeliveryRow.outbox_id <= settled.scalar_subquery())
        .limit(PRUNED_AT_ONCE)
    ).all()
    session.execute(
        delete(WebhookDeliveryRow)
        .where(WebhookDeliveryRow.subscriber == subscriber, WebhookDeliveryRow.outbox_id.in_(found))
        .execution_options(synchronize_session=False)
    )
    return len(found)


def prune_outbox(session: Session, *, before: datetime) -> int:
    """Forget events of before that nobody is still to be told of, some of them; return how many."""
    old = [outbox_id for outbox_id, _ in prunable_outbox(session, before=before, limit=PRUNED_AT_ONCE)]
    session.execute(delete(OutboxRow).where(OutboxRow.outbox_id.in_(old)).execution_options(synchronize_session=False))
    return len(old)


def prunable_outbox(session: Session, *, before: datetime, limit: int | None = None) -> list[tuple[int, int]]:
    """Events of before that nobody is still to be told of, among the `limit` oldest: their ids and sizes.

    The newest event stays, whatever its age: SQLite would give its number to another one.
    """
    settled = session.scalar(select(func.min(WebhookSubscriberRow.fanned_out_to)))
    newest = outbox.last_id(session)
    rows = session.execute(
        select(OutboxRow.outbox_id, OutboxRow.event)
        .where(OutboxRow.outbox_id < newest, OutboxRow.outbox_id <= (newest if settled is None else settled))
        .where(OutboxRow.outbox_id.not_in(select(WebhookDeliveryRow.outbox_id)))
        .order_by(OutboxRow.outbox_id)
        .limit(limit)
    )
    return [(row.outbox_id, len(row.event)) for row in rows if _happened_at(row.event) < before]


def forget_silent(session: Session, *, since: datetime, but: str = "") -> list[str]:
    """Forget subscribers, `but` one, that no process has sent to since then: they are in nobody's settings any more."""
    names = [
        name.removeprefix(LEASE)
        for name in session.scalars(
            select(LeaseRow.name).where(
                LeaseRow.name.startswith(LEASE), LeaseRow.last_tick_at < since, LeaseRow.name != lease_of(but)
            )
        )
    ]
    for table, column in (
        (WebhookDeliveryRow, WebhookDeliveryRow.subscriber),
        (WebhookSubscriberRow, WebhookSubscriberRow.name),
    ):
        session.execute(delete(table).where(column.in_(names)).execution_options(synchronize_session=False))
    return names


def _heads(subscriber: str) -> Select[tuple[int | None]]:
    """The oldest open event of each key, found key by key: a long backlog costs no more than a short one."""
    first, following, of_key = aliased(WebhookDeliveryRow), aliased(WebhookDeliveryRow), aliased(WebhookDeliveryRow)
    keys = select(func.min(first.ordering_key).label("key")).where(_open(first, subscriber)).cte(recursive=True)
    next_key = select(func.min(following.ordering_key)).where(_open(following, subscriber))
    keys = keys.union_all(
        select(next_key.where(following.ordering_key > keys.c.key).scalar_subquery()).where(keys.c.key.is_not(None))
    )
    oldest = select(func.min(of_key.outbox_id)).where(_open(of_key, subscriber), of_key.ordering_key == keys.c.key)
    return select(oldest.scalar_subquery()).where(keys.c.key.is_not(None))


def _open(row: type[WebhookDeliveryRow], subscriber: str) -> ColumnElement[bool]:
    return and_(row.subscriber == subscriber, row.delivered_at.is_(None), row.dead_at.is_(None))


def _record(session: Session, subscriber: str, outbox_id: int, **values: object) -> None:
    """Nothing happens to a row that is open no more: someone else has settled it."""
    session.execute(
        update(WebhookDeliveryRow)
        .where(WebhookDeliveryRow.subscriber == subscriber, WebhookDeliveryRow.outbox_id == outbox_id, IS_OPEN)
        .values(attempts=WebhookDeliveryRow.attempts + 1, **values)
        .execution_options(synchronize_session=False)
    )


def _dead(delivery: WebhookDeliveryRow, row: OutboxRow) -> Dead:
    assert delivery.dead_at is not None
    return Dead(
        subscriber=delivery.subscriber,
        outbox_id=delivery.outbox_id,
        event=row.event,
        attempts=delivery.attempts,
        dead_at=delivery.dead_at,
        last_error=delivery.last_error,
    )


def _queue(session: Session, name: str) -> Queue:
    mine = WebhookDeliveryRow.subscriber == name
    pending, oldest_id, attempts = session.execute(
        select(
            func.count(),
            func.min(WebhookDeliveryRow.outbox_id),
            func.coalesce(func.sum(WebhookDeliveryRow.attempts), 0),
        ).where(mine, IS_OPEN)
    ).one()
    dead = session.scalar(select(func.count()).select_from(WebhookDeliveryRow).where(mine, IS_DEAD))
    oldest = None if oldest_id is None else session.get(OutboxRow, oldest_id)
    delivery = None if oldest_id is None else session.get(WebhookDeliveryRow, (name, oldest_id))
    return Queue(
        subscriber=name,
        pending=pending,
        oldest_at=None if oldest is None else _happened_at(oldest.event),
        attempts=attempts,
        dead=dead or 0,
        last_error="" if delivery is None else delivery.last_error,
    )


def _happened_at(event: str) -> datetime:
    return datetime.fromisoformat(json.loads(event)["time"])
