"""Server-sent events: one whenever a generation, verdict or runtime changed; pages then fetch themselves anew."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from control_plane.api.deps import Parts, parts_of
from control_plane.clock import system_clock
from control_plane.registry import calendars, evidence, freezes, rollouts, runtimes, surfaces

router = APIRouter()

POLL_SECONDS = 1.0  # people do not see faster, and each poll reads the registry
KEEP_ALIVE_POLLS = 15  # proxies close streams that are silent for longer than half a minute
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get("/live")
async def live(request: Request) -> StreamingResponse:
    return StreamingResponse(_events(request), media_type="text/event-stream", headers=HEADERS)


async def _events(request: Request) -> AsyncIterator[str]:
    parts = parts_of(request)
    seen = ""
    polls = 0
    while not await request.is_disconnected():
        mark = await to_thread.run_sync(mark_of, parts)
        if mark != seen:
            yield f"event: {'changed' if seen else 'present'}\nid: {mark}\ndata: {mark}\n\n"
            seen = mark
        elif polls % KEEP_ALIVE_POLLS == 0:
            yield ": still here\n\n"
        polls += 1
        await asyncio.sleep(POLL_SECONDS)


def mark_of(parts: Parts) -> str:
    """Differs whenever what the pages show has changed, but for times that only grow older."""
    live_since = system_clock() - timedelta(seconds=parts.settings.runtime_silent_seconds)
    with parts.sessions.reading() as session:
        generations = [(state.surface, state.generation) for state in surfaces.list_surfaces(session)]
        active = rollouts.list_rollouts(session, active_only=True)
        looks = [evidence.latest(session, rollout.rollout_id) for rollout in active]
        alive = [
            (runtime.runtime_id, sorted(runtime.generations.items()), runtime.splits_mode)
            for runtime in runtimes.live(session, since=live_since)
        ]
        frozen = [
            (freeze.freeze_id, calendars.window_at(freeze, parts.clock()))
            for freeze in freezes.list_freezes(session, now=parts.clock(), open_only=True)
        ]
        quarantined = [found.digest for found in rollouts.list_quarantined(session)]
    begun = [rollout.acknowledged_at for rollout in active]
    verdicts = [None if look is None else look.verdict_id for look in looks]
    return hashlib.sha256(repr((generations, verdicts, begun, alive, frozen, quarantined)).encode()).hexdigest()[:16]
