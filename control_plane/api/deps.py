"""What routes ask for by type: sessions, the event log, the time, who is calling, which generation they saw.

Routes open their sessions themselves (`with sessions.reading() as session`, or `once(change)` of `idempotency`): a
session that a dependency opened would be held while the request waits for a worker thread, and forty waiting writers
would lock each other out. What is asked for here is `async` so that it costs no thread.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Header, Path, Query, Request

from control_plane.api.instruments import Instruments
from control_plane.api.memory import Memory
from control_plane.api.split_feed import SplitFeed
from control_plane.clock import Clock, system_clock
from control_plane.domain.errors import InvalidField
from control_plane.evidence.event_log import EventLog
from control_plane.registry import principals
from control_plane.registry.session import Sessions as RegistrySessions
from control_plane.settings import Settings as DeploymentSettings

OPERATOR_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .@_+-]{0,99}")
ANONYMOUS = "anonymous"
HEARTBEAT_THREADS = 1  # they write one after another anyway
EVENT_THREADS = 2  # each holds a batch of up to 64 MB several times over
MAX_ID = 2**31 - 1  # what the registry's integer columns hold
GENERATION_TAG = re.compile(r'(?:W/)?"(\d{1,9})"')


def _lane(threads: int) -> Callable[[], CapacityLimiter]:
    return lambda: CapacityLimiter(threads)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What `create_app` built and routes use; kept on `app.state.parts`.

    What comes in masses has lanes of its own, so that a roll back never queues behind it.
    """

    settings: DeploymentSettings
    clock: Clock
    sessions: RegistrySessions
    event_log: EventLog
    split_feed: SplitFeed
    instruments: Instruments
    memory: Memory
    heartbeat_lane: CapacityLimiter = field(default_factory=_lane(HEARTBEAT_THREADS))
    event_lane: CapacityLimiter = field(default_factory=_lane(EVENT_THREADS))


def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def _settings(request: Request) -> DeploymentSettings:
    return parts_of(request).settings


async def _sessions(request: Request) -> RegistrySessions:
    return parts_of(request).sessions


async def _split_feed(request: Request) -> SplitFeed:
    return parts_of(request).split_feed


async def _now(request: Request) -> datetime:
    return parts_of(request).clock()


async def _wall_now() -> datetime:
    return system_clock()


async def _live_since(request: Request) -> datetime:
    return system_clock() - timedelta(seconds=parts_of(request).settings.runtime_silent_seconds)


async def _operator(
    request: Request,
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
    x_surefoot_operator: Annotated[str | None, Header(description="who is acting, where no tokens are set")] = None,
) -> str:
    """A token's owner where tokens are set; else the name that the caller gives."""
    tokens = parts_of(request).settings.tokens
    if tokens:
        scheme, _, bearer = (authorization or "").partition(" ")
        return principals.authenticate(tokens, bearer.strip() if scheme.lower() == "bearer" else "")
    name = x_surefoot_operator or ANONYMOUS
    if not OPERATOR_PATTERN.fullmatch(name):
        raise InvalidField("X-Surefoot-Operator", "must be 1 to 100 letters, digits, spaces or any of . @ _ + -")
    return name


async def _groups(request: Request, operator: Annotated[str, Depends(_operator)]) -> frozenset[str]:
    return principals.groups_of(parts_of(request).settings.groups, operator)


async def _matched_generation(
    if_match: Annotated[str | None, Header(description='the generation last seen, as `"12"`')] = None,
) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    found = GENERATION_TAG.fullmatch(if_match.strip())
    if found is None:
        raise InvalidField("If-Match", f'must be a generation in quotes, like "12", not {if_match!r}')
    return int(found[1])


def seen_generation(matched: int | None, in_body: int | None) -> int | None:
    """The generation that the caller acts on, from the header or the body; two that differ are refused."""
    if matched is not None and in_body is not None and matched != in_body:
        raise InvalidField("seen_generation", f"is {in_body}, If-Match says {matched}")
    return matched if matched is not None else in_body


def generation_tag(generation: int) -> str:
    return f'"{generation}"'


Settings = Annotated[DeploymentSettings, Depends(_settings)]
Sessions = Annotated[RegistrySessions, Depends(_sessions)]
Feed = Annotated[SplitFeed, Depends(_split_feed)]
Now = Annotated[datetime, Depends(_now)]  # of the clock: event time in a replay
WallNow = Annotated[datetime, Depends(_wall_now)]
LiveSince = Annotated[datetime, Depends(_live_since)]  # wall time: a runtime last heard before it is gone
Operator = Annotated[str, Depends(_operator)]
Groups = Annotated[frozenset[str], Depends(_groups)]  # those that the operator belongs to
MatchedGeneration = Annotated[int | None, Depends(_matched_generation)]
Id = Annotated[int, Path(ge=1, le=MAX_ID)]
Limit = Annotated[int, Query(ge=1, le=1_000)]
