import asyncio
from pathlib import Path

from control_plane.api.split_feed import Snapshot, SplitFeed
from control_plane.domain.model_version import Surface, ViewType
from control_plane.registry import rollouts
from control_plane.registry.session import Sessions, make_engine, upgrade
from tests.builders import NOON

PATIENCE_SECONDS = 20.0


def test_a_stream_outlives_a_registry_that_is_away_when_it_begins(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    feed = SplitFeed(Sessions(engine), lambda: NOON)

    async def first_snapshot() -> Snapshot:
        async with feed.polling():
            waiting = asyncio.ensure_future(anext(feed.follow()))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            upgrade(engine)
            return await asyncio.wait_for(waiting, PATIENCE_SECONDS)

    snapshot = asyncio.run(first_snapshot())

    assert snapshot.splits == ()
    engine.dispose()


def test_followers_that_are_busy_skip_to_the_latest_and_never_see_an_older_one(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    upgrade(engine)
    sessions = Sessions(engine)
    feed = SplitFeed(sessions, lambda: NOON)

    def make(surface: str) -> None:
        with sessions.writing() as session:
            rollouts.create_surface(session, Surface(surface), [ViewType("grid")], by="ada", now=NOON)

    async def etags() -> tuple[str, str, str]:
        async with feed.polling():
            slow, fresh = feed.follow(), feed.follow()
            first = await anext(slow)
            make("home_feed")
            second = await anext(slow)
            make("search")
            latest = await anext(fresh)
            caught_up = await asyncio.wait_for(anext(slow), PATIENCE_SECONDS)
            await slow.aclose()
            await fresh.aclose()
            assert first.etag != second.etag
            return second.etag, latest.etag, caught_up.etag

    second, latest, caught_up = asyncio.run(etags())

    assert caught_up == latest != second
    engine.dispose()
