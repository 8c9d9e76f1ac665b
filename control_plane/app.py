"""The control plane assembled: API, admin pages and, where settings ask for it, the scheduler."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from control_plane.admin import pages
from control_plane.api import (
    aliases,
    errors,
    events,
    freezes,
    health,
    history,
    metrics,
    quarantine,
    releases,
    rollouts,
    runtimes,
    served,
    splits,
    surfaces,
    verdicts,
    versions,
    webhooks,
)
from control_plane.api.body_limit import BodyLimit
from control_plane.api.deps import Parts
from control_plane.api.instruments import Instruments, Measured
from control_plane.api.memory import Memory
from control_plane.api.openapi import describe
from control_plane.api.split_feed import SplitFeed
from control_plane.clock import Clock
from control_plane.domain.errors import Unauthenticated
from control_plane.evidence.event_log import EventLog
from control_plane.providers.sources import make_sources
from control_plane.registry import principals
from control_plane.registry.session import Sessions, make_engine, upgrade
from control_plane.scheduler.metronome import make_metronome
from control_plane.settings import Settings
from control_plane.webhooks.courier import make_courier

NOUNS = (
    aliases,  # first, because routes are tried in turn, and none is asked for as often
    surfaces,
    served,
    splits,
    versions,
    rollouts,
    releases,
    verdicts,
    quarantine,
    freezes,
    events,
    runtimes,
    webhooks,
    history,
    health,
    metrics,
)


def create_app(settings: Settings, clock: Clock) -> FastAPI:
    """Connects to nothing yet: the lifespan brings the registry's schema up to date, then starts the scheduler."""
    with suppress(Unauthenticated):
        principals.authenticate(settings.tokens, "")  # malformed tokens are told now, not at the first request
    principals.groups_of(settings.groups, "")  # so are malformed groups
    make_sources(settings.metric_sources)  # and so are metric sources; the scheduler makes its own
    sessions = Sessions(make_engine(settings.registry_url))
    parts = Parts(
        settings=settings,
        clock=clock,
        sessions=sessions,
        event_log=EventLog(settings.log_dir),
        split_feed=SplitFeed(sessions, clock),
        instruments=Instruments(),
        memory=Memory(sessions.engine),
    )
    app = FastAPI(title="Surefoot", version=version("surefoot"), lifespan=_lifespan)
    app.state.parts = parts
    for noun in NOUNS:
        app.include_router(noun.router)
    app.include_router(pages.router)
    app.add_middleware(BodyLimit)
    app.add_middleware(Measured, instruments=parts.instruments)
    errors.install(app)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: Parts = app.state.parts
    await run_in_threadpool(upgrade, parts.sessions.engine)
    async with AsyncExitStack() as running:
        running.push_async_callback(run_in_threadpool, parts.sessions.engine.dispose)
        running.callback(parts.memory.close)
        await running.enter_async_context(parts.split_feed.polling())
        if parts.settings.runs_scheduler:
            metronome = make_metronome(parts.settings, parts.sessions, parts.clock)
            metronome.start()
            running.push_async_callback(run_in_threadpool, metronome.stop)
            courier = make_courier(parts.settings, parts.sessions, parts.instruments.count_webhook)
            courier.start()
            running.push_async_callback(run_in_threadpool, courier.stop)
        yield
