"""The webhooks page: who is told, what is still to be told, what was given up; and telling it once more."""

import json
from dataclasses import dataclass
from datetime import datetime

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from control_plane.admin.asking import Question, ask, carry_out
from control_plane.admin.forms import SentForm
from control_plane.admin.problems import PageRoute
from control_plane.admin.rendering import render
from control_plane.api.deps import Id, Sessions, Settings
from control_plane.api.webhooks import SubscriberName
from control_plane.registry import deliveries
from control_plane.registry.deliveries import Dead, Queue
from control_plane.webhooks.subscribers import Subscriber, named

router = APIRouter(prefix="/webhooks", route_class=PageRoute, include_in_schema=False)

DEAD_SHOWN = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class SubscriberLine:
    """`subscriber` is None where the settings name it no more: nobody sends to it."""

    name: str
    subscriber: Subscriber | None
    queue: Queue | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLine:
    dead: Dead
    kind: str
    subject: str
    happened_at: datetime
    can_replay: bool


@router.get("")
def read_webhooks(request: Request, sessions: Sessions, settings: Settings) -> Response:
    with sessions.reading() as session:
        lines = _lines(session, settings.webhooks)
        found = deliveries.list_dead(session, limit=DEAD_SHOWN)
    known = {subscriber.name for subscriber in settings.webhooks}
    dead = [_dead_line(one, can_replay=one.subscriber in known) for one in found]
    return render(request, "webhooks.html", page="/webhooks", lines=lines, dead=dead, most=DEAD_SHOWN)


@router.get("/{name}/replay")
def ask_to_replay_all(request: Request, name: SubscriberName, sessions: Sessions, settings: Settings) -> Response:
    subscriber = named(settings.webhooks, name)
    with sessions.reading() as session:
        count = next((queue.dead for queue in deliveries.queues(session) if queue.subscriber == subscriber.name), 0)
    what = "its only dead event" if count == 1 else f"all {count} dead events"
    return ask(request, _question(f"Send {subscriber.name} {what} once more?"), None, way_back="/webhooks")


@router.post("/{name}/replay")
def replay_all(name: SubscriberName, form: SentForm, settings: Settings) -> Response:
    subscriber = named(settings.webhooks, name)
    return carry_out(form, lambda session: deliveries.replay(session, subscriber.name), then="/webhooks")


@router.get("/{name}/dead/{event_id}/replay")
def ask_to_replay_one(request: Request, name: SubscriberName, event_id: Id, settings: Settings) -> Response:
    subscriber = named(settings.webhooks, name)
    return ask(request, _question(f"Send {subscriber.name} event {event_id} once more?"), None, way_back="/webhooks")


@router.post("/{name}/dead/{event_id}/replay")
def replay_one(name: SubscriberName, event_id: Id, form: SentForm, settings: Settings) -> Response:
    subscriber = named(settings.webhooks, name)
    return carry_out(form, lambda session: deliveries.replay(session, subscriber.name, event_id), then="/webhooks")


def _lines(session: Session, subscribers: tuple[Subscriber, ...]) -> list[SubscriberLine]:
    queues = {queue.subscriber: queue for queue in deliveries.queues(session)}
    known = {subscriber.name: subscriber for subscriber in subscribers}
    return [
        SubscriberLine(name=name, subscriber=known.get(name), queue=queues.get(name))
        for name in [*known, *(name for name in queues if name not in known)]
    ]


def _dead_line(dead: Dead, *, can_replay: bool) -> DeadLine:
    event = json.loads(dead.event)
    return DeadLine(
        dead=dead,
        kind=event["type"].removeprefix("surefoot."),
        subject=event["subject"],
        happened_at=datetime.fromisoformat(event["time"]),
        can_replay=can_replay,
    )


def _question(title: str) -> Question:
    return Question(
        title=title,
        consequences=(
            "It is tried again as if it had never been sent. Later events of its surface may have been told already: "
            "receivers go by the generation in it.",
            "A receiver that had got it after all sees the same event id, and can drop it.",
            "No rollout is touched.",
        ),
        button="Send once more",
        icon="again",
    )
