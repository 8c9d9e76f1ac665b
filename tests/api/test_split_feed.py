import asyncio
from pathlib import Path

from control_plane.api.split_feed import SplitFeed
from control_plane.domain.model_version import Surface, ViewType
from control_plane.registry import stables
from control_plane.registry.session import Sessions, make_engine, upgrade
from tests.builders import NOON

PATIENCE_SECONDS = 20.0


def test_a_stream_outlives_a_registry_that_is_away_when_it_begins(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    feed = SplitFeed(Sessions(engine), lambda: NOON)

    async def first_event() -> bytes:
        async with feed.polling():
            waiting = asyncio.ensure_future(anext(feed.events()))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            upgrade(engine)
            return await asyncio.wait_for(waiting, PATIENCE_SECONDS)

    event = asyncio.run(first_event())

    assert b'data: {"splits":[],' in event
    engine.dispose()


def test_followers_that_are_busy_skip_to_the_latest_and_never_see_an_older_one(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    upgrade(engine)
    sessions = Sessions(engine)
    feed = SplitFeed(sessions, lambda: NOON)

    def make(surface: str) -> None:
        with sessions.writing() as session:
            stables.create_surface(session, Surface(surface), [ViewType("grid")], by="ada", now=NOON)

    async def followed() -> tuple[bytes, bytes, bytes]:
        async with feed.polling():
            slow, fresh = feed.events(), feed.events()
            first = await anext(slow)
            make("home_feed")
            second = await anext(slow)
            make("search")
            latest = await anext(fresh)
            caught_up = await asyncio.wait_for(anext(slow), PATIENCE_SECONDS)
            await slow.aclose()
            await fresh.aclose()
            assert first != second
            return second, latest, caught_up

    second, latest, caught_up = asyncio.run(followed())

    assert caught_up == latest != second
    engine.dispose()
