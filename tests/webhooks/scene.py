"""Subscribers with secrets, events in the outbox, and couriers that do not wait long."""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from control_plane.registry import deliveries, leases, outbox
from control_plane.registry.session import Sessions, make_engine
from control_plane.registry.tables import LeaseRow, WebhookSubscriberRow
from control_plane.webhooks.backoff import Backoff
from control_plane.webhooks.courier import Courier
from control_plane.webhooks.route import Rules
from control_plane.webhooks.subscribers import Format, Subscriber
from tests.builders import NOON
from tests.webhooks.receiver import wait_until

KEY = bytes(range(32))
OTHER_KEY = bytes(range(32, 64))
HASTY = Backoff(first_seconds=0.02, longest_seconds=0.1, max_attempts=4)


def in_text(key: bytes) -> str:
    """As it stands in the setting and in a receiver's configuration."""
    return "whsec_" + base64.b64encode(key).decode()


def a_subscriber(url: str, name: str = "oncall", **overrides: Any) -> Subscriber:
    fields: dict[str, Any] = {"secrets": (KEY,), "format": Format.CLOUDEVENTS, "events": ("*",)}
    return Subscriber(name=name, url=url, **{**fields, **overrides})


def told(sessions: Sessions, *ids: str, kind: str = "surefoot.rollout.held") -> None:
    """Append events 'surface/number', each in a transaction of its own."""
    for event_id in ids:
        with sessions.writing() as session:
            subject = event_id.partition("/")[0]
            data: dict[str, object] = {"phase": "held", "surface": subject, "rollout_id": 7, "candidate_bp": 100}
            outbox.append(session, event_id=event_id, kind=kind, subject=subject, at=NOON, data=data)


def known(sessions: Sessions, *names: str) -> None:
    """Subscribers that are to be told whatever happens from now on."""
    with sessions.writing() as session:
        for name in names:
            deliveries.register(session, name)


def hasty_rules(**overrides: Any) -> Rules:
    fields: dict[str, Any] = {"timeout_seconds": 5.0, "poll_seconds": 0.02, "backoff": HASTY}
    return Rules(**{**fields, **overrides})


@contextmanager
def a_courier(sessions: Sessions, subscribers: Sequence[Subscriber], **rules: Any) -> Iterator[Courier]:
    """A running one, on an engine of its own, as in a deployment."""
    url = sessions.engine.url.render_as_string(hide_password=False)
    courier = Courier(Sessions(make_engine(url)), subscribers, hasty_rules(**rules))
    courier.start()
    try:
        yield courier
    finally:
        courier.stop()


def queue(sessions: Sessions, name: str = "oncall") -> deliveries.Queue:
    with sessions.reading() as session:
        return next(queue for queue in deliveries.queues(session) if queue.subscriber == name)


def wait_until_all_told(sessions: Sessions, name: str = "oncall") -> None:
    """Rows for all there is, the last of which it asked for, and none of them open."""

    def is_settled() -> bool:
        with sessions.reading() as session:
            row = session.get(WebhookSubscriberRow, name)
            is_read = row is not None and row.fanned_out_to == outbox.last_id(session)
        return is_read and queue(sessions, name).pending == 0

    wait_until(is_settled, f"{name} to have been told of everything")


def hand_lease_to(session: Session, holder: str, name: str = "oncall") -> None:
    """As if the holder before had been silent for too long."""
    lease = deliveries.lease_of(name)
    session.execute(update(LeaseRow).where(LeaseRow.name == lease).values(expires_at_ms=0))
    assert leases.acquire(session, lease, holder, 60.0) is not None
