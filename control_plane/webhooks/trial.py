"""An event that tells of nothing, to try a subscriber with."""

import uuid
from datetime import datetime

from control_plane.domain import event_types
from control_plane.registry.outbox import cloud_event


def event_for(subscriber: str, *, by: str, now: datetime) -> str:
    return cloud_event(
        event_id=f"test/{uuid.uuid4().hex}",
        kind=event_types.TEST,
        subject=subscriber,
        at=now,
        data={"by": by, "reason": "a test: nothing has changed"},
    )
