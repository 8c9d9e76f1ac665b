"""Webhooks: who is told of changes, what is still to be told, and what was given up and may be sent once more."""

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from control_plane.api import patterns
from control_plane.api.deps import Id, Limit, Operator, Sessions, Settings, WallNow
from control_plane.api.errors import documented, documented_write
from control_plane.api.idempotency import Once, answer
from control_plane.registry import deliveries
from control_plane.registry.deliveries import Dead, Queue
from control_plane.registry.idempotency import Answer
from control_plane.webhooks import trial
from control_plane.webhooks.sending import Outcome, make_client, send
from control_plane.webhooks.subscribers import Subscriber, named

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

SubscriberName = Annotated[str, Path(min_length=1, max_length=40)]


class SubscriberOut(BaseModel):
    """Of the URL only `origin` is shown; `last_error` is the oldest pending event's, empty before a first try."""

    name: str
    origin: str
    format: str
    events: list[str]
    is_signed: bool
    pending: int
    oldest_pending_at: datetime | None
    dead: int
    last_error: str

    @classmethod
    def of(cls, subscriber: Subscriber, queue: Queue | None) -> "SubscriberOut":
        return cls(
            name=subscriber.name,
            origin=subscriber.origin,
            format=subscriber.format.value,
            events=list(subscriber.events),
            is_signed=bool(subscriber.secrets),
            pending=0 if queue is None else queue.pending,
            oldest_pending_at=None if queue is None else queue.oldest_at,
            dead=0 if queue is None else queue.dead,
            last_error="" if queue is None else queue.last_error,
        )


class SubscribersOut(BaseModel):
    webhooks: list[SubscriberOut]


class DeadOut(BaseModel):
    subscriber: str
    event_id: int
    event: dict[str, Any]
    attempts: int
    dead_at: datetime
    last_error: str

    @classmethod
    def of(cls, dead: Dead) -> "DeadOut":
        return cls(
            subscriber=dead.subscriber,
            event_id=dead.outbox_id,
            event=json.loads(dead.event),
            attempts=dead.attempts,
            dead_at=dead.dead_at,
            last_error=dead.last_error,
        )


class DeadEventsOut(BaseModel):
    dead: list[DeadOut]


class ReplayedOut(BaseModel):
    subscriber: str
    replayed: int


class TestedOut(BaseModel):
    subscriber: str
    ending: str
    detail: str

    @classmethod
    def of(cls, subscriber: Subscriber, outcome: Outcome) -> "TestedOut":
        return cls(subscriber=subscriber.name, ending=outcome.ending.value, detail=outcome.detail)


@router.get("", summary="List the webhook subscribers", responses=documented())
def list_webhooks(sessions: Sessions, settings: Settings) -> SubscribersOut:
    """Those of this process's settings, and how much each is still to be told."""
    with sessions.reading() as session:
        queues = {queue.subscriber: queue for queue in deliveries.queues(session)}
    return SubscribersOut(
        webhooks=[SubscriberOut.of(subscriber, queues.get(subscriber.name)) for subscriber in settings.webhooks]
    )


@router.get("/dead", summary="List the events that were given up", responses=documented())
def list_dead(
    sessions: Sessions,
    subscriber: Annotated[str | None, Query(max_length=40, pattern=patterns.NO_NUL)] = None,
    limit: Limit = 100,
) -> DeadEventsOut:
    """The latest first; subscribers that are in the settings no more are among them."""
    with sessions.reading() as session:
        found = deliveries.list_dead(session, subscriber=subscriber, limit=limit)
    return DeadEventsOut(dead=[DeadOut.of(dead) for dead in found])


@router.post(
    "/{name}/replay",
    summary="Send once more what a subscriber was not told",
    response_model=ReplayedOut,
    responses=documented_write(404),
)
def replay_all(name: SubscriberName, once: Once, settings: Settings, operator: Operator) -> Response:
    """All of its dead events, as if they had never been tried, and before later ones of their surface."""
    subscriber = named(settings.webhooks, name)

    def replay(session: Session) -> Answer:
        count = deliveries.replay(session, subscriber.name)
        return answer(ReplayedOut(subscriber=subscriber.name, replayed=count))

    return once(replay)


@router.post(
    "/{name}/dead/{event_id}/replay",
    summary="Send one event once more",
    response_model=ReplayedOut,
    responses=documented_write(404),
)
def replay_one(name: SubscriberName, event_id: Id, once: Once, settings: Settings, operator: Operator) -> Response:
    subscriber = named(settings.webhooks, name)

    def replay(session: Session) -> Answer:
        count = deliveries.replay(session, subscriber.name, event_id)
        return answer(ReplayedOut(subscriber=subscriber.name, replayed=count))

    return once(replay)


@router.post("/{name}/test", summary="Send a subscriber an event of no meaning", responses=documented_write(404))
async def test(name: SubscriberName, settings: Settings, operator: Operator, now: WallNow) -> TestedOut:
    """Sent from this process, once and at once; 200 whatever came of it, which the answer says."""
    subscriber = named(settings.webhooks, name)
    async with make_client() as client:
        outcome = await send(
            client,
            subscriber,
            trial.event_for(subscriber.name, by=operator, now=now),
            now=now,
            seconds=settings.webhook_timeout_seconds,
            public_url=settings.shown_url,
        )
    return TestedOut.of(subscriber, outcome)
