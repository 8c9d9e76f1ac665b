"""Small event logs for tests: seeded random traffic, and tables and bodies made of it."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from control_plane.domain.events import HOME_ARM, Engagement, EventKind, Exposure, Label, ShadowScore
from control_plane.domain.model_version import Surface, VersionId, ViewType
from control_plane.domain.split import UserKey
from control_plane.evidence.aggregate import MomentsQuery
from control_plane.evidence.event_log import DAY_MS, EventLog
from control_plane.evidence.schema import SCHEMA_OF
from tests.builders import CANDIDATE, HOME_FEED, STABLE

Event = Exposure | ShadowScore | Engagement

DAY = 20_500  # days since 1970-01-01
START_MS = DAY * DAY_MS
HOUR_MS = 3_600_000
SURFACES = {"home_feed": ("grid", "closeup"), "search": ("grid",)}
VERSIONS = frozenset({str(STABLE), str(CANDIDATE)})
OTHER = VersionId("c" * 16)


def an_exposure(**overrides: Any) -> Exposure:
    values: dict[str, Any] = {
        "impression_id": 1,
        "user_key": UserKey(1),
        "served_at_ms": START_MS,
        "surface": HOME_FEED,
        "view_type": ViewType("grid"),
        "arm": "stable",
        "version_id": STABLE,
        "generation": 1,
        "score": 0.1,
    }
    return Exposure(**{**values, **overrides})


def a_shadow_score(**overrides: Any) -> ShadowScore:
    values = asdict(an_exposure(version_id=CANDIDATE))
    del values["arm"]
    return ShadowScore(**{**values, **overrides})


def an_engagement(**overrides: Any) -> Engagement:
    values: dict[str, Any] = {
        "event_id": 1,
        "impression_id": 1,
        "user_key": UserKey(1),
        "served_at_ms": START_MS,
        "surface": HOME_FEED,
        "label": Label.CLICK,
        "occurred_at_ms": START_MS + 60_000,
        "value": 1.0,
    }
    return Engagement(**{**values, **overrides})


def a_query(**overrides: Any) -> MomentsQuery:
    values: dict[str, Any] = {
        "surface": HOME_FEED,
        "view_types": (ViewType("grid"), ViewType("closeup")),
        "stable": STABLE,
        "candidate": CANDIDATE,
        "shares": {1: 0, 2: 100, 3: 2_500},
        "windows_ms": {
            Label.CLICK: HOUR_MS,
            Label.GOOD_CLICK: 2 * HOUR_MS,
            Label.HIDE: 24 * HOUR_MS,
            Label.REVENUE: 6 * HOUR_MS,
        },
        "revenue_cap": 50.0,
        "since_ms": START_MS + 5 * HOUR_MS,
        "as_of_ms": START_MS + 3 * DAY_MS,
    }
    return MomentsQuery(**{**values, **overrides})


def random_events(seed: int, *, impressions: int = 120, users: int = 40, days: int = 4) -> list[Event]:
    """Traffic with everything in it: other surfaces, versions and generations, repeats and contradictions."""
    draw = random.Random(seed)
    events: list[Event] = []
    for _ in range(impressions):
        exposure = _random_exposure(draw, users, days)
        events.append(exposure)
        if draw.random() < 0.1:
            events.append(_contradiction(draw, exposure))
        if draw.random() < 0.5:
            events.append(_random_shadow_score(draw, exposure))
        events += [_random_engagement(draw, exposure) for _ in range(draw.choice((0, 0, 1, 2, 3)))]
    return events


def table_of(kind: EventKind, events: Iterable[Event]) -> pa.Table:
    return pa.Table.from_pylist([asdict(event) for event in events], schema=SCHEMA_OF[kind])


def arrow_body(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def ndjson_body(rows: Iterable[dict[str, object]]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def by_kind(events: Iterable[Event]) -> dict[EventKind, pa.Table]:
    types = {EventKind.EXPOSURE: Exposure, EventKind.SHADOW_SCORE: ShadowScore, EventKind.ENGAGEMENT: Engagement}
    listed = list(events)
    parts = {kind: [event for event in listed if isinstance(event, a_type)] for kind, a_type in types.items()}
    return {kind: table_of(kind, part) for kind, part in parts.items() if part}


def a_log(root: Path, *batches: Sequence[Event]) -> EventLog:
    log = EventLog(root)
    for batch in batches:
        log.append(by_kind(batch))
    return log


def as_row(event: Event) -> tuple[object, ...]:
    return tuple(getattr(event, field.name) for field in fields(event))


def _random_exposure(draw: random.Random, users: int, days: int) -> Exposure:
    surface = draw.choice(("home_feed", "home_feed", "home_feed", "search"))
    is_candidate = draw.random() < 0.4
    version = CANDIDATE if is_candidate else STABLE
    is_home = not is_candidate and draw.random() < 0.1
    return an_exposure(
        impression_id=draw.randrange(2**64),
        user_key=UserKey(draw.randrange(users) * 0x9E3779B97F4A7C15 % 2**64),
        served_at_ms=START_MS + draw.randrange(days * DAY_MS),
        surface=Surface(surface),
        view_type=ViewType(draw.choice(("grid", "closeup", "retired"))),
        arm=HOME_ARM if is_home else "candidate" if is_candidate else "stable",
        version_id=OTHER if draw.random() < 0.05 else version,
        generation=draw.choice((1, 2, 2, 3, 3, 3, 9)),
        score=draw.choice((0.0, 1.0, draw.random(), draw.random() / 100)),
    )


def _contradiction(draw: random.Random, exposure: Exposure) -> Exposure:
    """The same impression told differently, still on the same day."""
    values = asdict(exposure)
    field = draw.choice(("served_at_ms", "arm", "score", "generation", "view_type", "surface"))
    values[field] = {
        "served_at_ms": exposure.served_at_ms // DAY_MS * DAY_MS + draw.randrange(DAY_MS),
        "arm": "stable" if exposure.arm == "candidate" else "candidate",
        "score": draw.random(),
        "generation": exposure.generation + 1,
        "view_type": "grid",
        "surface": "search",
    }[field]
    return Exposure(**values)


def _random_shadow_score(draw: random.Random, exposure: Exposure) -> ShadowScore:
    values = asdict(exposure)
    del values["arm"]
    values["version_id"] = CANDIDATE if draw.random() < 0.9 else OTHER
    values["score"] = draw.choice((0.0, draw.random(), draw.random() / 100))
    return ShadowScore(**values)


def _random_engagement(draw: random.Random, exposure: Exposure) -> Engagement:
    label = draw.choice(tuple(Label))
    return an_engagement(
        event_id=draw.randrange(4),
        impression_id=exposure.impression_id if draw.random() < 0.95 else draw.randrange(2**64),
        user_key=exposure.user_key,
        served_at_ms=exposure.served_at_ms,
        surface=exposure.surface,
        label=label,
        occurred_at_ms=exposure.served_at_ms + draw.choice((0, HOUR_MS, HOUR_MS + 1, draw.randrange(2 * DAY_MS))),
        value=draw.choice((0.1, 3.3333333, 40.0, 80.0)) if label is Label.REVENUE else 1.0,
    )
